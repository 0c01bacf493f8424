"""What a finished operation means to a program: nothing, or one line that says what is wrong."""

import errno
from typing import Final

from store.client.operation import Operation
from store.errors import Status, StoreError
from store.limits import OBJECT_MAX

_FORGOTTEN: Final = "the cluster forgot this session; whether it took effect is unknown: look, then try again"
_MEANINGS: Final[dict[int, str]] = {
    Status.NOT_FOUND: "no such object",
    Status.EXISTS: "there is an object of that name",
    Status.DENIED: "this client's capabilities do not allow it",
    Status.EXPIRED: "the ticket has expired and the master does not give another: is it running?",
    Status.FENCED: "another client has taken the image over",
    Status.STALE: _FORGOTTEN,
    Status.NO_SESSION: _FORGOTTEN,
    Status.BUSY: "the cluster is too busy: try again later",
    Status.CONFLICT: "the object was changed meanwhile: read it again",
    Status.NO_SPACE: "a disk that must hold it is full: free some space, or add a device",
    Status.TOO_LARGE: f"an object ends at {OBJECT_MAX} bytes",
    Status.INVALID: "the request contradicts itself",
    Status.DAMAGED: "its bytes fail their checksum, and no good copy answered",
    Status.UNKNOWN_GROUP: "its devices do not know it yet: try again",
    Status.UNSUPPORTED: "the daemon is too old for this",
    Status.TIMEOUT: "no answer in time",
    Status.UNAVAILABLE: "no device that may serve it can be reached: see `store status`",
}
_ERRNO: Final[dict[int, int]] = {
    Status.NO_SPACE: errno.ENOSPC,
    Status.DENIED: errno.EPERM,
    Status.FENCED: errno.EROFS,
    Status.UNSUPPORTED: errno.EOPNOTSUPP,
    Status.TOO_LARGE: errno.EINVAL,
    Status.INVALID: errno.EINVAL,
}


def failure(operation: Operation, what: str) -> StoreError:
    """The exception for an operation that did not end with OK; `what` was asked, for example "write pool/object"."""
    status = Status(operation.status)
    meaning = _MEANINGS.get(status, status.name.lower())
    if operation.outcome_unknown and status == Status.TIMEOUT:
        meaning += "; whether it took effect is unknown: look, then try again"
    return StoreError(status, f"{what}: {meaning}")


def require_ok(operation: Operation, what: str) -> None:
    """Raises StoreError unless the operation ended with OK."""
    if operation.status != Status.OK:
        raise failure(operation, what)


def block_error(operation: Operation, what: str) -> OSError:
    """The same for users of block devices, who understand errno: EIO unless there is a better one."""
    status = Status(operation.status)
    meaning = _MEANINGS.get(status, status.name.lower())
    return OSError(_ERRNO.get(status, errno.EIO), f"{what}: {meaning}")
