"""The blocking client: many threads, no event loop between them and the network.

Small operations of all threads share one socket (shared.py). For a large one, or many at once, a thread takes a
connection (a socket with its sessions) from a stack, performs them with it and puts it back.
Crossing into an event loop instead would cost about 40 microseconds an operation. The control plane (map, tickets,
locks) lives in a loop in one background thread; nothing waits for it but the opening of images.
"""

import contextlib
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from store.addresses import Address
from store.client.access import MasterAccess, Standing
from store.client.config import ClientConfig
from store.client.connection import Connection, clock
from store.client.exchange import Exchange
from store.client.link_thread import LinkThread
from store.client.names import DirectNamespace, MasterNamespace, Namespace
from store.client.operation import Operation
from store.client.routing import Router
from store.client.sessions import SessionOpener, resolved
from store.client.shared import SharedConnection
from store.client.sockets import open_socket
from store.errors import Status, StoreError
from store.limits import CLIENT_CONNECTIONS_MAX, CLIENT_GIVES_UP_S, CONTROL_CALL_S, KIB
from store.udp import family_of

A = TypeVar("A", bound=msgspec.Struct)

SHARED_MAX: Final = 16 * KIB  # bytes of an operation that goes by the shared socket


class BlockingClient:
    """A client for threads. Make it with `connect` or `connect_direct`, after any fork; end it with `close`."""

    def __init__(self, link: LinkThread, namespace: Namespace, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.link = link
        self.namespace = namespace
        standing = self._standing
        self._router = Router(standing.storage_map, standing.credentials.serial)
        self._guard = threading.Lock()  # of the router
        self._epoch = 0  # rises with every change of the standing
        self._shared: SharedConnection | None = None  # for small operations
        self._idle: list[Connection] = []  # for large ones, and many at once
        self._opened = 0
        self._returned = threading.Condition()  # of `_opened`, and of waiting for an idle connection
        self._waiting = 0
        devices = standing.storage_map.devices
        self._family = family_of(resolved(devices[0].address)) if devices else socket.AF_INET
        standing.changed = self._standing_changed

    @classmethod
    def connect(cls, config: ClientConfig, timeout_s: float = CLIENT_GIVES_UP_S, program: str = "client") -> Self:
        """Connects by way of the master. Raises StoreError (UNAVAILABLE, DENIED) and ConfigError."""
        link = LinkThread.with_master(config, program)
        return cls(link, MasterNamespace(link.access.standing), timeout_s)

    @classmethod
    def connect_direct(cls, address: Address, timeout_s: float = CLIENT_GIVES_UP_S) -> Self:
        """Connects to a daemon without a master, on this machine. Raises ConfigError."""
        link = LinkThread.direct(address)
        return cls(link, DirectNamespace(link.access.standing), timeout_s)

    def close(self) -> None:
        """Call it when no thread performs anything any more."""
        self.link.close()
        while self._idle:
            self._idle.pop().close()
        if self._shared is not None:
            self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, message: msgspec.Struct, answer: type[A], deadline_s: float = CONTROL_CALL_S) -> A:
        """A call to the master. Raises StoreError; UNSUPPORTED without a master."""
        access = self.link.access
        if not isinstance(access, MasterAccess):
            raise StoreError(Status.UNSUPPORTED, "there is no master here: this needs a cluster")
        return self.link.run(access.call(message, answer, deadline_s))

    def gauges(self) -> tuple[tuple[str, str, float], ...]:
        """(name, help, value), for metrics."""
        return (
            ("connections", "Sockets of the client.", float(self._opened)),
            ("connections_idle", "Of them, those that no thread uses.", float(len(self._idle))),
            ("map_epoch", "Of the storage map in use.", float(self._standing.storage_map.epoch)),
        )

    # --- operations --------------------------------------------------------------------------------------------------

    def until(self) -> float:
        """When an operation that begins now is given up."""
        return clock() + self.timeout_s

    def perform(self, operation: Operation) -> None:
        """Returns when the operation has its status, whatever that is; its `until` bounds the wait."""
        if len(operation.payload) + len(operation.into) <= SHARED_MAX:
            self._shared_connection().perform(operation)
            return
        connection = self._take()
        try:
            connection.perform(operation, self._attend)
        except BaseException:
            connection.abandon((operation,))
            raise
        finally:
            self._put_back(connection)

    def perform_all(self, operations: Sequence[Operation]) -> None:
        """The same for many, so many at a time that none waits in a queue of the cluster."""
        connection = self._take()
        try:
            connection.perform_all(operations, self._attend)
        except BaseException:
            connection.abandon(operations)
            raise
        finally:
            self._put_back(connection)

    def _shared_connection(self) -> SharedConnection:
        shared = self._shared
        if shared is None:
            with self._returned:
                shared = self._shared
                if shared is None:
                    shared = self._shared = SharedConnection(open_socket(self._family), self._exchange(), self._attend)
        return shared

    # --- connections -------------------------------------------------------------------------------------------------

    @property
    def _standing(self) -> Standing:
        return self.link.access.standing

    def _take(self) -> Connection:
        """The connection used last, whose sessions are warm. Lists are safe to pop from many threads."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._another()
        if connection.epoch != self._epoch:
            connection.renew(self._epoch)
        return connection

    def _put_back(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._waiting:
            with self._returned:
                self._returned.notify()

    def _another(self) -> Connection:
        """A new connection, or, with CLIENT_CONNECTIONS_MAX of them in use, the first that is put back."""
        with self._returned:
            if self._opened >= CLIENT_CONNECTIONS_MAX:
                self._waiting += 1
                try:
                    while True:
                        with contextlib.suppress(IndexError):  # somebody who need not wait may be faster
                            return self._idle.pop()
                        self._returned.wait()
                finally:
                    self._waiting -= 1
            self._opened += 1
        return Connection(open_socket(self._family), self._exchange(), self._epoch)

    def _exchange(self) -> Exchange:
        return Exchange(self._router, SessionOpener(self._standing), self._guard)

    # --- control plane -----------------------------------------------------------------------------------------------

    def _attend(self) -> int:
        """Passes on what the router wants of the master. Returns the epoch of the standing."""
        router = self._router
        if router.wants:
            with self._guard:
                wants, router.wants = router.wants, set()
            self.link.want(wants)
        return self._epoch

    def _standing_changed(self) -> None:
        """In the control thread."""
        standing = self._standing
        with self._guard:
            self._router.adopt(standing.storage_map)
            self._router.reopen(standing.credentials.serial)
        self._epoch += 1
