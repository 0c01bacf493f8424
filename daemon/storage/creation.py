"""Making a disk, and knowing one again."""

from daemon.storage import identity
from daemon.storage.backend import Backend
from daemon.storage.index import Index
from daemon.storage.journal import prewrite_all
from daemon.storage.limits import PREWRITTEN_AT_CREATION
from daemon.storage.redo import NAMES as REDO_FILES
from store.errors import ConfigError
from store.ids import DeviceId


def read_identity(backend: Backend, cluster: bytes | None) -> identity.Identity:
    """Whose disk this is. ConfigError when that is not known, or not the cluster's."""
    content = backend.load(identity.NAME)
    if content is None:
        raise ConfigError("no disk here: the id file 'device' is missing; restore it or make a new disk")
    who = identity.decode(content, "this disk")
    if cluster is not None and who.cluster != cluster:
        raise ConfigError(
            f"this disk belongs to cluster {who.cluster.hex()}, not {cluster.hex()}; use another directory"
        )
    return who


def make(backend: Backend, *, cluster: bytes, device: DeviceId, journal_size: int, capacity: int) -> None:
    """`Disk.create` for any ring size; tests use small ones. The id file comes last: half a disk is none."""
    backend.lock()
    if backend.load(identity.NAME) is not None:
        raise ConfigError("there is a disk here already; use an empty directory")
    journal = backend.file("journal")
    prewrite_all(journal, min(journal_size, PREWRITTEN_AT_CREATION))
    journal.close()
    for name in ("data", "sums", *REDO_FILES):  # storing the id file makes their names durable, too
        backend.file(name).close()
    Index(backend).close()
    who = identity.Identity(cluster, device, backend.fresh_id(), journal_size, capacity)
    backend.store(identity.NAME, identity.encode(who))
    backend.close()
