"""Whose fault it is.

Two families and nothing else: a `WireError` says that the other side broke its own format, a `UsageError` says
that the caller misused this library. `StreamfoldError` is never raised bare.
"""

__all__ = ["StreamfoldError", "UsageError", "WireError"]


class StreamfoldError(Exception):
    """The parent of every error that this library raises on purpose."""

    def __init__(self, message: str) -> None:
        if type(self) is StreamfoldError:
            raise TypeError("raise WireError or UsageError: the reader must know whose fault it is")
        super().__init__(message)


class WireError(StreamfoldError):
    """The provider (or whatever stands between) sent what its format does not allow.

    Raised only where the caller asked for it with `strict=True`; otherwise the same thing is counted in `Integrity`.
    """


class UsageError(StreamfoldError):
    """The caller asked for something that cannot be: an unknown format, a configuration key that does not exist."""
