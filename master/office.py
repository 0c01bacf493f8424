"""What the calls of clients work with: the cluster, the CA's key if it is here, and the addresses to give to others."""

import datetime
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from master.cluster import Cluster
from master.core.principals import ClientRecord
from store.addresses import Address
from store.control.messages import Join, Joined, Message
from store.crypto.identity import Role
from store.errors import ConfigError, Status, StoreError

Call = Callable[["Office", ClientRecord, Any], Message]
Calls = Mapping[type, Call]


class Signer:
    """The CA's key: what makes a master able to let others join."""

    def __init__(self, certificate: str, private_key: str) -> None:
        self.certificate, self._private_key = certificate, private_key

    def issue(self, role: Role, request: str, days: int | None = None) -> str:
        """A certificate as PEM. Raises StoreError if the request is not one."""
        from store.crypto import pki  # noqa: PLC0415 - X.509 takes 16 MiB, and most masters issue nothing for months

        authority = pki.Authority(self.certificate, self._private_key)
        now = datetime.datetime.now(datetime.UTC)
        try:
            return pki.issue(authority, role, request, now, pki.CERTIFICATE_DAYS if days is None else days)
        except ConfigError as error:
            raise StoreError(Status.INVALID, str(error)) from error

    def issue_with_key(self, role: Role, days: int | None = None) -> tuple[str, str]:
        """Certificate and private key as PEM."""
        from store.crypto import pki  # noqa: PLC0415

        key = pki.create_key()
        return self.issue(role, pki.create_request(key), days), key


class Office:
    def __init__(self, cluster: Cluster, signer: Signer | None) -> None:
        self.cluster, self._signer = cluster, signer
        self.for_clients: tuple[Address, ...] = ()  # where others reach this master; set once it listens
        self.for_daemons: tuple[Address, ...] = ()
        self.connected: Counter[str] = Counter()  # clients by name

    @property
    def signer(self) -> Signer:
        """Raises StoreError if the CA's key is not here."""
        if self._signer is None:
            text = "this master does not have the CA's key: use `store ca issue` on the machine that has it"
            raise StoreError(Status.UNSUPPORTED, text)
        return self._signer

    def admit(self, message: Join) -> Joined:
        """Let a machine join with a ticket made before. Raises StoreError."""
        cluster = self.cluster
        role, record = cluster.principals.use(cluster.clock.wall(), message.secret)
        certificate = self.signer.issue(role, message.request)
        if record.role == "client":
            cluster.principals.create(cluster.clock.wall(), record.name, record.caps)
        cluster.note("joiner", f"{record.role} joined", record.name)
        return Joined(
            cluster=cluster.id,
            role=role.uri,
            certificate=certificate,
            authority=self.signer.certificate,
            masters=self.for_clients if record.role == "client" else self.for_daemons,
        )
