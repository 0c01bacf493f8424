"""What a primary knows of another member in this epoch; lost at every epoch and restart."""

from typing import Final

from store.ids import Who

NEVER: Final = float("-inf")


class Peer:
    """Positions are those that the member itself told; times are this device's clock."""

    __slots__ = (
        "attempt", "backoff", "fruitless", "leapt", "lease", "matched", "moved_at", "seen", "sent_at", "sent_to",
        "synced", "who", "whole",
    )  # fmt: skip

    def __init__(self, now: float, who: Who, matched: int, synced: int, whole: bool, attempt: int) -> None:
        self.who: Final = who
        self.matched = matched
        self.synced = synced
        self.whole = whole
        self.attempt = attempt  # of the join that counts (R23); 0 for an in-sync member
        self.lease = NEVER  # end of the lease it granted
        self.seen = now
        self.moved_at = now  # when `matched` last rose
        self.sent_at = NEVER
        self.sent_to = matched  # records up to here are on the way
        self.leapt = False  # a run from the commit point has been tried
        self.fruitless = 0  # runs from the oldest record at hand that brought nothing
        self.backoff = 0.0  # added to the wait before the next resend
