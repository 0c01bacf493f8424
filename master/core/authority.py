"""The arbiter of all groups' configurations: one compare-and-set register per group (REPLICATION.md, 'The master').

Pure: `receive` messages of devices, then take `effects()` and execute them in order. A Persist comes before anything
that shows what it holds; the shell makes it durable in one transaction before it sends the Push that follow. The
authority keeps no clock and starts no change of a primary or an in-sync set on its own.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from store import limits
from store.control.arbiter import (
    Cas,
    ConfigIs,
    ConfigsAre,
    FromMaster,
    GetConfig,
    Query,
    QueryReply,
    Refresh,
    Register,
    Registered,
    ToMaster,
)
from store.errors import ConfigError
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig

UNKNOWN: Final = 0  # the "incarnation" of a device never heard of; real ones are not 0


class Persist:
    """Make these changes durable, all or none, before any later effect."""

    __slots__ = ("configs", "generation", "incarnations")

    def __init__(self, configs: dict[GroupId, GroupConfig], incarnations: dict[DeviceId, int], generation: int) -> None:
        self.configs: Final = configs
        self.incarnations: Final = incarnations
        self.generation: Final = generation


class Push:
    """Send to a device if it is connected; nothing depends on its arrival."""

    __slots__ = ("device", "message")

    def __init__(self, device: DeviceId, message: FromMaster) -> None:
        self.device: Final = device
        self.message: Final = message


class Authority:
    """Configurations by group and the last accepted incarnation by device."""

    def __init__(
        self,
        configs: Mapping[GroupId, GroupConfig],
        incarnations: Mapping[DeviceId, int],
        generation: int = 0,
    ) -> None:
        """The state as persisted. `generation`: the cluster's recovery generation."""
        self.configs = dict(configs)
        self.incarnations = dict(incarnations)
        self.generation = generation
        self._closing: dict[GroupId, None] = {}  # groups that a restored master may not decide about yet
        self._answered: dict[DeviceId, None] = {}  # since a restore
        self._renewed: dict[DeviceId, None] = {}  # registered since a restore: known better than any old answer
        self._changed: dict[GroupId, None] = {}
        self._registered: dict[DeviceId, int] = {}
        self._answers: list[Push] = []
        self._news: dict[DeviceId, dict[GroupId, None]] = {}

    def restore(self, generation: int) -> None:
        """R31: this state is a snapshot of an unknown age. Nothing is decided before closure."""
        if generation <= self.generation:
            raise ConfigError(f"a restored master needs a recovery generation above {self.generation}")
        self.generation = generation
        self._answered, self._renewed = {}, {}
        self._closing = self._to_close()
        self._changed = {}
        self._ask()

    def _to_close(self) -> dict[GroupId, None]:
        return dict.fromkeys(self.configs)

    # ----------------------------------------------------------------- devices
    def receive(self, src: DeviceId, message: ToMaster) -> None:
        """A message from a device; its sender is authenticated by the link."""
        match message:
            case Cas():
                self._on_cas(src, message)
            case GetConfig():
                self._tell(src, message.group)
            case Refresh():
                self._on_refresh(message)
            case Register():
                self._on_register(src, message)
            case QueryReply():
                self._on_query_reply(message)

    def _on_register(self, src: DeviceId, m: Register) -> None:
        """R2: a compare-and-set too. A disk goes on only from the incarnation known here; a delayed copy of an older
        request changes nothing."""
        known = self.incarnations.get(m.device, UNKNOWN)
        accepted = self._goes_on(m, known)
        if accepted:
            if known != m.incarnation:
                self.incarnations[m.device] = self._registered[m.device] = m.incarnation
            self._renewed[m.device] = None
        self._answers.append(Push(src, Registered(m.incarnation, accepted, known, self.generation)))

    def _goes_on(self, m: Register, known: int) -> bool:
        """A disk without a past may start anew; one with a past only from what is known here."""
        if known == m.incarnation:
            return True
        if m.fresh is not None:
            return m.fresh == known
        return known in m.history if known else not m.history

    def _on_refresh(self, m: Refresh) -> None:
        """R7: a device that missed a push hears of every configuration that differs from its own."""
        told = dict(m.orders)
        for group, config in self.configs.items():
            if m.device in config.members or m.device in config.devices():
                if told.get(group) != config.order_token:
                    self._tell(m.device, group)
            elif group in told and told[group] < config.order_token:
                self._tell(m.device, group)

    def _on_cas(self, src: DeviceId, m: Cas) -> None:
        config = self.configs.get(m.group)
        if config is None:
            return
        if m.group in self._closing:
            self._ask()
            return
        if self._allowed(m, config):
            epoch = max(m.new.epoch, config.epoch + 1)
            new = msgspec.structs.replace(m.new, generation=self.generation, epoch=epoch, members=config.members)
            self._set(m.group, new)
        self._tell(src, m.group)

    def _allowed(self, m: Cas, c: GroupConfig) -> bool:
        """The table of REPLICATION.md, 'The master's checks'."""
        n = m.new
        if m.expected != c.order or self.incarnations.get(m.who.device) != m.who.incarnation:
            return False
        if not n.in_sync or n.primary not in n.in_sync:
            return False
        if m.kind == "revive":
            return self._may_revive(m, c)
        if m.who not in c.in_sync or n.continuity != c.continuity:
            return False
        if m.kind == "promote":
            rest = tuple(who for who in c.in_sync if who != c.primary)
            return m.who != c.primary and n.primary == m.who and n.in_sync == rest
        if m.who != c.primary or n.primary != c.primary:
            return False
        if m.kind == "grow":
            return self._may_grow(n.in_sync, c)
        return m.kind in ("shrink", "touch") and all(who in c.in_sync for who in n.in_sync)

    def _may_grow(self, in_sync: tuple[Who, ...], c: GroupConfig) -> bool:
        new = in_sync[-1]
        known = self.incarnations.get(new.device) == new.incarnation
        return in_sync[:-1] == c.in_sync and new.device in c.members and new.device not in c.devices() and known

    def _may_revive(self, m: Cas, c: GroupConfig) -> bool:
        """R29: from a device of the set whose named incarnation is a former life of the proposer."""
        named = any(who.device == m.who.device and who.incarnation in m.history for who in c.in_sync)
        return named and m.who not in c.in_sync and m.new.in_sync == (m.who,) and self._other_verifier(m.new, c)

    def _other_verifier(self, new: GroupConfig, old: GroupConfig) -> bool:
        return new.continuity > old.continuity

    # ---------------------------------------------------------------- operator
    def create(self, group: GroupId, members: tuple[DeviceId, ...], primary: DeviceId) -> GroupConfig:
        """A new, empty group: all members are in sync. Raises ConfigError when one has never registered."""
        if group in self.configs:
            raise ConfigError(f"group {group} exists")
        missing = [device.hex() for device in members if device not in self.incarnations]
        if missing or primary not in members:
            raise ConfigError(f"these devices have not registered: {', '.join(missing) or primary.hex()}")
        whos = {device: Who(device, self.incarnations[device]) for device in members}
        config = GroupConfig(self.generation, 1, members, whos[primary], tuple(whos.values()), 1)
        self._set(group, config)
        return config

    def replace(self, group: GroupId, members: tuple[DeviceId, ...]) -> None:
        """Other members; the in-sync set is the primary's to change. Raises ConfigError if no copy would remain."""
        config = self.configs[group]
        if group in self._closing:
            raise ConfigError(f"group {group} waits for its members after the master was restored; try again later")
        if not any(device in members for device in config.devices()):
            raise ConfigError(f"group {group}: none of these devices holds a complete copy")
        epoch = config.epoch + 1
        self._set(group, msgspec.structs.replace(config, members=members, epoch=epoch, generation=self.generation))

    def declare_lost(self, device: DeviceId) -> None:
        """R31: the operator says that this device never returns; closure no longer waits for it."""
        self._answered[device] = None
        self._close()

    # ----------------------------------------------------------------- restore
    @property
    def closing(self) -> bool:
        """Some group still waits for its members after a restore."""
        return bool(self._closing)

    def tick(self) -> None:
        """Call every second or so: repeats what closure waits for."""
        self._ask()

    def waits_for(self) -> list[DeviceId]:
        """Devices that closure still has to hear of."""
        wanted: dict[DeviceId, None] = {}
        for group in self._closing:
            wanted.update(dict.fromkeys(d for d in self._must_answer(group) if d not in self._answered))
        return list(wanted)

    def _ask(self) -> None:
        for device in self.waits_for():
            self._answers.append(Push(device, Query(self.generation)))

    def _must_answer(self, group: GroupId) -> Iterable[DeviceId]:
        """Members and in-sync devices: a rolled-back disk among them must not be able to speak alone."""
        config = self.configs[group]
        return (*config.members, *config.devices())

    def _on_query_reply(self, m: QueryReply) -> None:
        """Adopt the highest configuration told, and repeat with the devices that it names (R31)."""
        if not self._closing or m.generation != self.generation:
            return
        device = m.who.device
        self._answered[device] = None
        if device not in self._renewed and self.incarnations.get(device) in m.history:
            self.incarnations[device] = self._registered[device] = m.who.incarnation
        for told in m.configs:
            self._learn(told)
        self._close()

    def _learn(self, told: ConfigIs) -> None:
        held = self.configs.get(told.group)
        if held is not None and (told.group not in self._closing or told.config.order <= held.order):
            return
        self.configs[told.group] = told.config
        self._closing[told.group] = None
        for who in told.config.in_sync:  # they registered in the time that is lost
            if who.device not in self._renewed:
                self.incarnations[who.device] = self._registered[who.device] = who.incarnation

    def _close(self) -> None:
        """Groups all of whose devices have answered go on, in the next epoch under the new generation."""
        for group in list(self._closing):
            if all(device in self._answered for device in self._must_answer(group)):
                del self._closing[group]
                config = self.configs[group]
                epoch = config.epoch + 1
                self._set(group, msgspec.structs.replace(config, generation=self.generation, epoch=epoch))
        self._ask()

    # ----------------------------------------------------------------- effects
    def _set(self, group: GroupId, config: GroupConfig) -> None:
        self.configs[group] = config
        self._changed[group] = None
        for device in (*config.members, *config.devices()):
            self._tell(device, group)

    def _tell(self, device: DeviceId, group: GroupId) -> None:
        if group in self.configs and group not in self._closing:
            self._news.setdefault(device, {})[group] = None

    def effects(self) -> list[Persist | Push]:
        """What the messages since the last call have brought about."""
        out: list[Persist | Push] = []
        if self._changed or self._registered:
            changed = {group: self.configs[group] for group in self._changed}
            out.append(Persist(changed, self._registered, self.generation))
            self._changed, self._registered = {}, {}
        out += self._answers
        self._answers = []
        for device, groups in self._news.items():
            told = [ConfigIs(group, self.configs[group]) for group in groups if group not in self._closing]
            for i in range(0, len(told), limits.CONFIGS_PER_MESSAGE):
                out.append(Push(device, ConfigsAre(tuple(told[i : i + limits.CONFIGS_PER_MESSAGE]))))
        self._news = {}
        return out
