"""Calls about the cluster as a whole: map, tickets, devices, clients, joining, keys, audit."""

from typing import Final

from master.core.principals import ClientRecord, JoinRecord
from master.office import Calls, Office
from master.pool_calls import must_administer
from store.control.arbiter import ConfigIs
from store.control.messages import (
    AuditIs,
    AuditTail,
    CaIssue,
    CertificateIs,
    ClientCreate,
    ClientIs,
    ClientList,
    ClientRevoke,
    ClientsAre,
    ConfigsAre,
    DeviceList,
    DevicesAre,
    Done,
    GetKeys,
    GetMap,
    GetStatus,
    GetTicket,
    GroupsOf,
    JoinTicketCreate,
    JoinTicketIs,
    KeyEpochIs,
    KeyRotate,
    MapIs,
    StatusIs,
    TicketIs,
)
from store.crypto.identity import DAEMON, MASTER, Role, client_role
from store.crypto.join_ticket import SECRET_BYTES, JoinTicket, write_join_ticket
from store.crypto.tls import fingerprint
from store.errors import ConfigError, Status, StoreError
from store.ids import group_id

CERTIFICATE_DAYS_MAX: Final = 30 * 365


def get_map(office: Office, asker: ClientRecord, message: GetMap) -> MapIs:
    return MapIs(office.cluster.map())


def get_ticket(office: Office, asker: ClientRecord, message: GetTicket) -> TicketIs:
    cluster = office.cluster
    devices = [record.id for record in cluster.devices.all()]
    return cluster.credentials.issue(cluster.clock.wall(), asker, message.renew, devices)


def get_keys(office: Office, asker: ClientRecord, message: GetKeys) -> TicketIs:
    cluster = office.cluster
    devices = [record.id for record in cluster.devices.all()]
    return cluster.credentials.keys(cluster.clock.wall(), asker.name, message.ticket, devices)


def list_devices(office: Office, asker: ClientRecord, message: DeviceList) -> DevicesAre:
    return DevicesAre(office.cluster.device_statuses())


def status(office: Office, asker: ClientRecord, message: GetStatus) -> StatusIs:
    cluster = office.cluster
    awaited = frozenset(cluster.authority.waits_for())
    return StatusIs(
        cluster=cluster.id,
        generation=cluster.generation,
        map_epoch=cluster.cartography.epoch.value,
        key_epoch=cluster.credentials.key_epoch,
        recovering=cluster.authority.closing,
        awaited=tuple(record.name for record in cluster.devices.all() if record.id in awaited),
        devices=cluster.device_statuses(),
        pools=tuple(cluster.pool_status(pool) for pool in cluster.pools.all()),
        images=len(cluster.images.table),
        clients=office.connected.total(),
        uptime=cluster.clock.boot() - cluster.started,
    )


def groups_of(office: Office, asker: ClientRecord, message: GroupsOf) -> ConfigsAre:
    cluster = office.cluster
    pool = cluster.pools.named(message.pool)
    groups = [group_id(pool.number, index) for index in range(pool.groups)]
    return ConfigsAre(tuple(ConfigIs(group, cluster.authority.configs[group]) for group in groups))


def create_client(office: Office, asker: ClientRecord, message: ClientCreate) -> ClientIs:
    must_administer(asker)
    cluster, signer = office.cluster, office.signer
    record = cluster.principals.create(cluster.clock.wall(), message.name, message.caps)
    certificate, key = signer.issue_with_key(client_role(record.name))
    cluster.note(asker.name, "client create", record.name)
    return ClientIs(
        name=record.name,
        cluster=cluster.id,
        masters=office.for_clients,
        authority=signer.certificate,
        certificate=certificate,
        private_key=key,
    )


def list_clients(office: Office, asker: ClientRecord, message: ClientList) -> ClientsAre:
    must_administer(asker)
    return ClientsAre(office.cluster.principals.entries(office.connected))


def revoke_client(office: Office, asker: ClientRecord, message: ClientRevoke) -> Done:
    must_administer(asker)
    office.cluster.principals.revoke(message.name)
    office.cluster.note(asker.name, "client revoke", message.name)
    return Done()


def create_join_ticket(office: Office, asker: ClientRecord, message: JoinTicketCreate) -> JoinTicketIs:
    must_administer(asker)
    cluster, signer = office.cluster, office.signer
    wall = cluster.clock.wall()
    secret = cluster.draw(SECRET_BYTES)
    not_after = wall + int(message.lifetime)
    cluster.principals.expect(wall, secret, JoinRecord(message.role, message.name, message.caps, not_after))
    masters = office.for_clients if message.role == "client" else office.for_daemons
    cluster.note(asker.name, "join ticket", f"{message.role} {message.name}".strip())
    ticket = JoinTicket(masters, fingerprint(signer.certificate), secret, not_after)
    return JoinTicketIs(write_join_ticket(ticket), not_after)


def issue_certificate(office: Office, asker: ClientRecord, message: CaIssue) -> CertificateIs:
    must_administer(asker)
    signer, role = office.signer, _role(message.role, message.name)
    if not 1 <= message.days <= CERTIFICATE_DAYS_MAX:
        raise StoreError(Status.INVALID, f"a certificate lives for 1 to {CERTIFICATE_DAYS_MAX} days")
    if message.request:
        certificate, key = signer.issue(role, message.request, message.days), ""
    else:
        certificate, key = signer.issue_with_key(role, message.days)
    office.cluster.note(asker.name, "certificate issued", role.uri)
    return CertificateIs(authority=signer.certificate, certificate=certificate, private_key=key)


def rotate_keys(office: Office, asker: ClientRecord, message: KeyRotate) -> KeyEpochIs:
    must_administer(asker)
    epoch = office.cluster.rotate()
    office.cluster.note(asker.name, "key rotate", str(epoch))
    return KeyEpochIs(epoch)


def audit_tail(office: Office, asker: ClientRecord, message: AuditTail) -> AuditIs:
    must_administer(asker)
    return AuditIs(office.cluster.audit.tail(message.limit))


def _role(kind: str, name: str) -> Role:
    if kind == "client":
        try:
            return client_role(name)
        except ConfigError as error:
            raise StoreError(Status.INVALID, str(error)) from error
    if kind not in ("daemon", "master"):
        raise StoreError(Status.INVALID, f"no role: '{kind}'; there are daemon, client and master")
    return DAEMON if kind == "daemon" else MASTER


CALLS: Final[Calls] = {
    GetMap: get_map,
    GetTicket: get_ticket,
    GetKeys: get_keys,
    DeviceList: list_devices,
    GetStatus: status,
    GroupsOf: groups_of,
    ClientCreate: create_client,
    ClientList: list_clients,
    ClientRevoke: revoke_client,
    JoinTicketCreate: create_join_ticket,
    CaIssue: issue_certificate,
    KeyRotate: rotate_keys,
    AuditTail: audit_tail,
}
