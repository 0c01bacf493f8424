"""The ledger: one transaction a turn, answers after it, an end when the store fails."""

import asyncio
from pathlib import Path

import pytest

from master.ledger import Ledger
from master.metastore.interface import Compare, StoreFailed
from master.metastore.sqlite import SqliteStore


def test_one_transaction_for_all_that_is_staged(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await SqliteStore.open(tmp_path / "a.db")
        ledger = Ledger(store, Compare("owner", 0), lambda error: None)
        watch = store.watch("")
        await ledger.settled()  # nothing to wait for
        for number in range(100):
            ledger.put(f"key/{number}", b"old")
        ledger.put("key/5", b"new")
        ledger.delete("key/6")
        await ledger.settled()
        assert len(await watch.next()) == 100
        assert ledger.commits == 1
        five = await store.get("key/5")
        assert five is not None and five.value == b"new" and await store.get("key/6") is None
        await ledger.close()
        await store.close()

    asyncio.run(scenario())


def test_whoever_waits_sees_what_came_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await SqliteStore.open(tmp_path / "a.db")
        ledger = Ledger(store, Compare("owner", 0), lambda error: None)
        order: list[int] = []

        async def decide(number: int) -> None:
            ledger.put("last", b"%d" % number)
            await ledger.settled()
            item = await store.get("last")
            assert item is not None and int(item.value) >= number
            order.append(number)

        async def look(number: int) -> None:
            await ledger.settled()
            order.append(number)

        await asyncio.gather(*(decide(n) if n % 3 else look(n) for n in range(60)))
        assert sorted(order) == list(range(60)) and ledger.commits < 10
        await store.close()

    asyncio.run(scenario())


def test_a_second_master_is_stopped_by_its_first_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = await SqliteStore.open(tmp_path / "a.db")
        failures: list[StoreFailed] = []
        ledger = Ledger(store, Compare("owner", 0), failures.append)
        ledger.put("a", b"1")
        await ledger.settled()
        await store.transact((), {"owner": b"somebody else"})
        ledger.put("a", b"2")
        with pytest.raises(StoreFailed, match="another master"):
            await ledger.settled()
        with pytest.raises(StoreFailed):
            await ledger.settled()
        assert len(failures) == 1
        item = await store.get("a")
        assert item is not None and item.value == b"1"
        await ledger.close()
        await store.close()

    asyncio.run(scenario())
