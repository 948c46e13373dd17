"""The one exception of the embedded stack."""

from dalang.errors import DalangError


class StackError(DalangError):
    """A part of the stack cannot be started or kept running; the text says which, why and what to do."""
