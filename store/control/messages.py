"""All messages of the control channel, gathered: what masters, daemons and clients say to each other. See CONTROL.md.

Every message is a msgpack map with the key `type` naming its class; unknown keys are ignored, so fields may be added
(with a default) without a new version. A *call* has one answer, named beside it; a *push* has none. Times are seconds.
Failures travel as Failure(status, message) and are raised as StoreError on the asking side.
"""

from store.control.cluster_messages import (
    AuditEntry,
    AuditIs,
    AuditTail,
    CaIssue,
    CertificateIs,
    ClientCreate,
    ClientEntry,
    ClientIs,
    ClientList,
    ClientRevoke,
    ClientsAre,
    ConfigsAre,
    DeviceList,
    DevicesAre,
    DeviceStatus,
    GetKeys,
    GetMap,
    GetStatus,
    GetTicket,
    GroupsOf,
    Hello,
    JoinTicketCreate,
    JoinTicketIs,
    KeyEpochIs,
    KeyRotate,
    StatusIs,
    TicketIs,
    Welcome,
)
from store.control.daemon_messages import (
    Arbitrate,
    Decided,
    DeviceRegistered,
    Done,
    Failure,
    Heartbeat,
    HeartbeatOk,
    Join,
    Joined,
    MapIs,
    PoolUsage,
    RegisterDevice,
    SecretsAre,
)
from store.control.image_messages import (
    ImageClose,
    ImageCreate,
    ImageInfo,
    ImageIs,
    ImageList,
    ImageOpen,
    ImageOpened,
    ImageRemove,
    ImageRenew,
    ImageRenewed,
    ImageResize,
    ImagesAre,
    ImageStat,
    Mode,
    PoolCreate,
    PoolIs,
    PoolList,
    PoolRemove,
    PoolsAre,
    PoolStatus,
)

__all__ = [
    "Arbitrate",
    "AuditEntry",
    "AuditIs",
    "AuditTail",
    "CaIssue",
    "CertificateIs",
    "ClientCreate",
    "ClientEntry",
    "ClientIs",
    "ClientList",
    "ClientMessage",
    "ClientRevoke",
    "ClientsAre",
    "ConfigsAre",
    "DaemonMessage",
    "Decided",
    "DeviceList",
    "DeviceRegistered",
    "DeviceStatus",
    "DevicesAre",
    "Done",
    "Failure",
    "GetKeys",
    "GetMap",
    "GetStatus",
    "GetTicket",
    "GroupsOf",
    "Heartbeat",
    "HeartbeatOk",
    "Hello",
    "ImageClose",
    "ImageCreate",
    "ImageInfo",
    "ImageIs",
    "ImageList",
    "ImageOpen",
    "ImageOpened",
    "ImageRemove",
    "ImageRenew",
    "ImageRenewed",
    "ImageResize",
    "ImageStat",
    "ImagesAre",
    "Join",
    "JoinTicketCreate",
    "JoinTicketIs",
    "Joined",
    "KeyEpochIs",
    "KeyRotate",
    "MapIs",
    "Message",
    "Mode",
    "PoolCreate",
    "PoolIs",
    "PoolList",
    "PoolRemove",
    "PoolStatus",
    "PoolUsage",
    "PoolsAre",
    "RegisterDevice",
    "SecretsAre",
    "StatusIs",
    "TicketIs",
    "Welcome",
]

DaemonMessage = RegisterDevice | Heartbeat | Arbitrate
PoolMessage = PoolCreate | PoolList | PoolRemove
ImageMessage = ImageCreate | ImageList | ImageStat | ImageResize | ImageRemove | ImageOpen | ImageRenew | ImageClose
ClusterMessage = (
    DeviceList | GetStatus | ClientCreate | ClientList | ClientRevoke | JoinTicketCreate | CaIssue | KeyRotate
    | AuditTail | GroupsOf
)  # fmt: skip
ClientMessage = Hello | GetMap | GetTicket | GetKeys | PoolMessage | ImageMessage | ClusterMessage
AnswerMessage = (
    Done | Failure | Joined | DeviceRegistered | HeartbeatOk | Welcome | MapIs | TicketIs | PoolIs | PoolsAre | ImageIs
    | ImagesAre | ImageOpened | ImageRenewed | DevicesAre | StatusIs | ClientIs | ClientsAre | JoinTicketIs
    | CertificateIs | KeyEpochIs | AuditIs | ConfigsAre
)  # fmt: skip
PushMessage = Decided | SecretsAre
Message = Join | DaemonMessage | ClientMessage | AnswerMessage | PushMessage
