"""The one exception of the package."""

import enum


class Status(enum.IntEnum):
    """What kind of error it is: the numbers of rankforge_status."""

    FAILED = 1
    """Bad data (a damaged file, weights that are not finite) or failed I/O."""
    ARGUMENT = 2
    """An argument is impossible: out of range, a shape that does not match."""
    ENVIRONMENT = 3
    """This machine cannot do it."""
    MEMORY = 4
    HANDLE = 5
    UNSUPPORTED = 6
    """Possible, but not here: the message says what to do instead."""
    INTERNAL = 7
    """A fault of the library; please report it with the message."""


class Error(Exception):
    """What the library refused, and why.

    Attributes:
        status: the kind of error.
        message: which argument, its value, and what to do.
    """

    status: Status
    message: str

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = Status(status)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Notice(UserWarning):
    """Something of a file or a variable that is not honoured; results hold."""
