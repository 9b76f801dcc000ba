"""Lists in parts: all of it and each once, whatever changes meanwhile; and quick however long the list is."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from api_rig import Served, problem
from control_rig import World, furnish, share_with
from hypothesis import given, settings
from hypothesis import strategies as st
from incident_rig import incident_event
from provider_rig import event
from sqlalchemy import event as sql_event
from sqlalchemy import insert
from test_instance_views import Rows

from supercloud.api import pages
from supercloud.api.pages import TEXT, TEXTS, TIMED, read_cursor, write_cursor
from supercloud.model.acts import ActKind
from supercloud.model.errors import InvalidInput
from supercloud.model.names import new_id
from supercloud.model.ocsf import DetectionFinding
from supercloud.model.orders import Command, Device, Reaction, Target
from supercloud.model.states import InstanceState
from supercloud.services import inbox, instance_views
from supercloud.services.pages import Page
from supercloud.services.security_views import AskAct, PlaceOrder, TakenOrders
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import Instance, NicRow, Right

pytestmark = pytest.mark.contract
_MANY = 10_000


async def all_of(http: httpx.AsyncClient, path: str, **query: Any) -> list[list[dict[str, Any]]]:
    """Its parts, as the links lead to them."""
    answer = await http.get(path, params=query)
    found = [answer.json()]
    while (link := answer.links.get("next")) is not None:
        answer = await http.get(link["url"].removeprefix("/v1"))
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
    return found


async def test_every_list_is_whole_in_parts(api: Served, world: World, http: httpx.AsyncClient) -> None:
    await furnish(api.bench, world.keys)
    for name in ("more", "other"):
        await http.post("/clouds", json={"name": name})
        await http.post("/networks", json={"name": "lan", "cloud": name, "cidr": "10.9.0.0/24"})
        await http.post("/volumes", json={"name": name, "cloud": "c", "size_bytes": 1 << 20})
        await http.post("/providers", json={"name": name, "kind": "simulated"})
        await http.post(
            "/principals", json={"name": name, "key": "ed25519/" + name[0].encode().hex()[1] * 64}
        )
        image = {"name": name, "digest": "sha256:" + name[0].encode().hex()[1] * 64, "size_bytes": 9}
        await http.post("/images", json={**image, "virtual_bytes": 9})
        await http.post("/tokens", json={})
    await api.bench.blanket("n1")
    await api.bench.blanket("n2")
    await api.bench.run(on="n1")
    await api.bench.run("web2", on="n2")
    await share_with(api.bench, "more", times=2)
    blanket = await api.bench.control.blanket("n1")
    cloud = (await api.bench.control.cloud("c")).id
    for number in range(3):
        await inbox.finding(api.bench.parts.store, blanket.id, cloud, "x.y", {"n": number})
        told = incident_event(new_id(), cloud=cloud, blanket=blanket.id)
        await inbox.take(api.bench.parts.store, blanket.id, cloud, [told], at=time.time())
    await _of_security(api, blanket.id)
    described = (await http.get("/openapi.json")).json()
    for path, item in described["paths"].items():
        parameters = {one["name"] for one in item.get("get", {}).get("parameters", ())}
        if "cursor" not in parameters:
            continue
        where = path.removeprefix("/v1")
        (whole,) = await all_of(http, where, limit=1000)
        assert len(whole) >= 2, where
        parts = await all_of(http, where, limit=1)
        assert [len(part) for part in parts] == [1] * len(whole)
        for got, wanted in zip(parts, whole, strict=True):
            assert got[0]["id"] == wanted["id"], where
    assert [one["data"]["n"] for one in (await http.get("/reports?kind=x.y&blanket=n1")).json()] == [2, 1, 0]


async def _of_security(api: Served, machine: str) -> None:
    """Findings, orders and acts about a machine."""
    control = api.bench.control
    south = control.southbound()
    found = [DetectionFinding.model_validate(event(f"e-{n}", machine=machine)) for n in range(3)]
    await south.deliver(found, domain="p")
    await south.take_orders("p", TakenOrders(takes=(Reaction.RESTART,)))
    command = Command(action="restart", target=Target(device=Device()))
    for _ in range(3):
        await control.place_order(PlaceOrder(blanket=machine, command=command))
        now = int(time.time())
        asked = AskAct(
            operation=ActKind.DUMP,
            machine=machine,
            arguments="sha256:" + "0" * 64,
            purpose="x",
            not_before=now,
            expires_at=now + 60,
        )
        await south.ask_act(asked)


async def test_filters_hold_over_all_parts(api: Served, http: httpx.AsyncClient) -> None:
    for cloud in ("a", "b"):
        await http.post("/clouds", json={"name": cloud})
        for name in ("x", "y", "z"):
            await http.post("/volumes", json={"name": name, "cloud": cloud, "size_bytes": 1 << 20})
    parts = await all_of(http, "/volumes", cloud="b", limit=2)
    assert [[one["name"] for one in part] for part in parts] == [["x", "y"], ["z"]]
    parts = await all_of(http, "/volumes", name="y", limit=1)
    assert sorted(part[0]["cloud"] for part in parts) == ["a", "b"]
    first = await http.get("/volumes", params={"cloud": "a", "limit": 1})
    await http.delete("/volumes/x?cloud=a")
    async for _ in _until_gone(http):
        pass
    rest = await http.get(first.links["next"]["url"].removeprefix("/v1"))
    assert rest.json()[0]["name"] == "y", "what it went on behind is gone, and nothing is left out"
    assert (await http.get("/instances", params={"state": "running"})).json() == []
    for bad in (
        {"limit": 0},
        {"limit": 1001},
        {"cursor": "!"},
        {"cursor": "x" * 1025},
        {"cursor": write_cursor("clouds", ("a", "b"))},
        {"cursor": write_cursor("volumes", ("a", "\x00"))},
        {"cursor": write_cursor("volumes", ("a",))},
        {"name": "UPPER"},
    ):
        problem(await http.get("/volumes", params=bad), 422, "invalid-input")
    problem(await http.get("/instances", params={"state": "asleep"}), 422, "invalid-input")


async def _until_gone(http: httpx.AsyncClient) -> Any:
    while len((await http.get("/volumes", params={"cloud": "a"})).json()) == 3:
        yield


_KINDS = st.sampled_from([TEXT, TEXTS, TIMED])


@given(kinds=_KINDS, data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_cursor_says_what_it_was_made_of(kinds: tuple[type, ...], data: st.DataObject) -> None:
    floats = st.floats(allow_nan=False, allow_infinity=False)
    texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50)
    key = tuple(data.draw(floats if kind is float else texts) for kind in kinds)
    text = write_cursor("things", key)
    assert read_cursor("things", kinds, text) == key
    with pytest.raises(InvalidInput):
        read_cursor("others", kinds, text)


@given(text=st.text(alphabet="abcXYZ019_-=W3siLCJd", max_size=60), kinds=_KINDS)
@settings(max_examples=300, deadline=None)
def test_any_other_text_is_refused_as_one(text: str, kinds: tuple[type, ...]) -> None:
    try:
        key = read_cursor("things", kinds, text)
    except InvalidInput:
        return
    assert len(key) == len(kinds)


@given(st.lists(st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers()), max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_database_is_asked_for_what_it_cannot_take(parts: list[Any]) -> None:
    text = write_cursor("things", tuple(parts))
    try:
        key = read_cursor("things", TIMED, text)
    except InvalidInput:
        return
    moment, name = key
    assert isinstance(moment, float) and moment - moment == 0
    assert isinstance(name, str) and "\x00" not in name and name.encode()


async def test_a_page_of_ten_thousand_is_as_quick_as_of_few(store: Store) -> None:
    rights = SqlRights(store)
    async with store.write() as session:
        rows = Rows(session)
        clouds = [await rows.cloud(f"c{number}") for number in range(20)]
        network = await rows.network(clouds[0], "lan", 7)
        ids = [new_id() for _ in range(_MANY)]
        where = [clouds[0] if number % 5 else clouds[number % 20] for number in range(_MANY)]
        await session.execute(
            insert(Instance), [_instance(*one, rows) for one in zip(ids, where, strict=True)]
        )
        await session.execute(insert(Right), [_right(*one) for one in zip(ids, where, strict=True)])
        nics = [one for one, cloud in zip(ids, where, strict=True) if cloud == clouds[0]]
        await session.execute(insert(NicRow), [_nic(*one, network, clouds[0]) for one in enumerate(nics)])
    statements: list[str] = []
    sql_event.listen(
        store.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2])
    )
    seen: list[str] = []
    took: list[float] = []
    page = Page(limit=1000)
    while True:
        statements.clear()
        begun = time.perf_counter()
        async with store.read() as session:
            part = await instance_views.views(session, rights, clouds=tuple(clouds), page=page)
        took.append(time.perf_counter() - begun)
        queries = [one for one in statements if not one.startswith(("BEGIN", "COMMIT"))]
        assert len(queries) <= 4, "however many there are"
        seen += [one.id for one in part]
        if part.after is None:
            break
        page = Page(limit=1000, after=part.after)
    assert sorted(seen) == sorted(ids) and len(took) == 10
    one = Page(limit=pages.DEFAULT, after=page.after)
    begun = time.perf_counter()
    async with store.read() as session:
        await instance_views.views(session, rights, clouds=tuple(clouds), page=one)
    assert time.perf_counter() - begun < 2, "it takes some milliseconds; this machine may be busy"
    if store.sqlite:
        async with store.read() as session:
            query = page.of(
                instance_views._SHOWN.where(Instance.cloud.in_(clouds)), Instance.cloud, Instance.name
            )
            said = query.compile(store.engine.sync_engine, compile_kwargs={"literal_binds": True})
            plan = await (await session.connection()).exec_driver_sql(f"EXPLAIN QUERY PLAN {said}")
            assert not any("TEMP B-TREE" in str(line) for line in plan), "its rows come sorted"


def _instance(identity: str, cloud: str, rows: Rows) -> dict[str, Any]:
    return {
        "id": identity,
        "cloud": cloud,
        "name": f"i-{identity}",
        "state": InstanceState.CREATED,
        "image": rows.image.id,
        "vcpus": 1,
        "memory_mib": 256,
        "ssh_keys": [],
        "hold": False,
        "reason": "",
        "created_at": 0.0,
    }


def _right(identity: str, cloud: str) -> dict[str, Any]:
    times = {"length_s": 60.0, "margin_s": 15.0, "grace_s": 30.0, "renew_every_s": 10.0, "expires_at": 0.0}
    return {"instance": identity, "cloud": cloud, "epoch": 0, "hold": False, "unsure": False, **times}


def _nic(number: int, identity: str, network: str, cloud: str) -> dict[str, Any]:
    return {
        "instance": identity,
        "network": network,
        "cloud": cloud,
        "position": 0,
        "mac": f"mac{number}",
        "ip": f"ip{number}",
    }
