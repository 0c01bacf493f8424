"""The configuration of one group: who holds it, who orders its writes. Only the master changes it, comparing first."""

import msgspec

from store.ids import DeviceId, Who


class GroupConfig(msgspec.Struct, frozen=True, array_like=True):
    """Replication rules, section 3. Its order is (generation, epoch)."""

    generation: int  # recovery generation of the master that wrote it
    epoch: int
    members: tuple[DeviceId, ...]  # devices that should hold the group
    primary: Who
    in_sync: tuple[Who, ...]  # whos that hold every acknowledged write
    continuity: int  # changes when acknowledged unstable writes may have been lost: the verifier

    @property
    def order(self) -> tuple[int, int]:
        return (self.generation, self.epoch)

    @property
    def order_token(self) -> int:
        """The order as the 64-bit number of the wire."""
        return self.generation << 32 | self.epoch

    def devices(self) -> tuple[DeviceId, ...]:
        return tuple(who.device for who in self.in_sync)
