"""How programs of this user on this machine reach a daemon that stands alone: the access file (store/direct.py)."""

import os
import secrets
from collections.abc import Callable

import msgspec

from daemon.standalone import FIRST_EPOCH
from store.addresses import Address
from store.crypto.keys import SECRET_BYTES, Secrets
from store.direct import POOL, POOL_NUMBER, VERSION, Access, publish, withdraw
from store.ids import DeviceId, Who
from store.placement import storage_map as maps
from store.placement.config import GroupConfig


class DirectAccess:
    """A secret of this process, and a map with one pool of one group of one device."""

    def __init__(self, device: DeviceId, listen: Address, capacity: int) -> None:
        self._device, self._listen, self._capacity = device, listen, capacity
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self.secrets = Secrets(1, {1: self._secret})

    def publish(self) -> Callable[[], None]:
        """Write the access file; returns what removes it."""
        access = Access(
            VERSION, self._listen, self._device, 1, self._secret, msgspec.msgpack.encode(self._map()), os.getpid()
        )
        publish(access)
        return lambda: withdraw(access)

    def _map(self) -> maps.StorageMap:
        host, port = self._listen
        address = ("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)
        device = maps.Device(self._device, "local", "local", "", address, address, self._capacity)
        who = Who(self._device, 0)
        config = GroupConfig(0, FIRST_EPOCH, (self._device,), who, (who,), 1)
        rows = maps.pack_rows([config], {self._device: 0}, 1)
        pool = maps.Pool(POOL_NUMBER, POOL, 1, 1, 1, rows)
        return maps.StorageMap(1, bytes(16), 0, 1, 1, POOL_NUMBER + 1, (device,), (pool,))
