"""Taking over a group none of whose in-sync whos exists any more (R29, R30)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.messages import ReviveAsk, ReviveTell
from daemon.core.proposal import REVIVE
from store.ids import DeviceId

if TYPE_CHECKING:
    from daemon.core.group import Group
    from daemon.core.learner import Learner

Head = tuple[int, int, DeviceId]  # epoch, n, device: the higher revives


class Revival:
    """What a learner whose device was in sync collects. Rounds are repeated until one is conclusive."""

    __slots__ = ("_asked_at", "_learner", "_tells")

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._tells: dict[DeviceId, ReviveTell] = {}
        self._asked_at = float("-inf")

    def possible(self) -> bool:
        """My device was in sync, my incarnation is not: the journal lost a tail, at most of unstable records."""
        group = self._learner.group
        me, history = group.identity.present(), group.identity.fields.history
        in_sync = group.adopted_config().in_sync
        return group.whole and any(who.device == me.device and who.incarnation in history for who in in_sync)

    def tick(self, now: float) -> None:
        group = self._learner.group
        if group.proposal or not self.possible() or now - self._asked_at < group.limits.cas_retry:
            return
        alone = len(group.adopted_config().in_sync) == 1
        if now - max(group.started, group.heard) > (0.0 if alone else group.limits.revive_wait):
            self._asked_at = now
            self._round(now)

    def told(self, m: ReviveTell) -> None:
        if m.order == self._learner.group.order:
            self._tells[m.who.device] = m

    def _round(self, now: float) -> None:
        """Ask every other in-sync device that is still a member; judge what the last round brought."""
        group = self._learner.group
        config = group.adopted_config()
        who = group.identity.present()
        others = [d for d in config.devices() if d != who.device and d in config.members]
        for device in others:
            group.outbox.send(device, ReviveAsk(group.id, who, group.order))
        if self._best(others):
            group.promise(config.epoch + 1, self._promised)
        self._tells = {}

    def _best(self, others: list[DeviceId]) -> bool:
        """All have answered, none is the who that the configuration names, none has a higher head."""
        mine = head_of(self._learner.group)
        for device in others:
            tell = self._tells.get(device)
            if tell is None or tell.lossless or (tell.epoch, tell.n, device) > mine:
                return False
        return True

    def _promised(self, now: float) -> None:
        group = self._learner.group
        if group.role is self._learner and not group.proposal:
            me = group.identity.present()
            group.propose(now, REVIVE, (me,), primary=me, continuity=self._continuity()).send(now)

    def _continuity(self) -> int:
        """Another verifier: acknowledged unstable writes may have been lost. Never a value used before."""
        return self._learner.group.adopted_config().continuity + 1


def head_of(group: Group) -> Head:
    return (group.log.last_epoch, group.log.last, group.identity.device)


def answer(group: Group, m: ReviveAsk) -> None:
    """Tell another device what this one has; or that the group has moved on."""
    config = group.config
    if config is not None and m.order != group.order:
        group.inform(m.who.device)
        return
    who = group.identity.present()
    lossless = config is not None and who in config.in_sync
    epoch, n, _ = head_of(group) if group.whole else (-1, -1, None)  # a disk that claims nothing says so
    group.outbox.send(m.who.device, ReviveTell(group.id, who, m.order, lossless, epoch, n))
