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

# Duplicate table of a group
SESSIONS_PER_GROUP: Final = 4096
SEQUENCE_WINDOW: Final = 64
SESSION_IDLE_S: Final = 15 * 60.0
LOCKS_PER_GROUP: Final = 65_536

# Times, in seconds (replication rules, section 'Timers')
CLOCK_DRIFT: Final = 0.05
LEASE_S: Final = 6.0
GRACE_S: Final = 8.0
BEAT_S: Final = 1.5
APPEND_RESEND_S: Final = 0.3
CAS_RETRY_S: Final = 1.0
CONFIG_REFRESH_S: Final = 30.0
BACKGROUND_SYNC_S: Final = 5.0
CLIENT_GIVES_UP_S: Final = 60.0
IMAGE_LOCK_LEASE_S: Final = 30.0

assert GRACE_S > LEASE_S * (1 + CLOCK_DRIFT) / (1 - CLOCK_DRIFT)
assert BEAT_S <= LEASE_S / 4
assert OBJECT_MAX % BLOCK == 0
