"""Opens transport sessions with daemons, from what Standing holds at the moment."""

import secrets
import socket
from typing import Final

from store.addresses import Address
from store.client.access import Standing
from store.client.exchange import Peer
from store.ids import DeviceId
from store.limits import OBJECT_MAX
from store.session.credit import Credit
from store.session.endpoint import Endpoint

_RECEIVE_MEMORY: Final = 4 * OBJECT_MAX  # bytes of destination buffers of one socket that may be asked for at once


class SessionOpener:
    """An `Opener` (exchange.py) for one socket; its read credit spans all the daemons that socket talks to."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._credit = Credit(_RECEIVE_MEMORY)

    def __call__(self, now: float, device: DeviceId, serial: int) -> Peer | None:
        standing = self._standing
        known = standing.storage_map.device(device)
        credentials = standing.by_serial.get(serial)
        key = None if credentials is None else credentials.keys.get(device)
        if known is None or credentials is None or key is None:
            return None
        session_id = secrets.randbits(64)
        endpoint = Endpoint(now, session_id, credentials.ticket, key, self._credit)
        return Peer(device, resolved(known.address), serial, session_id, endpoint)


def resolved(address: Address) -> Address:
    """A numeric address: sending to a name would look it up each time."""
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return (host, port)
    sockaddr = found[0][4]
    return (str(sockaddr[0]), int(sockaddr[1]))
