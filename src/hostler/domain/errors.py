"""What can go wrong, split by what the caller can do about it.

Fix the request, come back later, stop, or report a bug. HTTP statuses exist only in `hostler.api`.
"""

from __future__ import annotations

from typing import Any


class HostlerError(Exception):
    """Base of every error that a caller is meant to see. `message` says what to do; it never holds secrets."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        """Machine-readable detail of the wire (`details.error_code`), when the wire has one."""


class InvalidRequest(HostlerError):
    """The request is wrong as it stands. Sending it again changes nothing."""


class Unauthenticated(HostlerError):
    """No credential, or one that nobody knows."""


class PermissionDenied(HostlerError):
    """The credential is known and may not do this."""


class NotFound(HostlerError):
    """No such thing, or it belongs to somebody else: the two are not told apart."""


class Conflict(HostlerError):
    """Somebody else changed or took it first. Read again, then decide. Not worth an automatic retry."""


class MemoryPathTaken(Conflict):
    """A memory lies at that path already, or where a folder of that path would have to be, or below it."""

    def __init__(self, message: str, *, memory_id: str, path: str) -> None:
        super().__init__(message)
        self.memory_id = memory_id
        self.path = path
        """Id and path of the memory that is in the way."""


class MemoryChanged(Conflict):
    """A memory doesn't hold the content that the request said it must hold."""


class NotSupported(HostlerError):
    """Part of the contract, not built here. Never accepted and ignored."""


class HeartbeatRefused(HostlerError):
    """A worker of a self-hosted environment has lost its work item. `current_state` is the lease as it is."""

    def __init__(self, message: str, current_state: dict[str, Any]) -> None:
        super().__init__(message, code="heartbeat_precondition_failed")
        self.current_state = current_state


class TooLarge(HostlerError):
    """The request is larger than this server takes."""


class Busy(HostlerError):
    """Right request, wrong moment: the same request can succeed later."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class StoreBusy(Busy):
    """The database is away, locked or full: nothing that was asked of it is at fault."""


class TooManyRequests(Busy):
    """The sender has asked more often than it may: it has to wait, whoever else is served."""


class QuotaExceeded(HostlerError):
    """The workspace has all that it may have. Waiting a moment changes nothing: free something, or ask for more."""


class LeaseLost(HostlerError):
    """This worker no longer owns the session: stop its sandbox, write nothing more."""


class SecretUnreadable(HostlerError):
    """A stored secret can't be opened: its key is missing, or it was changed or moved. Never a wrong secret instead."""


class StoreDamaged(HostlerError):
    """The store holds what it must not hold. A bug or a broken disk: stop and report."""
