"""Network addresses as people write them."""

from store.errors import ConfigError

Address = tuple[str, int]


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT`. Raises ConfigError."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"'{text}' is not an address; write HOST:PORT, for example 127.0.0.1:4148")
    return (host.strip("[]") or "0.0.0.0", int(port))


def format_address(address: Address) -> str:
    """The inverse of `parse_address`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
