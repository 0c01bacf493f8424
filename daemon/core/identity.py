"""Who this device is (R1-R4, R31, R32): claims its incarnation before it speaks for any configuration."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from daemon.core.limits import Limits
from daemon.core.log import Broken
from daemon.core.outbox import Outbox, Then
from daemon.core.saved import DEVICE_KEY, DeviceFields
from store.control.arbiter import Register, Registered
from store.ids import DeviceId, Who


class Identity:
    """`who` is None while registering. The owner is told through `accepted` and `refused` what became of a claim."""

    __slots__ = (
        "_asked_at", "_claim", "_claimed", "_draw", "_fresh", "accepted", "device", "fields", "generation", "limits",
        "outbox", "promised", "refused", "who",
    )  # fmt: skip

    def __init__(
        self,
        device: DeviceId,
        fields: DeviceFields,
        outbox: Outbox,
        limits: Limits,
        draw: Callable[[], int],
    ) -> None:
        self.device = device
        self.fields = fields  # the newest handed to the disk
        self.outbox = outbox
        self.limits = limits
        self.who: Who | None = None
        self.promised = fields.generation  # recovery generation: no older configuration is adopted
        self.generation = 0  # recovery generation at the last registration
        self.accepted: Then = _nobody
        self.refused: Then = _nobody
        self._draw = draw
        self._claim = 0
        self._claimed = False  # the claim is on the disk
        self._fresh: int | None = None
        self._asked_at = float("-inf")

    def start(self, lossless: bool) -> None:
        """R1, R4: only a start that lost nothing, with no open claim, is the same who as before."""
        if self._resumes(lossless):
            self._is(Who(self.device, self.fields.history[-1]))
        else:
            self._make_claim(self.fields.history)

    def _resumes(self, lossless: bool) -> bool:
        history = self.fields.history
        return lossless and bool(history) and history[-1] == self.fields.accepted

    def _is(self, who: Who) -> None:
        self.who = who
        self.outbox.incarnation = who.incarnation

    def present(self) -> Who:
        if self.who is None:
            raise Broken("a device without an accepted incarnation acts")
        return self.who

    # ------------------------------------------------------------ registration
    def _make_claim(self, history: tuple[int, ...]) -> None:
        """R2: the claim is stable before it is sent."""
        self.who = None
        self.outbox.incarnation = 0
        claim = self._claim = self._draw()
        self._claimed = False
        self.save(lambda now: self._claim_saved(now, claim), history=(*history, claim)[-self.limits.history :])

    def _claim_saved(self, now: float, claim: int) -> None:
        if claim == self._claim:
            self._claimed = True
            self.register(now)

    def register(self, now: float) -> None:
        self._asked_at = now
        *history, incarnation = self.fields.history
        self.outbox.tell(Register(self.device, tuple(history), incarnation, self._fresh))

    def tick(self, now: float) -> None:
        if self.who is None and self._claimed and now - self._asked_at > self.limits.cas_retry:
            self.register(now)

    def registered(self, now: float, m: Registered, in_sync: bool) -> None:
        """The master's answer. `in_sync`: some group counts on this who, so a refusal is not believed (R32)."""
        if m.incarnation != (self.who.incarnation if self.who else self._claim):
            return  # the answer to an earlier start's question
        if m.accepted:
            self.generation = max(self.generation, m.generation)
            if self.who is None:
                self._is(Who(self.device, m.incarnation))
                self.save(_nobody, accepted=m.incarnation)
                self.accepted(now)
        elif not in_sync and self._fresh != m.known:
            self._fresh = m.known
            self._make_claim(())  # another who: the old one may be named in sync somewhere
            self.refused(now)

    def promise(self, generation: int, then: Then) -> None:
        """R31: refuse older recovery generations for ever."""
        self.promised = generation
        self.save(then, generation=generation)

    def save(self, then: Then, **changes: object) -> None:
        self.fields = msgspec.structs.replace(self.fields, **changes)
        self.outbox.save(DEVICE_KEY, self.fields, then)


def _nobody(now: float) -> None:
    """Nobody waits."""
