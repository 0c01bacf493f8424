"""How a primary keeps its members' logs growing: fresh records at once, missing ones run by run, lost ones again.

A record is on its way once `sent_to` covers it. Fresh records go only to members that have all older ones under way;
others catch up run by run, each acknowledgement letting the next run out, so that what is under way is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.core.effects import Append
from daemon.core.log import ABSENT
from daemon.core.proposal import SHRINK
from store.ids import DeviceId

FRUITLESS_MAX: Final = 2  # runs from the oldest record at hand before an in-sync member is given up

if TYPE_CHECKING:
    from daemon.core.peer import Peer
    from daemon.core.primary import Primary


def feed_fresh(primary: Primary) -> None:
    group = primary.group
    log, now = group.log, group.outbox.now
    last = log.last
    shared: Append | None = None
    for peer in list(primary.peers.values()):
        low = peer.sent_to + 1
        if low > last:
            continue
        if shared is not None and shared.entries[0].n == low:
            _send(primary, now, peer, shared)
        elif low > group.commit:
            shared = Append(group.id, group.order, group.commit, primary.start, log.between(low, last))
            _send(primary, now, peer, shared)
        else:
            feed(primary, now, peer)
    if primary.peers:
        group.outbox.busy[group] = None


def feed(primary: Primary, now: float, peer: Peer) -> None:
    """Send the next run that the member lacks, unless enough is under way."""
    group = primary.group
    log, batch = group.log, group.limits.batch
    low = peer.sent_to + 1
    if low > log.last or peer.sent_to - peer.matched > batch:
        return
    if not peer.attempt:
        low = _leap(primary, peer, low)
    if log.epoch_at(low - 1) == ABSENT or low > log.last:
        too_far_behind(primary, now, peer)
        return
    high = min(log.last, low + batch - 1)
    _send(primary, now, peer, Append(group.id, group.order, group.commit, primary.start, log.between(low, high)))
    group.outbox.busy[group] = None


def _leap(primary: Primary, peer: Peer, low: int) -> int:
    """Where to begin with an in-sync member that knows only its base, because its process restarted. It holds all that
    is committed, and a run whose predecessor matches proves everything below. If that does not succeed, from the
    position it named, or else from the oldest record at hand, twice."""
    group = primary.group
    if not peer.leapt:
        peer.leapt = True
        return max(low, min(group.commit, group.log.last), group.log.after_n + 1)
    if group.log.epoch_at(low - 1) == ABSENT and peer.fruitless < FRUITLESS_MAX:
        peer.fruitless += 1
        return group.log.after_n + 1
    return low


def _send(primary: Primary, now: float, peer: Peer, append: Append) -> None:
    feeds = primary.group.outbox.feeds
    device: DeviceId = peer.who.device
    if device in feeds:
        feeds[device].append(append)
    else:
        feeds[device] = [append]
    peer.sent_at = now
    peer.sent_to = append.entries[-1].n


def resend(primary: Primary, now: float, peer: Peer) -> bool:
    """Send again what has had no answer for a while. False: the member lacks nothing."""
    if peer.matched >= primary.group.log.last:
        return False
    limits = primary.group.limits
    if now - max(peer.sent_at, peer.moved_at) >= limits.resend + peer.backoff:
        peer.sent_to = peer.matched
        peer.backoff = min(2 * peer.backoff + limits.resend, limits.beat)
        feed(primary, now, peer)
    return True


def too_far_behind(primary: Primary, now: float, peer: Peer) -> None:
    """The log no longer holds what the member needs (R28)."""
    group = primary.group
    config = group.adopted_config()
    if peer.who in config.in_sync:
        if group.proposal is None:
            in_sync = tuple(who for who in config.in_sync if who != peer.who)
            group.propose(now, SHRINK, in_sync).send(now)
    elif peer.who != group.joint:
        primary.drop(peer.who)
