"""What changes, told as it does: to whom, how soon, from where on, and when no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from api_rig import Served, problem
from control_rig import World, furnish
from sqlalchemy import delete, select, text, update
from stream_rig import Stream, watching

from supercloud.model.errors import Exhausted
from supercloud.model.kinds import Kind
from supercloud.model.names import new_id
from supercloud.services import feed, inbox
from supercloud.services.feed import Feed, Listener, Lost, Place
from supercloud.services.requests import CreateNetwork
from supercloud.services.store.changes import Act, Change
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Cloud, MintedToken, Network, Principal, Provider

pytestmark = pytest.mark.contract


async def test_everything_that_changes_is_told(api: Served, world: World, http: httpx.AsyncClient) -> None:
    async with watching(http) as stream:
        assert (await stream.next()).name == "ready"
        await furnish(api.bench, world.keys)
        for kind in (Kind.PROVIDER, Kind.CLOUD, Kind.NETWORK, Kind.IMAGE):
            assert (await stream.change(kind=kind))["act"] == Act.ADDED
        await api.bench.blanket("n1")
        added = await stream.change(kind=Kind.BLANKET)
        assert (added["act"], added["name"], added["cloud_name"]) == (Act.ADDED, "n1", "c")
        await stream.change(kind=Kind.OPERATION, state="succeeded", name="n1")
        instance = await api.bench.run(on="n1")
        assert (await stream.change(kind=Kind.INSTANCE))["act"] == Act.ADDED
        shown = await stream.change(kind=Kind.INSTANCE, state="running")
        assert (shown["id"], shown["act"], shown["name"]) == (instance, Act.CHANGED, "web")
        assert time.time() - 60 < shown["at"] <= time.time()
        view = await api.bench.control.remove_instance("web", force=True)
        await api.bench.done(view)
        await stream.change(kind=Kind.INSTANCE, act=Act.REMOVED, id=instance)
        blanket = (await api.bench.control.blanket("n1")).id
        await inbox.finding(api.bench.parts.store, blanket, added["cloud"], "clone.seen", {"x": 1})
        report = await stream.change(kind=Kind.REPORT, name="clone.seen")
        assert report["data"]["data"] == {"x": 1} and report["data"]["blanket"] == blanket


async def test_who_comes_back_goes_on_and_who_filters_hears_that_only(
    api: Served,
    http: httpx.AsyncClient,
) -> None:
    control = api.bench.control
    for name in ("a", "b"):
        await http.post("/clouds", json={"name": name})
    async with watching(http, cloud="b", kind=["network", "cloud"]) as stream:
        begun = (await stream.next()).id
        for cloud in ("a", "b"):
            await control.create_network(CreateNetwork(name=f"{cloud}n", cloud=cloud, cidr="10.1.0.0/24"))
        assert (await stream.change())["name"] == "bn"
    for how in ({"params": {"since": begun}}, {"headers": {"Last-Event-ID": begun}}):
        async with http.stream("GET", "/events", **_with(how, lasts_s=0)) as answer:
            said = await Stream(answer).rest()
        assert [(one.name, one.data.get("name")) for one in said] == [
            ("ready", None),
            ("change", "an"),
            ("change", "bn"),
        ]
    async with watching(http, since=said[1].id, lasts_s=0) as stream:
        assert [one.data.get("name") for one in await stream.rest()] == [None, "bn"]


def _with(how: dict[str, Any], **query: object) -> dict[str, Any]:
    return {**how, "params": {**how.get("params", {}), **query}}


async def test_the_command_follows_and_shows_what_was_reported(
    api: Served,
    world: World,
    http: httpx.AsyncClient,
) -> None:
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    blanket, cloud = await api.bench.control.blanket("n1"), await api.bench.control.cloud("c")
    await inbox.finding(api.bench.parts.store, blanket.id, cloud.id, "clone.seen", {"x": 1})
    (past,) = (await api.ok("events", "--past", "--blanket", "n1", "-o", "json")).json
    assert (past["kind"], past["data"], past["blanket"]) == ("clone.seen", {"x": 1}, "n1")
    await api.wrong("events", "--past", "--kind", "cloud", status=2)
    await api.wrong("events", "--cloud", "nowhere", status=3)
    following = await api.start("events", "-o", "json", "--kind", "cloud", "--kind", "network")
    assert following.process.stdout is not None
    async with asyncio.timeout(100):
        assert json.loads(await following.process.stdout.readline())["event"] == "ready"
        await http.post("/clouds", json={"name": "d"})
        told = json.loads(await following.process.stdout.readline())
    assert (told["event"], told["kind"], told["name"], told["act"]) == ("change", "cloud", "d", "added")
    following.interrupt()
    assert (await following.done()).status == 130


async def test_what_is_not_kept_is_said_to_be_lost(api: Served, http: httpx.AsyncClient) -> None:
    for since in (f"{'0' * 16}-1", str(Place(api.bench.parts.feed.now.line, 10**9))):
        async with watching(http, since=since) as stream:
            (lost,) = await stream.rest()
        assert lost.name == "lost" and lost.id == str(api.bench.parts.feed.now)
        async with watching(http, since=lost.id, lasts_s=0) as stream:
            assert [one.name for one in await stream.rest()] == ["ready"]
    for bad in ("x", "0-0", "0" * 16 + "-", "0" * 70, f"{'0' * 16}-{'9' * 16}"):
        problem(await http.get("/events", params={"since": bad}), 422, "invalid-input")
    problem(await http.get("/events", params={"cloud": "nowhere"}), 404, "not-found")
    problem(await http.get("/events", params={"kind": "cat"}), 422, "invalid-input")


async def test_a_slow_one_is_told_to_begin_anew_and_costs_no_memory() -> None:
    line = Feed(kept=10)
    slow, quick = line.watch("p", None), line.watch("q", None)
    for number in range(25):
        line.publish([_change(str(number))])
        told = await quick.next(0)
        assert told.change is not None and told.change.name == str(number)
    with pytest.raises(Lost) as lost:
        await slow.next(0)
    again = line.watch("p", lost.value.now)
    assert (await again.next(0.01)).change is None
    watches = [line.watch("p", None) for _ in range(feed.WATCHERS_OF_ONE - 2)]
    with pytest.raises(Exhausted):
        line.watch("p", None)
    for one in (slow, again, *watches, *watches):
        one.close()
    line.watch("p", None).close()


# ---------------------------------------------------------------- how the store learns of it


@asynccontextmanager
async def line_of(store: Store) -> AsyncIterator[Feed]:
    line = Feed()
    listener = Listener(store, line)
    await listener.start()
    try:
        yield line
    finally:
        await listener.close()


async def test_one_statement_for_many_rows_is_seen_too_and_a_rollback_is_not(store: Store) -> None:
    async with line_of(store) as line:
        watch = line.watch(None, None)
        async with store.write() as session:
            cloud = Cloud(
                id=new_id(), name="c", cpu_model="m", length_s=60, margin_s=1, grace_s=1, created_at=0
            )
            session.add(cloud)
            await session.flush()
            for number in range(2):
                session.add(_network(cloud.id, number))
        assert await _told(watch, 3) == [("c", "added"), ("n0", "added"), ("n1", "added")]
        with pytest.raises(ZeroDivisionError):
            async with store.write() as session:
                await session.execute(delete(Network))
                raise ZeroDivisionError
        async with store.write() as session:
            await session.execute(update(Network).where(Network.name == "n1").values(gateway="10.0.0.9"))
            session.add(_network(cloud.id, 2))
            await session.flush()
            await session.execute(delete(Network).where(Network.name == "n2"))
        async with store.write() as session:
            who = Principal(id=new_id(), name="p", key="k", roles=[], created_at=0)
            session.add(who)
            await session.flush()
            session.add(
                MintedToken(id="ab" * 64, principal=who.id, only=None, clouds=None, minted_at=0, expires_at=9)
            )
        async with store.write() as session:
            row = (await session.scalars(select(Network).where(Network.name == "n0"))).one()
            row.gateway = row.gateway  # nothing is changed
        async with store.write() as session:
            await session.execute(delete(Network))
            await session.delete(await session.get_one(Cloud, cloud.id))
        told = await _told(watch, 6)
        assert told[:3] == [("n1", "changed"), ("p", "added"), ("ab" * 64, "added")]
        assert sorted(told[3:]) == [("c", "removed"), ("n0", "removed"), ("n1", "removed")]


async def test_what_another_controller_commits_is_told_as_well(database_url: str) -> None:
    """On PostgreSQL; and a connection that ends loses nothing without a word."""
    if database_url.startswith("sqlite"):
        pytest.skip("it has one controller")
    here, there = await Store.open(database_url), await Store.open(database_url)
    try:
        async with line_of(here) as line:
            watch = line.watch(None, None)
            async with there.write() as session:
                session.add(_provider("far", {"big": "x" * 20_000}))
            assert await _told(watch, 1) == [("far", "added")]
            before = line.now.line
            async with there.write() as session:
                await session.execute(_END_LISTENERS)
            async with asyncio.timeout(20):
                while line.now.line == before:
                    await line.arrival(1)
            with pytest.raises(Lost):
                await watch.next(0)
            async with asyncio.timeout(20):
                told = None
                while told is None or told.change is None:
                    again = line.watch(None, None)
                    async with there.write() as session:
                        session.add(_provider(f"p{new_id()[:8]}", {}))
                    with contextlib.suppress(Lost):  # it began to listen again meanwhile
                        told = await again.next(2)
    finally:
        await here.close()
        await there.close()


_END_LISTENERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def _provider(name: str, options: dict[str, Any]) -> Provider:
    return Provider(id=new_id(), name=name, kind="x", options=options, declaration={}, created_at=0)


def _network(cloud: str, number: int) -> Network:
    return Network(
        id=new_id(),
        cloud=cloud,
        name=f"n{number}",
        vni=5000 + number,
        cidr="10.0.0.0/24",
        gateway="10.0.0.1",
        created_at=0,
    )


async def _told(watch: feed.Watch, count: int) -> list[tuple[str, str]]:
    found = []
    for _ in range(count):
        told = await watch.next(20)
        assert told.change is not None, found
        found.append((told.change.name, str(told.change.act)))
    return found


def _change(name: str) -> Change:
    return Change(
        kind=Kind.PROVIDER,
        act=Act.ADDED,
        id=new_id(),
        name=name,
        cloud=None,
        cloud_name=None,
        owner=None,
        state=None,
        at=0.0,
    )
