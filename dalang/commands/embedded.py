"""A stack in a thread with a loop of its own, so that the main thread, where Ctrl-C arrives, is free for a command."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dalang.settings import Settings
    from dalang.stack.supervisor import Stack

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Embedded:
    """A stack; started and stopped from the main thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._stacks: list[Stack] = []
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="dalang-demo-stack")

    def start(self) -> Settings:
        """Start it and return its settings; raises what went wrong."""
        with _undisturbed():
            self._thread.start()
        while not self._ready.wait(0.2):
            pass
        if self._failure is not None:
            raise self._failure
        return self._stacks[0].settings

    def stop(self) -> None:
        """Stop it; another Ctrl-C ends it at once."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        while self._thread.is_alive():
            try:
                self._thread.join(0.5)
            except KeyboardInterrupt:
                if self._stacks:
                    asyncio.run_coroutine_threadsafe(self._stacks[0].kill_all(), self._loop)

    def _main(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)  # processes that are started here inherit what is blocked
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()
            # What a cancelled start left to a thread may still make files in a folder that is about to be removed.
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _run(self) -> None:
        from dalang.stack.supervisor import stack

        # What a crash of the machine would lose goes with the folder anyway.
        starting = asyncio.create_task(
            self._serve(stack(self._settings, durable=False, supervised=True, into=self._stacks))
        )
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting

    async def _serve(self, made: contextlib.AbstractAsyncContextManager[Stack]) -> None:
        async with made:
            self._ready.set()
            await asyncio.Event().wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put signals off until the end of the block: a thread that is half started can be neither stopped nor awaited."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
