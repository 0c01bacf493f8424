"""Every bound of the system in one place, with the relations that must hold between them."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Objects
BLOCK: Final = 4 * KIB  # unit of checksums and of the overlay
OBJECT_MAX: Final = 4 * MIB
NAME_MAX: Final = 1024  # bytes
BLOCKS_PER_OBJECT: Final = OBJECT_MAX // BLOCK

# Datagrams
DATAGRAM_MIN: Final = 1200
DATAGRAM_MAX: Final = 60_000
BURST_MAX: Final = 60 * KIB  # bytes of one read burst or of one GSO send
GSO_SEGMENTS_MAX: Final = 64  # kernels before 6.9 refuse more in one send
REPLAY_WINDOW: Final = 4096  # packet numbers

TICKET_MAX: Final = 512  # bytes; a ticket, a REQUEST and a short name fit the smallest datagram
RANGES_MAX: Final = 64  # of one READ
ACK_BITMAP_MAX: Final = 128  # bytes
ECHO_EVERY: Final = 16  # datagrams of a range

# A daemon's transport sessions
TRANSPORT_SESSIONS: Final = 4096
TICKETS_CACHED: Final = 1024
WRITE_MEMORY: Final = 256 * MIB  # fragmented requests in progress, all sessions together
WRITE_WINDOW_FIRST: Final = 64 * KIB  # what a client may have unfinished before the first ACK says more
WRITE_WINDOW_MIN: Final = 64 * KIB
WRITE_WINDOW_MAX: Final = 8 * MIB
ASSEMBLY_IDLE_S: Final = 10.0
ASSEMBLIES_PER_SESSION: Final = 256
ANSWERS_KEPT: Final = 16  # replies to fragmented requests that a session can repeat
ACK_EVERY: Final = 16  # datagrams
SESSION_QUEUE_MAX: Final = 256 * KIB  # answers waiting for a capped uplink, one session
EGRESS_QUEUE_MAX: Final = 64 * MIB  # answers not yet sent, all sessions
EGRESS_SHARE: Final = 0.9  # of the uplink that is used
EGRESS_DEPTH_S: Final = 0.004  # of the token bucket
BUSY_MS_MIN: Final = 5
BUSY_MS_MAX: Final = 2000
STAMP_EPOCH_S: Final = 600
AMPLIFICATION_MAX: Final = 3  # bytes answered per byte received from an address that is not proved

# A client's requests to one daemon
BUSY_BURSTS_MAX: Final = 64  # times in a row that a large read waits out BUSY by itself, before it ends as BUSY
REQUESTS_IN_FLIGHT: Final = 4096  # of one endpoint; beyond it `request` refuses
LIVES_KEPT: Final = 16

# Duplicate table of a group
SESSIONS_PER_GROUP: Final = 4096
SEQUENCE_WINDOW: Final = 64
SESSION_IDLE_S: Final = 15 * 60.0
LOCKS_PER_GROUP: Final = 65_536

# Log of a group
GROUP_TAIL_RECORDS: Final = 1024  # not yet committed; beyond, clients are told BUSY
FEED_BATCH: Final = 64  # records of one run to a member that catches up
LOG_RETAIN: Final = 64  # records kept behind the checkpoint, for members that come back
LOG_RETAIN_LEARNER: Final = 4096  # the same while a connected learner needs them
REPLIES_HELD: Final = 1024  # of one group, committed while a lease is missing; beyond, the client asks again
CONFIGS_PER_MESSAGE: Final = 64
HISTORY_MAX: Final = 16  # incarnations a device remembers

# Times, in seconds (replication rules, section 'Timers')
CLOCK_DRIFT: Final = 0.05
LEASE_S: Final = 6.0
GRACE_S: Final = 8.0
BEAT_S: Final = 1.5
APPEND_RESEND_S: Final = 0.3
CAS_RETRY_S: Final = 1.0
CONFIG_REFRESH_S: Final = 30.0
BACKGROUND_SYNC_S: Final = 5.0
JOIN_RETRY_S: Final = 2.0
REVIVE_WAIT_S: Final = 2 * GRACE_S
CLIENT_GIVES_UP_S: Final = 60.0
IMAGE_LOCK_LEASE_S: Final = 30.0

assert 28 + 2 + TICKET_MAX + 64 + 16 + 256 <= DATAGRAM_MIN
assert ACK_BITMAP_MAX * 8 < REPLAY_WINDOW
assert GRACE_S > LEASE_S * (1 + CLOCK_DRIFT) / (1 - CLOCK_DRIFT)
assert BEAT_S <= LEASE_S / 4
assert OBJECT_MAX % BLOCK == 0

# Control plane: the channel between a master and its daemons and clients
CONTROL_FRAME_MAX: Final = 16 * MIB
CONTROL_BACKLOG_MAX: Final = 64 * MIB  # bytes queued to one reader; beyond it the connection is dropped
MASTER_OUTBOX_MAX: Final = 65_536  # proposals and questions of one daemon waiting for one frame
CONTROL_CALLS_MAX: Final = 64  # frames of one connection waiting to be handled; reading pauses beyond it
DECIDED_MAX: Final = 64  # messages of the arbiter in one frame; each holds at most CONFIGS_PER_MESSAGE
REGISTERED_CONFIGS_MAX: Final = 16_384  # in the answer to a registration; more follow in pushes
CONTROL_CONNECTIONS_MAX: Final = 4096
CONTROL_CALL_S: Final = 10.0  # default deadline of a call
CONTROL_HANDSHAKE_S: Final = 10.0
CONTROL_HANDSHAKES_MAX: Final = 256  # connections that have not proved who they are yet; more are closed at once
CONTROL_REDIAL_MIN_S: Final = 0.1
CONTROL_REDIAL_MAX_S: Final = 3.0
MAP_PUSH_S: Final = 0.2  # at most one map push in this time: changes in between travel together

# Credentials
CAPS_MAX: Final = 16  # capabilities of one client
TICKET_LIFETIME_S: Final = 24 * 3600
KEY_ROTATION_S: Final = 24 * 3600  # a key epoch stays in the ring for one rotation after its own
JOIN_TICKET_S: Final = 3600

# Registry of the master
GROUPS_MAX: Final = 65_536  # of one pool
GROUPS_DEFAULT: Final = 128
REPLICAS_MAX: Final = 8
POOLS_MAX: Final = 4096
DEVICES_MAX: Final = 4096
HEARTBEAT_S: Final = 2.0
DEVICE_SUSPECT_S: Final = 10.0
DEVICE_DOWN_S: Final = 30.0
CLIENTS_MAX: Final = 10_000
IMAGE_MAX: Final = 1 << 50  # bytes
IMAGE_NAME_MAX: Final = 128  # bytes
JOIN_TICKETS_MAX: Final = 1024  # made and not used
JOIN_TICKET_LIFETIME_MAX_S: Final = 30 * 24 * 3600
MASTER_TICK_S: Final = 1.0
GENERATION_MAX: Final = 0xFFFF  # recovery generations; the top of a ticket's serial
AUDIT_KEPT: Final = 10_000  # newest entries
POOL_WAIT_MAX_S: Final = 60.0  # how long a pool may wait for its first devices

assert KEY_ROTATION_S >= TICKET_LIFETIME_S  # no ticket outlives the key it was made with
assert HEARTBEAT_S * 3 < DEVICE_SUSPECT_S < DEVICE_DOWN_S

# Client
CLIENT_BATCH: Final = 64  # operations of one caller in flight at once, of a large trim or flush
CLIENT_ATTEMPTS_MAX: Final = 512  # submissions of one operation, redirections included
CLIENT_SILENCE_S: Final = 1.5  # a device that sent nothing for so long, while owing answers, is tried again elsewhere
CLIENT_SUSPECT_SILENCE_S: Final = 0.5  # the same for a device that was silent before
CLIENT_ATTEMPT_S: Final = 10.0  # longest attempt at a device that does send, before the time its bytes need
CLIENT_ATTEMPT_RATE: Final = 64 * KIB  # bytes per second that an attempt is given time for
CLIENT_BACKOFF_MIN_S: Final = 0.01
CLIENT_BACKOFF_MAX_S: Final = 0.5  # while looking for the primary: short against the grace
CLIENT_BUSY_MAX_S: Final = 5.0
CLIENT_WAITING_MAX: Final = 4096  # operations of one async client that wait for their turn
CLIENT_SOCKET_BUFFER: Final = 4 * MIB
CLIENT_CONNECTIONS_MAX: Final = 64  # sockets of one blocking client; callers beyond it wait
CLIENT_TICK_S: Final = 0.005  # a blocking receive returns at least this often

# Images
IMAGE_KEPT_SOFT: Final = 32 * MIB  # acknowledged unstable data at which a flush begins by itself
IMAGE_KEPT_MAX: Final = 64 * MIB  # at which writers wait for it
IMAGE_SIZE_MAX: Final = 1 << 50
EXTENT_OBJECTS_MAX: Final = 256  # objects asked about in one extents call

assert CLIENT_SILENCE_S < LEASE_S
assert CLIENT_BATCH <= SEQUENCE_WINDOW
assert IMAGE_KEPT_SOFT + OBJECT_MAX < IMAGE_KEPT_MAX

# Daemon shell
REGISTER_S: Final = 15.0  # a new daemon that finds no master by then gives up
COLD_READS_MAX: Final = 64  # reads waiting for the disk's thread; more are told BUSY
