"""How a request ended, as the client's endpoint tells it."""

from store.errors import Status


class Completion:
    """The end of a request. With BUSY, `length` is the number of milliseconds after which to try again."""

    __slots__ = ("data", "length", "number", "object_size", "order", "status", "verifier", "version")

    def __init__(
        self, number: int, status: Status, order: int = 0, verifier: int = 0, version: int = 0, object_size: int = 0,
        data: bytes = b"", length: int = 0,
    ) -> None:
        self.number = number
        self.status = status
        self.order = order
        self.verifier = verifier
        self.version = version
        self.object_size = object_size
        self.data = data  # of LIST and REDIRECT
        self.length = length  # bytes read
