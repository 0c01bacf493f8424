"""One blocking socket and its exchange: what a thread of a blocking client holds while it performs operations."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final

from store.client.exchange import Exchange
from store.client.operation import Operation
from store.client.sockets import Sender
from store.limits import CLIENT_BATCH, CLIENT_TICK_S, KIB
from store.udp import SUPER_BUFFER

_LONE_MAX: Final = 60 * KIB  # operations up to here end with the first thing received, nearly always
_DRAIN_MAX: Final = 32  # buffers taken in one go before what they ask for is sent
_TIMEVAL: Final = struct.Struct("ll")

Attend = Callable[[], int]  # called while operations wait: serves what the router wants, returns the standing's epoch


def clock() -> float:
    """Seconds on CLOCK_BOOTTIME, the clock of all deadlines here."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def set_receive_timeout(sock: socket.socket) -> None:
    """Blocking receives end with BlockingIOError after CLIENT_TICK_S. A kernel timer: no extra call per receive."""
    seconds, rest = divmod(CLIENT_TICK_S, 1.0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(int(seconds), int(rest * 1e6)))


class Connection:
    """Used by one thread at a time."""

    __slots__ = ("_buffer", "_exchange", "_poll", "_send", "_sock", "_view", "epoch")

    def __init__(self, sock: socket.socket, exchange: Exchange, epoch: int) -> None:
        self.epoch = epoch  # of the standing its sessions were opened under
        self._sock, self._exchange = sock, exchange
        self._send = Sender(sock).send
        self._buffer = bytearray(SUPER_BUFFER)
        self._view = memoryview(self._buffer)
        set_receive_timeout(sock)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def renew(self, epoch: int) -> None:
        """Map or ticket have changed: open new sessions from now on."""
        self.epoch = epoch
        self._exchange.renew()

    def close(self) -> None:
        self._sock.close()

    def perform(self, operation: Operation, attend: Attend) -> None:
        """Returns when the operation has its status, by its `until` at the latest."""
        exchange, now = self._exchange, clock()
        lone = len(operation.payload) + len(operation.into) <= _LONE_MAX
        exchange.submit(now, operation)
        while operation.status < 0:
            for view, segment, address in exchange.transmit(now):
                self._send(view, segment, address)
            if operation.attempts > 1 or operation.not_before > now:
                self._attend(attend)
            now = self._receive_one() if lone else self._receive_all(now)
            exchange.finished(now)

    def perform_all(self, operations: Iterable[Operation], attend: Attend) -> None:
        """Returns when all have their status; CLIENT_BATCH of them are under way at a time."""
        exchange, now = self._exchange, clock()
        pending, under_way = iter(operations), 0
        while True:
            for operation in pending:
                exchange.submit(now, operation)
                under_way += 1
                if under_way >= CLIENT_BATCH:
                    break
            under_way -= len(exchange.finished(now))
            if under_way == 0:
                return
            for view, segment, address in exchange.transmit(now):
                self._send(view, segment, address)
            self._attend(attend)
            now = self._receive_all(now)

    def abandon(self, operations: Iterable[Operation]) -> None:
        """After an exception: nothing of these may write into anybody's buffers any more."""
        for operation in operations:
            if operation.status < 0:
                self._exchange.cancel(operation)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _attend(self, attend: Attend) -> None:
        epoch = attend()
        if epoch != self.epoch:
            self.renew(epoch)

    def _receive_one(self) -> float:
        """Waits for one buffer, CLIENT_TICK_S at most. Returns the time after that."""
        try:
            size = self._sock.recv_into(self._buffer)
        except (BlockingIOError, ConnectionRefusedError, InterruptedError):
            now = clock()
            self._exchange.tick(now)
            return now
        now = clock()
        self._exchange.receive(now, self._view[:size])
        return now

    def _receive_all(self, now: float) -> float:
        """Waits until something comes or is due, then takes what there is."""
        exchange, sock = self._exchange, self._sock
        due = exchange.deadline()
        wait = CLIENT_TICK_S if due is None else min(max(due - now, 0.0), CLIENT_TICK_S)
        if wait >= 0.001 and not self._poll.poll(wait * 1000):
            now = clock()
            exchange.tick(now)
            return now
        received = 0
        while received < _DRAIN_MAX:
            try:
                size = sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionRefusedError, InterruptedError):
                break
            exchange.receive(clock(), self._view[:size])
            received += 1
        now = clock()
        exchange.tick(now)
        return now
