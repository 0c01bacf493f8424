"""A daemon without a master: one group, this device alone in it, for clients of this machine only.

The founding document's `file-store` and `mem-store` work so. Every pool shares the one group; names carry their pool
in front. The arbiter here grants what a master would grant a group of one: there is nobody to disagree.
"""

from collections.abc import Callable
from typing import Final

from store.control.arbiter import Cas, ConfigIs, FromMaster, GetConfig, Register, Registered, ToMaster
from store.direct import POOL_NUMBER
from store.ids import DeviceId, Who, group_id
from store.placement.config import GroupConfig

DIRECT_GROUP: Final = group_id(POOL_NUMBER, 0)
FIRST_EPOCH: Final = 1


class LocalArbiter:
    """Answers what the core asks of a master. `deliver` is called on a later turn of the loop."""

    def __init__(self, device: DeviceId, known: GroupConfig | None, deliver: Callable[[FromMaster], None]) -> None:
        self._device, self._config, self._deliver = device, known, deliver

    def tell(self, messages: list[ToMaster]) -> None:
        for message in messages:
            if isinstance(message, Register):
                self._register(message)
            elif isinstance(message, Cas):
                self._propose(message)
            elif isinstance(message, GetConfig) and self._config is not None:
                self._deliver(ConfigIs(DIRECT_GROUP, self._config))

    def _register(self, message: Register) -> None:
        """The disk speaks for itself: whatever life it claims is the one (R2 has nobody to compare with)."""
        self._deliver(Registered(message.incarnation, True, message.incarnation, 0))
        if self._config is None:
            who = Who(self._device, message.incarnation)
            self._config = GroupConfig(0, FIRST_EPOCH, (self._device,), who, (who,), 1)
        self._deliver(ConfigIs(DIRECT_GROUP, self._config))

    def _propose(self, message: Cas) -> None:
        """Only a revival after a lossy start is ever proposed in a group of one (R29)."""
        current = self._config
        if current is not None and message.expected == current.order:
            self._config = GroupConfig(
                0,
                max(message.new.epoch, current.epoch + 1),
                current.members,
                message.new.primary,
                message.new.in_sync,
                message.new.continuity,
            )
        if self._config is not None:
            self._deliver(ConfigIs(DIRECT_GROUP, self._config))
