"""A cluster small enough to see through: real transport services on one shared, plainly kept set of groups.

Groups keep their objects, duplicate tables, fences and verifiers in dictionaries. A group has one primary at a time;
other daemons redirect. `power_cut` takes everything back to what a durable request last synced.
"""

import secrets
from collections.abc import Callable
from functools import partial

from store.addresses import Address
from store.crypto.keys import KeyRing, Secrets, derive_ticket_key
from store.crypto.ticket import TICKET_VERSION, Cap, Right, Ticket, seal_ticket
from store.errors import Status
from store.ids import DeviceId, GroupId, Who, group_id
from store.limits import OBJECT_MAX
from store.placement.config import GroupConfig
from store.placement.storage_map import Device, Pool, StorageMap, pack_rows
from store.session.service import Service
from store.wire.header import FIRST_MUTATION, Flag, Op
from store.wire.listing import Listed, pack_listing
from store.wire.message import Request

POOL = 1
NOT_AFTER = 1 << 33
Key = tuple[GroupId, bytes]


class Groups:
    """The replicated state, as if replication were free."""

    def __init__(self, groups: int, devices: list[DeviceId]) -> None:
        self.primary = {group_id(POOL, index): devices[index % len(devices)] for index in range(groups)}
        self.epoch = dict.fromkeys(self.primary, 1)
        self.verifier = dict.fromkeys(self.primary, 7)
        self.objects: dict[Key, bytes] = {}
        self.synced: dict[Key, bytes] = {}
        self.answers: dict[tuple[GroupId, int, int], tuple[Status, int]] = {}
        self.floors: dict[tuple[GroupId, int], int] = {}
        self.closed: dict[GroupId, int] = {}  # serials up to here are forgotten
        self.fences: dict[tuple[GroupId, int], int] = {}
        self.applied: dict[bytes, int] = {}  # payload -> how often it took effect
        self.full = False
        self.versions = 0

    def move(self, group: GroupId, device: DeviceId) -> None:
        self.primary[group] = device
        self.epoch[group] += 1

    def forget_sessions(self) -> None:
        """As if every group had evicted all sessions there are."""
        for group, serial in list(self.floors):
            self.closed[group] = max(self.closed.get(group, 0), serial)
        self.floors.clear()
        self.answers.clear()

    def power_cut(self) -> None:
        self.objects = dict(self.synced)
        for group in self.verifier:
            self.verifier[group] += 1

    def sync(self, group: GroupId) -> None:
        for key in {key for key in (*self.objects, *self.synced) if key[0] == group}:
            if key in self.objects:
                self.synced[key] = self.objects[key]
            else:
                self.synced.pop(key, None)

    def mutate(self, request: Request) -> tuple[Status, int]:
        group = GroupId(request.group)
        place = (group, request.serial)
        if request.serial <= self.closed.get(group, 0):
            return Status.NO_SESSION, 0
        if (group, request.serial, request.sequence) in self.answers:
            return self.answers[group, request.serial, request.sequence]
        if request.sequence < self.floors.get(place, 0):
            return Status.STALE, 0
        self.floors[place] = max(self.floors.get(place, 0), request.floor)
        answer = self.apply(group, request)
        self.answers[group, request.serial, request.sequence] = answer
        if request.flags & Flag.DURABLE:
            self.sync(group)
        return answer

    def apply(self, group: GroupId, request: Request) -> tuple[Status, int]:
        fence = self.fences.get((group, request.scope), 0)
        if request.scope and request.generation < fence:
            return Status.FENCED, 0
        if request.op == Op.FENCE:
            self.fences[group, request.scope] = request.generation
            return Status.OK, 0
        if request.op == Op.FLUSH:
            return Status.OK, 0
        if self.full and request.op != Op.DELETE:
            return Status.NO_SPACE, 0
        payload = bytes(request.payload)
        self.applied[payload] = self.applied.get(payload, 0) + 1
        self.versions += 1
        return self.change((group, request.name), request, payload)

    def change(self, key: Key, request: Request, payload: bytes) -> tuple[Status, int]:
        old = self.objects.get(key)
        if request.op == Op.CREATE and old is not None:
            return Status.EXISTS, len(old)
        if request.op in (Op.DELETE, Op.TRUNCATE, Op.TRIM) and old is None:
            return Status.NOT_FOUND, 0
        content = bytearray(old or b"")
        end = request.offset + max(len(payload), request.size)
        if request.op == Op.DELETE:
            del self.objects[key]
            return Status.OK, 0
        if request.op in (Op.WRITE, Op.CREATE):
            content.extend(bytes(max(0, end - len(content))))
            content[request.offset : end] = payload
        elif request.op == Op.REPLACE:
            content = bytearray(payload)
        elif request.op == Op.TRUNCATE:
            content = content[: request.size].ljust(request.size, b"\0")
        else:
            end = min(end, len(content))
            content[request.offset : end] = bytes(max(0, end - request.offset))
        self.objects[key] = bytes(content)
        return Status.OK, len(content)


class Daemon:
    """One device: a transport service over the shared groups."""

    def __init__(self, groups: Groups, device: DeviceId, now: float, address: Address) -> None:
        self.groups, self.device, self.address = groups, device, address
        self.secret = secrets.token_bytes(32)
        self.alive = True
        self.start(now, 1)

    def start(self, now: float, life: int) -> None:
        keyring = KeyRing(Secrets(1, {1: self.secret}))
        self.service = Service(now, keyring, life, int(now * 1e6) + life)

    def serve(self, now: float) -> None:
        """Answers everything received since the last call."""
        service, groups = self.service, self.groups
        requests, service.requests = service.requests, []
        for request in requests:
            group = GroupId(request.group)
            if group not in groups.primary:
                service.reply(request, Status.UNKNOWN_GROUP)
            elif groups.primary[group] != self.device:
                service.reply(request, Status.REDIRECT, order=groups.epoch[group], data=groups.primary[group])
            elif request.op >= FIRST_MUTATION:
                status, size = groups.mutate(request)
                service.reply(
                    request, status, order=groups.epoch[group], verifier=groups.verifier[group],
                    version=groups.versions, object_size=size,
                )  # fmt: skip
            else:
                self.inspect(group, request)
        service.release()

    def inspect(self, group: GroupId, request: Request) -> None:
        service, groups = self.service, self.groups
        reply = partial(
            service.reply, request, order=groups.epoch[group], verifier=groups.verifier[group], version=groups.versions
        )
        content = groups.objects.get((group, request.name))
        if request.scope and request.generation < groups.fences.get((group, request.scope), 0):
            service.reply(request, Status.FENCED)
        elif request.op == Op.LIST:
            after = bytes(request.payload)
            rows = [
                Listed(name, len(content), 1)
                for (place, name), content in sorted(groups.objects.items())
                if place == group and name.startswith(request.name) and name > after
            ]
            data, fitted = pack_listing(rows[: request.size], min(request.fragment, request.budget) - 200)
            reply(status=Status.OK, object_size=int(not fitted), data=data)
        elif content is None:
            reply(status=Status.NOT_FOUND)
        elif request.op == Op.STAT:
            reply(status=Status.OK, object_size=len(content))
        else:
            self.read(group, request, content)

    def read(self, group: GroupId, request: Request, content: bytes) -> None:
        slots = self.service.begin_data(request)
        if slots is None:
            return
        for offset, views in slots:
            at = offset
            for view in views:
                part = content[at : at + len(view)]
                view[: len(part)] = part
                at += len(view)
        groups = self.groups
        self.service.end_data(
            order=groups.epoch[group], verifier=groups.verifier[group], version=groups.versions,
            object_size=len(content), holes=(),
        )  # fmt: skip

    def flush(self, now: float, send: Callable[[memoryview, int, object], None]) -> None:
        while sent := self.service.transmit(now):
            for view, segment, address in sent:
                send(view, segment, address)


def cluster(now: float, addresses: list[Address], groups: int = 8) -> tuple[Groups, list[Daemon], StorageMap]:
    devices = [DeviceId(bytes([index + 1]) * 16) for index in range(len(addresses))]
    state = Groups(groups, devices)
    daemons = [Daemon(state, device, now, address) for device, address in zip(devices, addresses, strict=True)]
    return state, daemons, storage_map(state, daemons)


def storage_map(state: Groups, daemons: list[Daemon], epoch: int = 1, pool_name: str = "main") -> StorageMap:
    who = {daemon.device: Who(daemon.device, 1) for daemon in daemons}
    members = tuple(who)
    configs = [
        GroupConfig(0, state.epoch[group], members, who[primary], tuple(who.values()), 7)
        for group, primary in state.primary.items()
    ]
    places = {device: index for index, device in enumerate(members)}
    known = tuple(
        Device(daemon.device, f"d{index}", "here", "", daemon.address, daemon.address, OBJECT_MAX)
        for index, daemon in enumerate(daemons)
    )
    pool = Pool(POOL, pool_name, len(members), len(configs), 1, pack_rows(configs, places, len(members)))
    return StorageMap(1, bytes(16), 0, epoch, 1, POOL + 1, known, (pool,))


def ticket_for(daemons: list[Daemon], serial: int) -> tuple[bytes, dict[DeviceId, bytes]]:
    """A ticket that allows everything, and its key at each device."""
    caps = (Cap(POOL, int(Right.data())),)
    ticket = seal_ticket(Ticket(TICKET_VERSION, bytes(16), "tester", serial, 1, NOT_AFTER, caps))
    return ticket, {daemon.device: derive_ticket_key(daemon.secret, ticket) for daemon in daemons}
