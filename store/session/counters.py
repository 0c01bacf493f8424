"""What a daemon counts about its clients' datagrams; the shell exposes the numbers as metrics."""


class ServiceCounters:
    """Plain counters since start; only `Service` writes them."""

    __slots__ = (
        "acks", "assemblies_dropped", "busy", "bytes_in", "bytes_out", "datagrams_in", "datagrams_out", "denied",
        "expired", "expired_deadlines", "malformed", "replays", "requests", "retries", "sessions_evicted",
        "sessions_opened", "unauthenticated",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    acks: int
    assemblies_dropped: int  # half-received writes given up
    busy: int  # requests refused for lack of memory or queue
    bytes_in: int
    bytes_out: int
    datagrams_in: int
    datagrams_out: int
    denied: int  # capabilities did not cover the request
    expired: int  # the ticket was too old
    expired_deadlines: int  # answers dropped because nobody waits for them
    malformed: int  # authentic, and no message of this protocol
    replays: int
    requests: int
    retries: int  # addresses asked to prove themselves
    sessions_evicted: int
    sessions_opened: int
    unauthenticated: int  # bad seal, unknown session without a ticket, unknown key epoch
