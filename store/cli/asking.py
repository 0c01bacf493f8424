"""Questions to the master: connect, say who we are, ask, hang up."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from store.addresses import Address, format_address
from store.cli.invocation import Invocation
from store.client.config import ClientConfig, find_config, load_config
from store.control.channel import Connection, Quiet, dial
from store.control.messages import Hello, Welcome
from store.crypto.identity import MASTER
from store.errors import ConfigError, Status, StoreError

A = TypeVar("A", bound=msgspec.Struct)
T = TypeVar("T")

CONNECT_S = 1.8  # per master: a person waits; a wrong address must say so within two seconds


def configured(invocation: Invocation, config: Path | None = None) -> ClientConfig:
    """The configuration of the cluster: this command's --config, else the one before it, else the usual places."""
    return load_config(find_config(config or invocation.config))


async def connect(config: ClientConfig) -> tuple[Connection, Welcome]:
    """A connection to the first master that answers, and what it said. Raises StoreError."""
    context = config.tls()
    refused: StoreError | None = None
    for address in config.masters:
        try:
            connection = await dial(address, context, MASTER, Quiet(), CONNECT_S)
            return connection, await connection.call(Hello(program="store"), Welcome)
        except StoreError as error:
            refused = error
    raise refused or ConfigError(f"{config.path} names no master")


async def conversing(config: ClientConfig, talk: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `talk` on a connection that is closed afterwards."""
    connection, _ = await connect(config)
    try:
        return await talk(connection)
    finally:
        connection.close()


def ask(config: ClientConfig, message: msgspec.Struct, answer: type[A], deadline_s: float = 10.0) -> A:
    """One call and its answer. Raises StoreError and ConfigError, each one line."""

    async def talk(connection: Connection) -> A:
        return await connection.call(message, answer, deadline_s)

    try:
        return asyncio.run(conversing(config, talk))
    except StoreError as error:
        if error.status == Status.UNAVAILABLE:
            raise unreachable(config.masters, error) from error
        raise


def unreachable(masters: tuple[Address, ...], error: StoreError) -> StoreError:
    """The same error, saying what a person can do about it."""
    shown = ", ".join(format_address(address) for address in masters)
    return StoreError(error.status, f"no master answers at {shown} ({error}); is the cluster up? Try `store up`")
