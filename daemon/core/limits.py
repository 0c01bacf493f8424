"""The bounds and timers of the group core, in one value so that a simulation can choose others."""

from typing import NamedTuple

from store import limits as house


class Limits(NamedTuple):
    """Times in seconds of CLOCK_BOOTTIME; REPLICATION.md, section Timers."""

    lease: float = house.LEASE_S
    grace: float = house.GRACE_S
    beat: float = house.BEAT_S
    resend: float = house.APPEND_RESEND_S
    cas_retry: float = house.CAS_RETRY_S
    join_retry: float = house.JOIN_RETRY_S
    refresh: float = house.CONFIG_REFRESH_S
    revive_wait: float = house.REVIVE_WAIT_S
    background_sync: float = house.BACKGROUND_SYNC_S
    session_idle: float = house.SESSION_IDLE_S
    retain: int = house.LOG_RETAIN  # records kept behind the base
    retain_learner: int = house.LOG_RETAIN_LEARNER  # the same while a connected learner still needs them
    batch: int = house.FEED_BATCH  # records of one resent or catching-up run
    tail: int = house.GROUP_TAIL_RECORDS  # records of one group that are not yet committed
    sessions: int = house.SESSIONS_PER_GROUP
    window: int = house.SEQUENCE_WINDOW
    locks: int = house.LOCKS_PER_GROUP
    history: int = house.HISTORY_MAX
    replies_held: int = house.REPLIES_HELD  # committed, waiting for a lease
    min_write: int = 1  # in-sync members below which the primary takes no writes
