"""What servers and processes of a stack have in common: each is one child, which is stopped, killed and waited for."""

from __future__ import annotations

from dalang.stack.errors import StackError
from dalang.stack.processes import Child


class ChildPart:
    """A part of a stack that is one child process; ``_child`` is set by whoever starts it."""

    name: str
    title: str
    """What people call it."""
    stop_seconds: float
    """How long it may take to end in order."""
    _child: Child | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        """The pid of the process while it runs."""
        return None if self._child is None else self._child.pid

    async def stop(self) -> None:
        """End it in order; the next start finds everything again."""
        if self._child is not None:
            await self._child.stop(seconds=self.stop_seconds)

    async def kill(self) -> None:
        """End it as a crash would."""
        if self._child is not None:
            await self._child.kill()

    async def wait(self) -> str:
        """Wait until it ends by itself and return what happened."""
        if self._child is None:
            raise StackError(f"{self.title} has not been started")
        await self._child.wait()
        return self._child.failure()
