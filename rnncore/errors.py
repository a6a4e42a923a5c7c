"""Every error rnncore raises on purpose.

    RnncoreError
    ├── FormatError         a file is damaged, malicious or not of the format it claims (also a ValueError)
    │   └── MissingFileError    there is no file of that name (also a FileNotFoundError)
    ├── UnsupportedError    the file or option is understood, but rnncore does not implement it
    │   └── MissingPackageError     what was asked for needs a package that is not installed (also an ImportError)
    ├── SpecError           a Spec contradicts itself or has an unknown key (also a ValueError)
    ├── WeightError         a weight is missing, unexpected or of the wrong shape (also a ValueError)
    ├── InputError          an argument of a call: rank, size, dtype, lengths, mask (also a ValueError)
    │   └── StateError      a recurrent state that does not belong to this model or batch
    ├── StreamError         a stream that is closed, finished, unknown, in use by another thread, or one too many
    ├── VerificationError   the outputs differ from the reference by more than the tolerance
    └── EngineError         an Engine did not answer a request
        ├── QueueFullError      its queue holds as many as it may: come back later
        ├── DeadlineError       the request's deadline passed before its work began (also a TimeoutError)
        └── EngineClosedError   the engine was shut down

A message says where, what was found and what was expected, in this form:
``lstm.weight_hh_l0: shape (1024, 255), expected (1024, 256)``.
"""

import errno
import reprlib
from collections.abc import Iterable
from itertools import islice

__all__ = [
    "DeadlineError",
    "EngineClosedError",
    "EngineError",
    "FormatError",
    "InputError",
    "MissingFileError",
    "MissingPackageError",
    "QueueFullError",
    "RnncoreError",
    "SpecError",
    "StateError",
    "StreamError",
    "UnsupportedError",
    "VerificationError",
    "WeightError",
    "close_names",
    "shown",
]

MOST_COMPARED = 1000
LONGEST_COMPARED = 80
"""A message compares a name with a limited number of others of limited length: work grows with the square of both."""


class RnncoreError(Exception):
    """Base of every error that rnncore raises on purpose."""


class FormatError(RnncoreError, ValueError):
    """A file is damaged, malicious or not of the format it claims to be."""


class MissingFileError(FormatError, FileNotFoundError):
    """There is no file of that name."""

    def __init__(self, message: str, filename: str | None = None):
        super().__init__(message)
        self.errno, self.filename = errno.ENOENT, filename

    __str__ = RnncoreError.__str__  # OSError's would be made of errno and filename


class UnsupportedError(RnncoreError):
    """Understood, but not implemented: the message names what, and what would be accepted."""


class MissingPackageError(UnsupportedError, ImportError):
    """A package that is needed is not installed: the message says how to install it."""


class SpecError(RnncoreError, ValueError):
    """A Spec contradicts itself, or has a key or an option that does not exist."""


class WeightError(RnncoreError, ValueError):
    """A weight is missing, unexpected, or its shape contradicts the Spec."""


class InputError(RnncoreError, ValueError):
    """An argument of a call has the wrong rank, size, dtype or content."""


class StateError(InputError):
    """A recurrent state does not belong to this model or to this batch."""


class StreamError(RnncoreError):
    """A stream is closed, finished, unknown or in use by another thread, or a pool is full."""


class VerificationError(RnncoreError):
    """Outputs differ from the reference by more than the tolerance."""


class EngineError(RnncoreError):
    """An Engine did not answer a request."""


class QueueFullError(EngineError):
    """An Engine's queue holds as many requests as it may."""


class DeadlineError(EngineError, TimeoutError):
    """A request's deadline passed before its work began."""


class EngineClosedError(EngineError):
    """An Engine was shut down, and takes or finishes no more requests."""


def close_names(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Up to ``count`` of the first known names that are spelt nearly like this one: hints for a message."""
    import difflib  # only for errors

    if len(name) > LONGEST_COMPARED:
        return []
    some = [other for other in islice(known, MOST_COMPARED) if len(other) <= LONGEST_COMPARED]
    return difflib.get_close_matches(name, some, n=count, cutoff=cutoff)


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 16
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120


def shown(value: object) -> str:
    """A value as a message may show it: its repr, but short, in one line, and without fail.

    The repr itself may be as long as the file it comes from, and an integer of more than 4,300 digits has none.
    """
    if type(value) is int and value.bit_length() > 8000:
        return f"an integer of {value.bit_length()} bits"
    try:
        return _SHORT.repr(value)
    except Exception:  # of a class of the caller's, or of an integer inside
        return f"a {type(value).__name__}"
