"""What every MetaStore must do. A second implementation is added to `STORES` and must pass the same tests."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from master.metastore.interface import Compare, Event, Item, Lagged, MetaStore, StoreFailed
from master.metastore.sqlite import SqliteStore
from master.metastore.watching import BACKLOG_MAX

Opener = Callable[[Path], Awaitable[MetaStore]]
Scenario = Callable[[MetaStore], Awaitable[None]]


async def open_sqlite(directory: Path) -> MetaStore:
    return await SqliteStore.open(directory / "store.db")


STORES: dict[str, Opener] = {"sqlite": open_sqlite}


@pytest.fixture(params=list(STORES))
def opener(request: pytest.FixtureRequest) -> Opener:
    return STORES[request.param]


def on(opener: Opener, directory: Path, scenario: Scenario) -> None:
    async def whole() -> None:
        store = await opener(directory)
        try:
            await asyncio.wait_for(scenario(store), 10)
        finally:
            await store.close()

    asyncio.run(whole())


def test_items_and_revisions(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        assert await store.get("a") is None
        first = await store.transact((), {"a": b"1", "b": b"2"})
        assert first is not None
        assert await store.get("a") == Item("a", b"1", first)
        second = await store.transact((), {"a": b"3", "b": None})
        assert second == first + 1
        assert await store.get("a") == Item("a", b"3", second)
        assert await store.get("b") is None
        assert await store.transact((), {"missing": None}) == second + 1
        assert await store.transact((), {}) == second + 1

    on(opener, tmp_path, scenario)


def test_compare(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        assert await store.transact((Compare("a", 1),), {"a": b"x"}) is None
        made = await store.transact((Compare("a", 0),), {"a": b"1"})
        assert made is not None
        assert await store.transact((Compare("a", 0),), {"a": b"2"}) is None
        assert await store.transact((Compare("a", made), Compare("b", 5)), {"a": b"2", "c": b"3"}) is None
        assert await store.range("") == [Item("a", b"1", made)]
        assert await store.transact((Compare("a", made), Compare("b", 0)), {"b": b"2"}) == made + 1
        assert await store.transact((Compare("a", made),), {}) == made + 1
        assert await store.transact((Compare("a", made + 1),), {}) is None

    on(opener, tmp_path, scenario)


def test_one_of_many_wins(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        tries = [store.transact((Compare("lock", 0),), {"lock": b"%d" % number}) for number in range(20)]
        won = [revision for revision in await asyncio.gather(*tries) if revision is not None]
        assert len(won) == 1

    on(opener, tmp_path, scenario)


def test_ranges_are_by_prefix_in_order(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        keys = ["b/2", "b/10", "b/", "b", "a/1", "c", "b0", "b/%", "b/ü"]
        await store.transact((), {key: key.encode() for key in keys})
        assert [item.key for item in await store.range("b/")] == sorted(key for key in keys if key.startswith("b/"))
        assert [item.key for item in await store.range("")] == sorted(keys)
        assert await store.range("nothing") == []

    on(opener, tmp_path, scenario)


def test_what_was_written_is_there_after_a_restart(opener: Opener, tmp_path: Path) -> None:
    async def write(store: MetaStore) -> None:
        for number in range(50):
            await store.transact((), {f"key/{number:02d}": bytes([number]) * 1000})

    async def read(store: MetaStore) -> None:
        items = await store.range("key/")
        assert [item.value for item in items] == [bytes([number]) * 1000 for number in range(50)]
        assert await store.transact((), {"x": b""}) == items[-1].revision + 1
        assert await store.get("x") == Item("x", b"", items[-1].revision + 1)

    on(opener, tmp_path, write)
    on(opener, tmp_path, read)


def test_watch(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        await store.transact((), {"a/0": b"before"})
        watch, other = store.watch("a/"), store.watch("b/")
        first = await store.transact((), {"a/1": b"1", "b/1": b"2"})
        second = await store.transact((), {"a/1": None, "c": b"3"})
        assert await store.transact((Compare("a/0", 99),), {"a/2": b"never"}) is None
        third = await store.transact((), {"a/3": b"4"})
        assert first and second and third
        assert await watch.next() == (Event("a/1", b"1", first),)
        assert await watch.next() == (Event("a/1", None, second),)
        assert await watch.next() == (Event("a/3", b"4", third),)
        assert await other.next() == (Event("b/1", b"2", first),)
        watch.close()
        other.close()

    on(opener, tmp_path, scenario)


def test_a_slow_watcher_is_told(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        watch = store.watch("")
        for number in range(BACKLOG_MAX + 1):
            await store.transact((), {"a": b"%d" % number})
        for _ in range(BACKLOG_MAX):
            await watch.next()
        with pytest.raises(Lagged):
            await watch.next()

    on(opener, tmp_path, scenario)


def test_leases(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        lease = await store.grant(60)
        assert lease != 0
        watch = store.watch("")
        await store.transact((), {"mine": b"1", "passed on": b"2", "freed": b"3"}, lease)
        await store.transact((), {"freed": b"4"})
        await store.transact((), {"passed on": b"5"}, await store.grant(60))
        assert await store.keep(lease)
        await store.revoke(lease)
        assert [item.key for item in await store.range("")] == ["freed", "passed on"]
        events = [await watch.next() for _ in range(4)]
        assert [(event.key, event.value) for event in events[-1]] == [("mine", None)]
        assert not await store.keep(lease)
        assert await store.transact((), {"late": b""}, lease) is None
        assert await store.get("late") is None
        await store.revoke(lease)

    on(opener, tmp_path, scenario)


def test_a_lease_ends_by_itself(opener: Opener, tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        lease = await store.grant(0.05)
        await store.transact((), {"leader": b"me"}, lease)
        watch = store.watch("leader")
        assert [(event.key, event.value) for event in await watch.next()] == [("leader", None)]
        assert await store.get("leader") is None
        assert not await store.keep(lease)

    on(opener, tmp_path, scenario)


def test_sqlite_leases_end_with_the_process(tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        await store.transact((), {"leader": b"me"}, await store.grant(60))
        await store.transact((), {"kept": b"x"})

    async def later(store: MetaStore) -> None:
        assert [item.key for item in await store.range("")] == ["kept"]

    on(open_sqlite, tmp_path, scenario)
    on(open_sqlite, tmp_path, later)


def test_sqlite_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StoreFailed, match=r"cannot open .*store\.db: file is not a database"):
        asyncio.run(open_sqlite(tmp_path))
    (tmp_path / "store.db").unlink()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreFailed, match="later version"):
        asyncio.run(open_sqlite(tmp_path))


def test_sqlite_keeps_secrets_to_its_owner(tmp_path: Path) -> None:
    async def scenario(store: MetaStore) -> None:
        await store.transact((), {"secret": b"x"})
        assert modes() == [0] * 3

    def modes() -> list[int]:
        return [path.stat().st_mode & 0o077 for path in tmp_path.iterdir()]

    on(open_sqlite, tmp_path, scenario)
