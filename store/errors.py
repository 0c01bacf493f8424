"""Outcomes of requests: one `Status` for the wire, one exception for programs."""

from enum import IntEnum


class Status(IntEnum):
    """What became of a request. The numbers are part of the wire format: never reuse one."""

    OK = 0
    NOT_FOUND = 1  # no such object
    EXISTS = 2  # create-only write of an object that is there
    DENIED = 3  # the ticket does not allow this
    EXPIRED = 4  # the ticket is too old, or of a key epoch the daemon no longer has
    FENCED = 5  # a newer lock generation owns the image
    STALE = 6  # the sequence lies below the session's floor: it took no effect and never will
    NO_SESSION = 7  # the duplicate table no longer knows this session: take a new serial
    REDIRECT = 8  # not the primary; the answer names who is
    BUSY = 9  # try again after a while; nothing was done
    CONFLICT = 10  # the object is no longer of the version asked for
    NO_SPACE = 11  # the device is full
    TOO_LARGE = 12  # beyond 4 MiB
    INVALID = 13  # malformed, or contradicts itself
    DAMAGED = 14  # the bytes are there and wrong, and no good copy answered
    UNKNOWN_GROUP = 15  # this device never heard of the group
    UNSUPPORTED = 16  # an operation this daemon does not have
    TIMEOUT = 17  # client side only: no answer within the deadline; the outcome is unknown
    UNAVAILABLE = 18  # client side only: the cluster cannot be reached or cannot serve this now


class StoreError(Exception):
    """A request ended with a status other than OK. `str()` is one line that a person can act on."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(Exception):
    """Something given by a person (file, option, directory) cannot be used; `str()` says what to do."""
