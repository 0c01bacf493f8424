"""The primary's side of a learner's return: judge the join, hand out the objects (R23-R26)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.core.membership import shrink
from daemon.core.messages import Fetch, Item, Join, JoinOk
from daemon.core.peer import Peer
from store.ids import Who

if TYPE_CHECKING:
    from daemon.core.primary import Primary


def on_join(primary: Primary, now: float, m: Join) -> None:
    group = primary.group
    config = group.adopted_config()
    if m.who.device not in config.members or m.who in config.in_sync:
        return
    former = former_lives(primary, m.who)
    if former and group.proposal is None:
        shrink(primary, now, former)
    if m.order != group.order:
        group.inform(m.who.device)
        return
    known = primary.peers.get(m.who)
    if primary.peering or m.who == group.joint or (known and known.attempt > m.attempt):
        return  # a proposed member is judged after the next epoch
    if waits(former):
        return
    _take_in(primary, now, m)


def former_lives(primary: Primary, who: Who) -> list[Who]:
    """Whos of the same device that are still named in sync; the new life says that they are over."""
    group = primary.group
    return [w for w in group.adopted_config().in_sync if w.device == who.device and w != group.identity.who]


def waits(former: list[Who]) -> bool:
    """R23: as long as a former life counts, everything durable is on that disk too. An inventory would void it: were
    this primary's disk lost before the inventory ends, a copy that could have revived the group would be gone."""
    return bool(former)


def _take_in(primary: Primary, now: float, m: Join) -> None:
    group = primary.group
    delta = m.whole and m.base_n <= group.commit and group.log.epoch_at(m.base_n) == m.base_epoch
    if delta:
        base_n, base_epoch, tables = m.base_n, m.base_epoch, None
        peer = Peer(now, m.who, base_n, base_n, True, m.attempt)
    else:
        base_n, base_epoch = group.commit, group.log.epoch_at(group.commit)
        tables = first_tables(primary)
        peer = Peer(now, m.who, base_n, 0, False, m.attempt)
    _forget_lives(primary, m.who)
    primary.peers[m.who] = peer
    primary.recount()
    group.outbox.beat_soon[primary] = None
    group.outbox.busy[group] = None
    group.outbox.send(m.who.device, JoinOk(group.id, group.order, m.attempt, base_n, base_epoch, tables))


def first_tables(primary: Primary) -> bytes:
    """R25b: the tables of the position where the copy's log begins."""
    return primary.group.tables.encode()


def _forget_lives(primary: Primary, who: Who) -> None:
    """Another life of the same device is over; its acknowledgements would be of another journal."""
    needed = primary.others()
    for other in [w for w in primary.peers if w.device == who.device and w != who and w not in needed]:
        del primary.peers[other]


def on_fetch(primary: Primary, now: float, m: Fetch) -> None:
    """R25d: the next object of the committed state; after the last, the tables as of the commit point."""
    group = primary.group
    peer = primary.peers.get(m.who)
    if primary.peering or m.order != group.order or peer is None or peer.attempt != m.attempt:
        return
    peer.seen = now
    piece = group.objects.copy_next(group.id, m.cursor)
    if piece is None:
        item = Item(group.id, m.order, m.attempt, m.cursor, b"", None, group.commit, group.tables.encode())
    else:
        item = Item(group.id, m.order, m.attempt, m.cursor, piece.cursor, piece.data, group.commit, None)
    group.outbox.send(m.who.device, item)
