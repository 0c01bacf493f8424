"""Records in memory whose every change is also staged for the store. What is loaded is what a former master staged."""

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Changes(Protocol):
    """Takes changes; they become durable together, before anybody is told."""

    def put(self, key: str, value: bytes) -> None: ...
    def delete(self, key: str) -> None: ...


class Table(Generic[T]):
    """Records of one type under one prefix, in order of insertion; to change one, put another in its place."""

    def __init__(self, changes: Changes, prefix: str, record: type[T]) -> None:
        self._changes, self.prefix = changes, prefix
        self._decoder = msgspec.msgpack.Decoder(record)
        self._encoder = msgspec.msgpack.Encoder()
        self._records: dict[str, T] = {}

    def load(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Items of the store, keys with the prefix; others are ignored. Raises msgspec.DecodeError."""
        start = len(self.prefix)
        for key, value in items:
            if key.startswith(self.prefix):
                self._records[key[start:]] = self._decoder.decode(value)

    def get(self, key: str) -> T | None:
        return self._records.get(key)

    def put(self, key: str, record: T) -> None:
        self._records[key] = record
        self._changes.put(self.prefix + key, self._encoder.encode(record))

    def delete(self, key: str) -> None:
        if self._records.pop(key, None) is not None:
            self._changes.delete(self.prefix + key)

    def values(self) -> list[T]:
        return list(self._records.values())

    def items(self) -> list[tuple[str, T]]:
        return list(self._records.items())

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[T]:
        return iter(self.values())


class Cell(Generic[T]):
    """A single record."""

    def __init__(self, changes: Changes, key: str, initial: T) -> None:
        self._changes, self.key = changes, key
        self._type = type(initial)
        self.value = initial

    def load(self, items: Iterable[tuple[str, bytes]]) -> None:
        for key, value in items:
            if key == self.key:
                self.value = msgspec.msgpack.decode(value, type=self._type)

    def set(self, value: T) -> None:
        self.value = value
        self._changes.put(self.key, msgspec.msgpack.encode(value))
