"""One socket for the small operations of all threads: who can, works for all.

Many threads on sockets of their own would mean a system call and a wake-up per datagram, on both sides. Here a thread
puts its operation into a common inbox. Whoever gets the exchange submits all that is in the inbox and sends it in one
go; whoever leads receives for everybody and wakes those whose operations have ended. A lone thread does both itself,
so depth 1 pays nothing for it.

    inbox    operations to be submitted. After putting one in, and after giving the exchange free, one tries to take
             the exchange and empty the inbox: so nothing is left behind.
    leading  held by the one thread that receives. When its own operation has ended it hands the lead to a thread that
             waits; if none does it lets go and looks once more, for who came in between.
"""

import socket
import threading
from collections import deque
from typing import Final

from store.client.connection import Attend, clock, set_receive_timeout
from store.client.exchange import Exchange
from store.client.operation import Operation
from store.client.sockets import Sender
from store.limits import CLIENT_TICK_S
from store.udp import SUPER_BUFFER

_DRAIN_MAX: Final = 16  # buffers taken in one go before those that have ended are woken


class SharedConnection:
    """Any number of threads may call `perform` at a time."""

    def __init__(self, sock: socket.socket, exchange: Exchange, attend: Attend) -> None:
        self._sock, self._exchange, self._attend = sock, exchange, attend
        set_receive_timeout(sock)
        self._send = Sender(sock).send
        self._buffer = bytearray(SUPER_BUFFER)
        self._view = memoryview(self._buffer)
        self._epoch = attend()
        self._inbox: deque[Operation] = deque()
        self._working = threading.Lock()  # of the exchange
        self._leading = threading.Lock()
        self._leader: Operation | None = None
        self._tick_at = 0.0
        self._gates: dict[Operation, threading.Lock] = {}  # of threads that wait or lead; opened once each

    def close(self) -> None:
        self._sock.close()

    def perform(self, operation: Operation) -> None:
        """Returns when the operation has its status, by its `until` at the latest."""
        gate = threading.Lock()
        gate.acquire()
        self._gates[operation] = gate
        self._inbox.append(operation)
        try:
            self._submit_inbox()
            if self._leading.acquire(blocking=False):
                self._leader = operation
            else:
                gate.acquire()  # opened when it has ended, or when it is to lead
            if self._leader is operation:
                self._lead(operation)
        except BaseException:
            with self._working:
                self._exchange.cancel(operation)
            raise
        finally:
            self._gates.pop(operation, None)
            if self._leader is operation:
                self._hand_over()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _submit_inbox(self) -> None:
        """Unless somebody else has the exchange: then they see what is in the inbox when they give it free."""
        while self._inbox and self._working.acquire(blocking=False):
            try:
                self._empty_inbox(clock())
            finally:
                self._working.release()

    def _empty_inbox(self, now: float) -> None:
        """With the exchange."""
        inbox, exchange = self._inbox, self._exchange
        while inbox:
            exchange.submit(now, inbox.popleft())
        for view, segment, address in exchange.transmit(now):
            self._send(view, segment, address)

    def _lead(self, operation: Operation) -> None:
        """Receives for all until its own operation has ended."""
        while operation.status < 0:
            try:
                size = self._sock.recv_into(self._buffer)
            except (BlockingIOError, ConnectionRefusedError, InterruptedError):
                size = 0
            with self._working:
                self._take_in(size)
            self._submit_inbox()

    def _take_in(self, size: int) -> None:
        """With the exchange: what was received and what else there is; wakes those whose operations have ended."""
        exchange, now = self._exchange, clock()
        if size:
            exchange.receive(now, self._view[:size])
            self._drain()
        if now >= self._tick_at:
            self._tick_at = now + CLIENT_TICK_S
            epoch = self._attend()
            if epoch != self._epoch:
                self._epoch = epoch
                exchange.renew()
            exchange.tick(now)
        gates = self._gates
        for ended in exchange.finished(now):
            if ended is not self._leader:
                gate = gates.pop(ended, None)
                if gate is not None:
                    gate.release()
        self._empty_inbox(now)

    def _drain(self) -> None:
        receive, exchange = self._sock.recv_into, self._exchange
        for _ in range(_DRAIN_MAX):
            if len(self._gates) <= 1:  # nobody else waits for anything
                return
            try:
                size = receive(self._buffer, 0, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionRefusedError, InterruptedError):
                return
            exchange.receive(clock(), self._view[:size])

    def _hand_over(self) -> None:
        """The lead goes to the thread that has waited longest; to nobody if none waits."""
        self._leader = None
        while True:
            for waiting, gate in list(self._gates.items()):
                self._leader = waiting
                del self._gates[waiting]
                gate.release()
                return
            self._leading.release()
            if not self._gates or not self._leading.acquire(blocking=False):
                return
