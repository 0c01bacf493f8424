"""When a primary proposes another in-sync set: a silent member out, a caught-up learner in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core import feeding
from daemon.core.proposal import GROW, SHRINK, TOUCH
from store.ids import Who

if TYPE_CHECKING:
    from daemon.core.primary import Primary


def tick(primary: Primary, now: float) -> bool:
    """The primary's periodic look around. True: something is being retried."""
    again = _feed_all(primary, now)
    group = primary.group
    if group.proposal:
        _end_growth(primary, now)
    elif silent := [who for who in primary.others() if who != group.joint and is_silent(primary, now, who)]:
        shrink(primary, now, silent)
    elif group.joint:
        _touch(primary, now)  # left by a crash: its fate is settled before anything else (R21)
    elif not primary.peering:
        _grow(primary, now)
    return again or primary.peering


def _feed_all(primary: Primary, now: float) -> bool:
    again = False
    needed = primary.others()
    for who, peer in list(primary.peers.items()):
        if who not in needed and now - peer.seen > primary.group.limits.grace:
            primary.drop(who)
        elif feeding.resend(primary, now, peer):
            again = True
    return again


def _end_growth(primary: Primary, now: float) -> None:
    """Only a new epoch ends a growth whose answer is lost (R7)."""
    proposal = primary.group.proposal
    if proposal and proposal.cas.kind == GROW and now - proposal.since >= 2 * primary.group.limits.lease:
        _touch(primary, now)


def is_silent(primary: Primary, now: float, who: Who) -> bool:
    """No lease of this member is left, nor could one be on the way since the epoch began."""
    peer = primary.peers.get(who)
    heard = peer.lease - primary.group.limits.lease if peer else primary.since
    return now - max(primary.since, heard) > primary.group.limits.lease


def shrink(primary: Primary, now: float, out: list[Who]) -> None:
    """Nothing is acknowledged without these members before the master's answer is adopted (R15)."""
    in_sync = tuple(who for who in primary.group.adopted_config().in_sync if who not in out)
    primary.group.propose(now, SHRINK, in_sync).send(now)


def _touch(primary: Primary, now: float) -> None:
    primary.group.propose(now, TOUCH, primary.group.adopted_config().in_sync).send(now)


def _grow(primary: Primary, now: float) -> None:
    """R23: a learner that is whole, leased and has everything committed; one at a time. Else let a leaver go."""
    group = primary.group
    config = group.adopted_config()
    for who, peer in primary.peers.items():
        if who in config.in_sync or who.device in config.devices() or not peer.whole:
            continue
        if peer.matched >= group.commit and peer.synced >= group.commit and peer.lease > now:
            _propose_growth(primary, now, who)
            return
    leaving = [who for who in primary.others() if who.device not in config.members]
    if leaving and all(device in config.devices() for device in config.members):
        shrink(primary, now, leaving)


def _propose_growth(primary: Primary, now: float, who: Who) -> None:
    """R22: from before the CAS is sent the learner's acknowledgements and leases count; a restart knows it too."""
    group = primary.group
    group.joint = who
    primary.recount()
    proposal = group.propose(now, GROW, (*group.adopted_config().in_sync, who))
    proposal.saved = False
    group.save(proposal.send, joint_order=group.order, joint=who)
