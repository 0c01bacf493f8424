"""All that a master knows, in memory, and what changes it as a whole. Every change is staged in the ledger; nobody is
told before it is durable: the shells await `ledger.settled()` between a decision and its answer."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from master.clock import Clock
from master.core.audit import Audit
from master.core.authority import Authority, Persist, Push
from master.core.cartography import Cartography
from master.core.credentials import Credentials
from master.core.devices import DeviceRecord, Devices
from master.core.images import Images
from master.core.layout import Candidate, Table, TooFewDevices, arrange
from master.core.pools import PoolRecord, Pools
from master.core.principals import ADMIN, EVERYTHING, Principals
from master.ledger import Ledger
from store.control.arbiter import ConfigIs, ConfigsAre, Registered, ToMaster
from store.control.messages import DeviceStatus, PoolStatus, RegisterDevice
from store.errors import Status, StoreError
from store.ids import DeviceId, GroupId, group_id
from store.limits import CONFIGS_PER_MESSAGE, REGISTERED_CONFIGS_MAX
from store.placement.config import GroupConfig
from store.placement.storage_map import StorageMap

IDENTITY_KEY = "cluster"
CONFIG_PREFIX = "config/"
KNOWN_PREFIX = "known/"


class Identity(msgspec.Struct, frozen=True):
    """Which cluster the store belongs to, and which recovery generation its state was written under."""

    cluster: bytes = b""  # 16 bytes
    generation: int = 1
    restoring: int = 0  # not 0: a restored state of this older generation, whose closure (R31) is not complete


class Cluster:
    """Loaded from the store's items once, then only changed here."""

    def __init__(
        self,
        ledger: Ledger,
        identity: Identity,
        clock: Clock,
        draw: Callable[[int], bytes],
        items: list[tuple[str, bytes]],
    ) -> None:
        """`items`: everything in the store."""
        self.ledger, self.clock, self.draw = ledger, clock, draw
        self.identity, self.id, self.generation = identity, identity.cluster, identity.generation
        self.started = clock.boot()
        self.devices = Devices(ledger, self.started)
        self.pools = Pools(ledger)
        self.images = Images(ledger)
        self.principals = Principals(ledger)
        self.credentials = Credentials(ledger, self.id, self.generation, draw)
        self.audit = Audit(ledger)
        self.cartography = Cartography(ledger, self.id, self.generation)
        self.pushes: list[Push] = []  # decided, to be sent once durable; the daemons' desk takes them
        for part in (self.devices.table, self.pools, self.images.table, self.principals.clients, self.principals.joins):
            part.load(items)
        for cell in (self.credentials, self.audit.table, self.cartography.epoch):
            cell.load(items)
        self.images.loaded(self.started)
        self.audit.loaded()
        written_under = identity.restoring or identity.generation
        self.authority = Authority(_configs(items), _incarnations(items), written_under)
        if identity.restoring:
            self.authority.restore(identity.generation)
        self._begin()

    def _begin(self) -> None:
        """What a new cluster needs, and what was due while the master was away."""
        if self.principals.clients.get(ADMIN) is None:
            self.principals.create(self.clock.wall(), ADMIN, EVERYTHING)
        self.rotate_if_due()

    def note(self, who: str, what: str, subject: str) -> None:
        self.audit.note(self.clock.wall(), who, what, subject)

    # --- devices and their groups

    def register(self, said: RegisterDevice) -> Registered | None:
        """Take down a device; judge its claim if it makes one. Raises StoreError."""
        if said.cluster not in (b"", self.id):
            text = f"this disk belongs to cluster {said.cluster.hex()[:8]}, not to {self.id.hex()[:8]}"
            raise StoreError(Status.DENIED, text)
        new = self.devices.get(said.device) is None
        if self.devices.register(self.clock.boot(), self.clock.wall(), said):
            self.cartography.touch()
        if new:
            self.note("master", "device registered", said.device.hex())
        if said.claim is None:
            return None
        self.authority.receive(said.device, said.claim)
        self.collect()
        for push in self.pushes:
            if push.device == said.device and isinstance(push.message, Registered):
                self.pushes.remove(push)
                return push.message
        raise AssertionError("a claim has an answer")

    def arbitrate(self, device: DeviceId, messages: Sequence[ToMaster]) -> None:
        """A batch of a device's messages: one transaction, together with whatever else this turn of the loop brings."""
        for message in messages:
            self.authority.receive(device, message)
        self.collect()

    def collect(self) -> None:
        """Stage what the authority has decided; what it wants to say waits in `pushes`."""
        for effect in self.authority.effects():
            if isinstance(effect, Push):
                self.pushes.append(effect)
            else:
                self._persist(effect)

    def _persist(self, effect: Persist) -> None:
        for group, config in effect.configs.items():
            self.ledger.put(f"{CONFIG_PREFIX}{group:08x}", msgspec.msgpack.encode(config))
        for device, incarnation in effect.incarnations.items():
            self.ledger.put(KNOWN_PREFIX + device.hex(), msgspec.msgpack.encode(incarnation))
        if effect.configs:
            self.cartography.touch(effect.configs)

    def tick(self) -> None:
        """Every second: what is due."""
        self.rotate_if_due()
        if self.identity.restoring:
            self.authority.tick()
            self.collect()
            if not self.authority.closing:
                self.identity = msgspec.structs.replace(self.identity, restoring=0)
                self.ledger.put(IDENTITY_KEY, msgspec.msgpack.encode(self.identity))
                self.note("master", "restored", f"generation {self.generation}")

    def configs_for(self, device: DeviceId) -> tuple[ConfigIs, ...]:
        """Of the groups that have the device as a member or in sync; none before a restored master's closure.

        Those that do not fit one frame wait in `pushes`.
        """
        if self.authority.closing:
            return ()
        mine = [
            ConfigIs(group, config)
            for group, config in self.authority.configs.items()
            if device in config.members or device in config.devices()
        ]
        for start in range(REGISTERED_CONFIGS_MAX, len(mine), CONFIGS_PER_MESSAGE):
            self.pushes.append(Push(device, ConfigsAre(tuple(mine[start : start + CONFIGS_PER_MESSAGE]))))
        return tuple(mine[:REGISTERED_CONFIGS_MAX])

    def map(self) -> StorageMap:
        """The present storage map. Show it to nobody before `ledger.settled()`."""
        return self.cartography.draw(
            self.devices.all(),
            self.pools.all(),
            self.pools.next_number,
            self.credentials.key_epoch,
            self.authority.configs,
        )

    # --- keys

    def rotate(self) -> int:
        """Begin the next key epoch."""
        epoch = self.credentials.rotate(self.clock.wall(), [record.id for record in self.devices.all()])
        self.cartography.touch()
        return epoch

    def rotate_if_due(self) -> None:
        if self.credentials.is_due(self.clock.wall()):
            self.rotate()

    # --- pools

    def candidates(self, replicas: int, at_least: int = 0) -> list[Candidate]:
        """Devices for a new pool. Raises StoreError BUSY while there are too few."""
        ready = self.devices.ready(self.clock.boot())
        known = [record for record in ready if record.id in self.authority.incarnations]
        wanted = max(replicas, at_least)
        if len(known) < wanted:
            count = f"{len(known)} {'is' if len(known) == 1 else 'are'} registered and up"
            text = f"this pool needs {wanted} device{'s' if wanted > 1 else ''}, {count}"
            raise StoreError(Status.BUSY, f"{text}: start more daemons, or ask for fewer copies")
        return [Candidate(record.id, record.host, record.zone, record.capacity) for record in known]

    def create_pool(self, name: str, replicas: int, groups: int, min_write: int, table: Table) -> PoolRecord:
        """A pool whose groups are where `table` says. Raises StoreError."""
        self.pools.check(name, replicas, groups, min_write)
        record = self.pools.create(self.clock.wall(), name, replicas, groups, min_write)
        for index, members in enumerate(table):
            self.authority.create(group_id(record.number, index), members, members[0])
        self.collect()
        return record

    def remove_pool(self, record: PoolRecord) -> None:
        """With its images and configurations; devices see from the map that its groups are gone. Raises StoreError."""
        if self.authority.closing:
            raise StoreError(Status.BUSY, "the master was restored and still waits for devices: see `store status`")
        self.collect()
        self.images.remove_all(record.number)
        for index in range(record.groups):
            group = group_id(record.number, index)
            if self.authority.configs.pop(group, None) is not None:
                self.ledger.delete(f"{CONFIG_PREFIX}{group:08x}")
        self.pools.remove(record)
        self.cartography.touch()

    # --- views

    def pool_status(self, record: PoolRecord) -> PoolStatus:
        objects, size = self.devices.usage(record.number)
        complete = degraded = unwritable = 0
        for index in range(record.groups):
            config = self.authority.configs[group_id(record.number, index)]
            held = config.devices()
            missing = any(member not in held for member in config.members)
            complete, degraded = complete + (not missing), degraded + missing
            unwritable += len(held) < record.min_write
        return PoolStatus(
            number=record.number,
            name=record.name,
            replicas=record.replicas,
            groups=record.groups,
            min_write=record.min_write,
            images=len(self.images.of_pool(record.number)),
            objects=-(-objects // record.replicas),  # rounded up: one copy that is known of is an object
            bytes=-(-size // record.replicas),
            complete=complete,
            degraded=degraded,
            unwritable=unwritable,
        )

    def device_statuses(self) -> tuple[DeviceStatus, ...]:
        groups: Counter[DeviceId] = Counter()
        in_sync: Counter[DeviceId] = Counter()
        primaries: Counter[DeviceId] = Counter()
        for config in self.authority.configs.values():
            groups.update(config.members)
            in_sync.update(config.devices())
            primaries[config.primary.device] += 1
        return tuple(
            self._device_status(record, groups[record.id], in_sync[record.id], primaries[record.id])
            for record in self.devices.all()
        )

    def _device_status(self, record: DeviceRecord, groups: int, in_sync: int, primaries: int) -> DeviceStatus:
        now = self.clock.boot()
        return DeviceStatus(
            id=record.id,
            name=record.name,
            host=record.host,
            zone=record.zone,
            address=record.address,
            peer=record.peer,
            capacity=record.capacity,
            used=self.devices.used(record.id),
            state=self.devices.state(now, record),
            silent_for=self.devices.silent_for(now, record.id),
            groups=groups,
            in_sync=in_sync,
            primaries=primaries,
        )


def plan_pool(candidates: list[Candidate], replicas: int, groups: int, salt: int) -> Table:
    """Where a new pool's groups go. Raises StoreError BUSY."""
    try:
        return arrange(candidates, replicas, groups, salt)
    except TooFewDevices as error:
        raise StoreError(Status.BUSY, str(error)) from error


def _configs(items: list[tuple[str, bytes]]) -> dict[GroupId, GroupConfig]:
    decoder = msgspec.msgpack.Decoder(GroupConfig)
    start = len(CONFIG_PREFIX)
    held = [(key[start:], value) for key, value in items if key.startswith(CONFIG_PREFIX)]
    return {GroupId(int(group, 16)): decoder.decode(value) for group, value in held}


def _incarnations(items: list[tuple[str, bytes]]) -> dict[DeviceId, int]:
    start = len(KNOWN_PREFIX)
    return {
        DeviceId(bytes.fromhex(key[start:])): msgspec.msgpack.decode(value, type=int)
        for key, value in items
        if key.startswith(KNOWN_PREFIX)
    }
