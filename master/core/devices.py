"""The devices of the cluster: what they said of themselves, and when they were last heard. Pure."""

from typing import Final

import msgspec

from master.core.table import Changes, Table
from store.addresses import Address
from store.control.messages import Heartbeat, PoolUsage, RegisterDevice
from store.errors import Status, StoreError
from store.ids import DeviceId
from store.limits import DEVICE_DOWN_S, DEVICE_SUSPECT_S, DEVICES_MAX
from store.placement.storage_map import Device, DeviceState

UP: Final = "up"
SUSPECT: Final = "suspect"
DOWN: Final = "down"


class DeviceRecord(msgspec.Struct, frozen=True):
    number: int  # from 1, in order of first registration; its place in the map
    id: DeviceId
    name: str
    host: str
    zone: str
    address: Address
    peer: Address
    capacity: int
    state: int  # DeviceState
    since: int  # unix seconds

    def shown(self) -> Device:
        """As the storage map has it."""
        return Device(
            self.id, self.name, self.host, self.zone, self.address, self.peer, self.capacity, DeviceState(self.state)
        )


class Pulse:
    """What a device last said of itself; forgotten when the master restarts."""

    __slots__ = ("beat", "free", "heard", "here", "pools", "used")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.beat = -1.0  # when it last said what it holds
        self.here = False  # it has registered since the master started
        self.used = self.free = 0
        self.pools: tuple[PoolUsage, ...] = ()


class Devices:
    def __init__(self, changes: Changes, started: float) -> None:
        """`started`: when this master began to listen; silence counts from then on."""
        self.table = Table(changes, "device/", DeviceRecord)
        self._started = started
        self._pulses: dict[DeviceId, Pulse] = {}

    def register(self, now: float, wall: int, said: RegisterDevice) -> bool:
        """Take down a device and what it says. True: the storage map has changed. Raises StoreError."""
        known = self.get(said.device)
        if known is None and len(self.table) >= DEVICES_MAX:
            raise StoreError(Status.NO_SPACE, f"this cluster has {DEVICES_MAX} devices already")
        if said.capacity <= 0:
            raise StoreError(Status.INVALID, "a device must have a capacity above 0")
        number = len(self.table) + 1 if known is None else known.number
        record = DeviceRecord(
            number=number,
            id=said.device,
            name=f"d{number}" if known is None else known.name,
            host=said.host or said.address[0],
            zone=said.zone or said.host or said.address[0],
            address=said.address,
            peer=said.peer,
            capacity=said.capacity,
            state=int(DeviceState.ACTIVE) if known is None else known.state,
            since=wall if known is None else known.since,
        )
        pulse = self._pulse(said.device)
        pulse.heard, pulse.here, pulse.used = now, True, said.used
        pulse.free = max(0, said.capacity - said.used)
        if record == known:
            return False
        self.table.put(said.device.hex(), record)
        return True

    def heard(self, now: float, device: DeviceId, beat: Heartbeat) -> None:
        pulse = self._pulse(device)
        pulse.heard = pulse.beat = now
        pulse.used, pulse.free, pulse.pools = beat.used, beat.free, beat.pools

    def get(self, device: DeviceId) -> DeviceRecord | None:
        return self.table.get(device.hex())

    def all(self) -> list[DeviceRecord]:
        """In order of their numbers."""
        return sorted(self.table, key=lambda record: record.number)

    def ready(self, now: float) -> list[DeviceRecord]:
        """Those that new groups may be placed on."""
        active = [record for record in self.all() if record.state == DeviceState.ACTIVE]
        return [record for record in active if self._pulse(record.id).here and self.state(now, record) == UP]

    def state(self, now: float, record: DeviceRecord) -> str:
        if record.state != DeviceState.ACTIVE:
            return DeviceState(record.state).name.lower()
        silent = self.silent_for(now, record.id)
        return UP if silent < DEVICE_SUSPECT_S else SUSPECT if silent < DEVICE_DOWN_S else DOWN

    def unheard(self, now: float, since: float) -> list[DeviceRecord]:
        """Devices that are up but have not said what they hold since then."""
        up = [record for record in self.all() if self.state(now, record) == UP]
        return [record for record in up if self._pulse(record.id).beat < since]

    def silent_for(self, now: float, device: DeviceId) -> float:
        return max(0.0, now - self._pulse(device).heard)

    def used(self, device: DeviceId) -> int:
        return self._pulse(device).used

    def usage(self, pool: int) -> tuple[int, int]:
        """Objects and bytes of a pool, all copies counted, as last told."""
        told = [row for record in self.table for row in self._pulse(record.id).pools if row.pool == pool]
        return sum(row.objects for row in told), sum(row.bytes for row in told)

    def _pulse(self, device: DeviceId) -> Pulse:
        pulse = self._pulses.get(device)
        if pulse is None:
            pulse = self._pulses[device] = Pulse(self._started)
        return pulse
