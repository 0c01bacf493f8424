"""Opens transport sessions with daemons, from what Standing holds at the moment."""

import secrets
import socket
from typing import Final

from store.addresses import Address
from store.client.access import Standing
from store.client.exchange import Peer, Source
from store.ids import DeviceId
from store.limits import OBJECT_MAX
from store.session.credit import Credit
from store.session.endpoint import Endpoint
from store.udp import family_of

_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_ETHERNET_MTU: Final = 1500
_RECEIVE_MEMORY: Final = 4 * OBJECT_MAX  # bytes of destination buffers of one socket that may be asked for at once


class SessionOpener:
    """An `Opener` (exchange.py) for one socket; its read credit spans all the daemons that socket talks to."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._credit = Credit(_RECEIVE_MEMORY)

    def source(self, device: DeviceId, serial: int) -> Source | None:
        standing = self._standing
        known = standing.storage_map.device(device)
        credentials = standing.by_serial.get(serial)
        if known is None or credentials is None or device not in credentials.keys:
            return None
        return Source(known.address, credentials.ticket)

    def open(self, now: float, device: DeviceId, source: Source) -> Peer:
        session_id = secrets.randbits(64)
        key = next(held.keys[device] for held in self._standing.by_serial.values() if held.ticket == source.ticket)
        address = resolved(source.address)
        endpoint = Endpoint(now, session_id, source.ticket, key, self._credit, mtu_hint=interface_mtu(address))
        return Peer(device, source, address, session_id, endpoint)


def interface_mtu(address: Address) -> int:
    """MTU of the interface by which the address is reached; 1,500 if the kernel does not say."""
    family = family_of(address)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
            if family == socket.AF_INET6:
                return probe.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return _ETHERNET_MTU


def resolved(address: Address) -> Address:
    """A numeric address, IPv4 if there is one: sending to a name would look it up each time."""
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return address  # sending to it fails, and is repeated, until it has an address
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    sockaddr = found[0][4]
    return (str(sockaddr[0]), int(sockaddr[1]))
