"""Who may do what: every operation of both APIs' own descriptions, by every role and relation to its object.

The table is in `expected`; what it is held against are answers. An operation that is new is in it at once,
and fails if it declares no permission, or has a body that nobody wrote down here.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from api_rig import HOST, Named, Served, Signing, served
from control_rig import DIGEST, World, furnish
from fastapi import APIRouter
from incident_rig import incident_event
from provider_rig import event
from pydantic import TypeAdapter
from sqlalchemy import update
from stream_rig import arrived, watching
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from supercloud.api import guard
from supercloud.client.http import CONTROLLER_NAME
from supercloud.model.names import MIB, new_id
from supercloud.model.permissions import APART, UNDIVIDED, Permission
from supercloud.model.trust import TrustKind
from supercloud.ports.agent import RunState
from supercloud.ports.tools import ForeignVm
from supercloud.services import inbox
from supercloud.services.northbound import Northbound
from supercloud.services.requests import AddBlanket, AddPrincipal, CreateCloud, CreateVolume, MintToken
from supercloud.services.security_views import ExportView, PlaceOrder
from supercloud.services.store.security import ActExport
from supercloud.services.store.tables import Cloud, Image
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tokens import Bounds, attenuate, hand_on, peek
from supercloud.wire.codec import to_json

pytestmark = pytest.mark.contract

#: Alice's, but for the provider. Her instance runs, so that whoever may do a thing to them is told why not.
REFS = {
    "principals": "alice",
    "providers": "p",
    "clouds": "c",
    "blankets": "n1",
    "images": "debian",
    "networks": "lan",
    "volumes": "web-root",
    "instances": "web",
    "domains": "pd",  # the provider's
}
SOUTH = "/southbound"
RESTART = {"action": "restart", "target": {"device": {}}}
_ORDER = TypeAdapter(PlaceOrder)
BODIES: dict[str, dict[str, Any]] = {
    "AddPrincipal": {"name": "alice", "key": "ed25519/" + "1" * 64},
    "Rekey": {},  # filled in: her own key
    "MintToken": {"principal": "alice"},
    "RevokeToken": {},  # filled in: the id of a token of hers
    "AddProvider": {"name": "p", "kind": "simulated"},
    "CreateCloud": {"name": "more"},
    "AddBlanket": {"name": "n1", "cloud": "c", "provider": "p"},
    "RegisterImage": {"name": "more", "digest": "sha256:" + "2" * 64, "size_bytes": 9, "virtual_bytes": 9},
    "CreateNetwork": {"name": "lan", "cloud": "c", "cidr": "10.9.0.0/24"},
    "CreateVolume": {"name": "data", "cloud": "c", "size_bytes": MIB},
    "RunInstance": {"name": "web", "cloud": "c", "image": "debian"},
    "Attach": {"instance": "web"},
    "Resize": {"size_bytes": 0},
    "Snapshot": {"snapshot": "s"},
    "Restore": {"snapshot": "s"},
    "BackUp": {"image": "debian"},
    "Migrate": {"to": "n1"},
    "AdoptVm": {"vm": "old", "blanket": "n1", "cloud": "c", "name": "adopted"},
    "MoveGroup": {"cloud": "c", "group": "g"},
    "PlaceInstance": {"group": "g"},
    "ProviderTerms": {},
    "SetLevel": {"level": "open"},
    "RegisterDomain": {"name": "pd", "kind": "simulated"},
    "DomainTerms": {},
    "PlanWindow": {},  # filled in: a time to come
    "Quota": {},
    "GrantTrust": {"kind": "share-image", "cloud": "c", "to": "c", "image": "debian"},
    "PlaceOrder": {"blanket": "n2", "cloud": "c", "command": RESTART},
    "CloseIt": {},
    "AnswerIt": {"yes": True},
    "SetPolicy": {"policy": '{"version": 1}'},
    "RollBack": {"version": 1},
    "ImportIndicators": {"bundle": '{"type": "bundle"}'},
    "TakenOrders": {"takes": ["restart:device"]},
    "Response": {"status": 102},
    "AskAct": {},  # filled in: about Alice's machine
    "AskChallenge": {"nonce": "0" * 64},
    "GrantAct": {},
    "DetectionFinding": event("again"),
    "Stop": {},
}
ALLOWED, MISSING, DENIED, UNKNOWN = "allowed", "missing", "denied", "unauthenticated"
_VERDICTS = {401: UNKNOWN, 403: DENIED, 404: MISSING}


@dataclass(frozen=True)
class Operation:
    """One of an API's description, aimed at what is Alice's, or the provider's."""

    method: str
    path: str
    permission: Permission
    body: dict[str, Any] | None
    of_hers: bool  # names a thing in a path or a body, which others do not have

    @property
    def south(self) -> bool:
        return self.path.startswith(SOUTH)

    @property
    def label(self) -> str:
        return f"{self.method} {self.path}"


def operations(described: dict[str, Any], known: dict[str, str], bodies: dict[str, Any]) -> list[Operation]:
    found = []
    for path, item in described["paths"].items():
        for method, one in item.items():
            thing = path.removeprefix(SOUTH).split("/")[2]
            where = (
                path.removeprefix("/v1").replace("{ref}", REFS.get(thing, "?")).replace("{digest}", DIGEST)
            )
            for name, identity in known.items():
                where = where.replace(f"{{{name}}}", identity)
            assert "{" not in where and "?" not in where, f"{path} has a parameter that is not known here"
            content = one.get("requestBody", {}).get("content", {}).get("application/json")
            body = None if content is None else bodies[_schema(content["schema"])]
            in_cloud = body is not None and bool({"cloud", "domain", "machine"} & body.keys())
            hers = "{" in path or in_cloud or path in {"/v1/tokens/revoke"} or body == BODIES["MintToken"]
            found.append(Operation(method.upper(), where, Permission(one[guard.PERMISSION_KEY]), body, hers))
    return found


def _schema(schema: dict[str, Any]) -> str:
    kinds = schema.get("anyOf") or schema.get("oneOf") or [schema]
    named = next(one["$ref"] for one in kinds if "$ref" in one)
    return str(named).rpartition("/")[2]


# ---------------------------------------------------------------- who asks

#: How each stands to Alice and her cloud `c`.
WHO = (
    "nobody", "thief", "expired", "revoked", "bob", "rival", "provider",
    "operator", "elsewhere", "reader", "runner", "alice",
)  # fmt: skip
#: By how clouds stand to each other: who has one within `c`, one that `c` trusts with all that there is, and
#: one that `c` is within, who may change things and therefore comes last.
RELATED = ("within", "trusted", "above")
#: Principals who see no cloud; the domain is the second one's.
PROVIDERS = ("rival", "provider")


def expected(who: str, operation: Operation) -> str:
    permission = operation.permission
    if who in {"nobody", "thief", "expired", "revoked"}:
        return UNKNOWN
    if operation.south or who in PROVIDERS:
        return _of_domains(who, operation)
    administers = permission in {Permission.PROVIDER_WRITE, Permission.PRINCIPAL_WRITE}
    if administers:
        return ALLOWED if who == "operator" else DENIED
    if who in RELATED:
        return _of_clouds(who, operation)
    reads = permission.value.endswith(":read")
    runs = permission in {Permission.VM_RUN, Permission.VM_READ, Permission.OPERATION_READ}
    divided = {"reader": reads, "runner": runs, "elsewhere": permission not in APART}
    if who in divided and (not divided[who] or permission in UNDIVIDED):
        return DENIED
    everybodys = permission.thing == "provider"
    hers = who in {"alice", "reader", "runner"}
    administered = who == "operator" and permission.thing in {"principal", "token"}
    there = not operation.of_hers or everybodys or hers or administered
    return ALLOWED if there else MISSING


def _of_clouds(who: str, operation: Operation) -> str:
    """Who has the cloud around it has it as well, but nothing that is a principal's; within it nobody has
    anything of it; and who is trusted reads findings, and reads and ends what it was granted."""
    thing = operation.permission.thing
    if not operation.of_hers or thing == "provider":
        return ALLOWED
    if who == "trusted":
        told = operation.label.startswith("GET /findings/") or "/trust/" in operation.path
        return ALLOWED if told else MISSING
    of_alice = thing in {"principal", "token", "image"} or operation.label == "POST /trust"
    return ALLOWED if who == "above" and not of_alice else MISSING


def _of_domains(who: str, operation: Operation) -> str:
    """Providers see domains and themselves; operators see the domains that are nobody's; users see none."""
    own_face = {Permission.PRINCIPAL_READ, Permission.WEB_SIGN_IN}
    itself = operation.permission.thing == "token" or operation.permission in own_face
    if who not in ("operator", *PROVIDERS) or not (operation.south or itself):
        return DENIED
    own = operation.south and who == "provider"
    return ALLOWED if own or not operation.of_hers else MISSING


@dataclass
class Cast:
    """Clients by who they are."""

    api: Served
    clients: dict[str, httpx.AsyncClient]
    signing: dict[str, Signing]
    operations: list[Operation]

    async def seen(self) -> list[Any]:
        """What Alice has."""
        lists = ("clouds", "blankets", "images", "networks", "volumes", "instances", "trust", "tokens")
        answers = [(await self.clients["alice"].get(f"/{one}")).json() for one in lists]
        for instance in answers[5]:
            instance.pop("right_left_s")  # which counts down
        return answers


@pytest.fixture
async def cast(tmp_path: Path) -> AsyncIterator[Cast]:
    world = World(f"sqlite:///{tmp_path / 'supercloud.db'}", tmp_path)
    try:
        async with served(world, tmp_path / "h") as api:
            made = await _assembled(api, world)
            yield made
            for client in made.clients.values():
                await client.aclose()
    finally:
        await world.close()


async def _assembled(api: Served, world: World) -> Cast:
    control = api.bench.control
    keys = {name: IdentityKey.new() for name in ("alice", "bob", "carol", "thief", *PROVIDERS)}
    for name in ("alice", "bob", *PROVIDERS):
        request = AddPrincipal(name=name, key=keys[name].name, provider=name in PROVIDERS)
        await control.add_principal(request)
    alice = await control.principal("alice")
    await furnish(api.bench, world.keys)
    made = ForeignVm(
        id=new_id(), name="old", state=RunState.RUNNING, vcpus=1, memory_mib=64, obstacle="it runs"
    )
    (await api.bench.blanket("n1")).foreign[made.id] = made  # which therefore stays what it is
    await api.bench.run(on="n1", group="g")
    await control.create_volume(CreateVolume(name="data", cloud="c", size_bytes=MIB))
    async with api.bench.parts.store.write() as session:
        for table in (Cloud, Image):
            await session.execute(update(table).values(owner=alice.id))
    api.bench.parts.directory.changed()
    spare, revoked, whole, bobs = [
        (await control.mint_token(MintToken(principal=name))).token for name in ("alice",) * 3 + ("bob",)
    ]
    key = keys["alice"]
    reads = frozenset(one for one in Permission if one.value.endswith(":read"))
    runs = Bounds(only=frozenset({Permission.VM_RUN}), clouds=frozenset({"c"}))
    signing = {
        **{
            name: Signing(
                keys[name], (await control.mint_token(MintToken(principal=name))).token, api.channel
            )
            for name in PROVIDERS
        },
        "operator": api.sign(),
        "alice": Signing(key, whole, api.channel),
        "bob": Signing(keys["bob"], bobs, api.channel),
        "thief": Signing(keys["thief"], whole, api.channel),
        "expired": Signing(key, attenuate(whole, Bounds(until=time.time() - 5)), api.channel),
        "revoked": Signing(key, attenuate(revoked, Bounds(until=time.time() + 500)), api.channel),
        "elsewhere": Signing(key, attenuate(whole, Bounds(clouds=frozenset({"d"}))), api.channel),
        "reader": Signing(
            keys["carol"], hand_on(whole, key, keys["carol"].name, Bounds(only=reads)), api.channel
        ),
        "runner": Signing(key, attenuate(whole, runs), api.channel),
    }
    clients = {who: _client(api, signing.get(who)) for who in WHO}
    assert (await clients["alice"].post("/clouds", json={"name": "d"})).status_code == 201
    assert (await clients["alice"].post("/tokens/revoke", json={"token": revoked})).status_code == 200
    described = (await clients["alice"].get("/openapi.json")).json()
    south = (await clients["provider"].get(_url(api, f"{SOUTH}/v1/openapi.json"))).json()
    assert not described["paths"].keys() & south["paths"].keys()
    described["paths"] |= south["paths"]
    known, ask = await _domain(api, clients["provider"])
    spare_id = peek(spare).revocation_ids[0]
    later = {"domain": "pd", "begins_at": time.time() + 20000, "ends_at": time.time() + 20060}
    bodies = BODIES | {
        "PlanWindow": later,
        "AskAct": ask,
        "Rekey": {"key": key.name},
        "RevokeToken": {"id": spare_id},
    }
    known["token"] = spare_id
    known["relation"] = await _shared(control, clients["alice"], api)
    known["operation"] = (await control.operations(kind="blanket.add"))[0].id
    found = operations(described, known, bodies)
    return Cast(api, clients, signing, found)


async def _shared(control: Northbound, alice: httpx.AsyncClient, api: Served) -> str:
    """A relation by which Alice's cloud trusts one of somebody who asks for nothing here."""
    dave = await control.add_principal(AddPrincipal(name="dave", key=IdentityKey.new().name))
    cloud = await control.create_cloud(CreateCloud(name="daves"))
    async with api.bench.parts.store.write() as session:
        await session.execute(update(Cloud).where(Cloud.id == cloud.id).values(owner=dave.id))
    api.bench.parts.directory.changed()
    request = {"kind": "share-image", "cloud": "c", "to": cloud.id, "image": "debian"}
    granted = await alice.post("/trust", json=request)
    assert granted.status_code == 201, granted.text
    return str(granted.json()["id"])


async def _domain(api: Served, provider: httpx.AsyncClient) -> tuple[dict[str, str], dict[str, Any]]:
    """One of the provider's, in which Alice rents a machine that nothing can come to, so that her instance
    stays where it is; with a drain that is over, a window, and a finding, an order and an act about that
    machine. Their ids, and what asks for another act."""
    body = {"name": "pd", "kind": "simulated"}
    assert (await provider.post(_url(api, f"{SOUTH}/v1/domains"), json=body)).status_code == 201
    await api.bench.control.accept_provider("pd")
    request = AddBlanket(name="n2", cloud="c", provider="pd")
    machine = (await api.bench.done(await api.bench.control.add_blanket(request))).object
    await api.bench.done(await api.bench.control.stop_blanket("n2"))
    drain = (await provider.post(_url(api, f"{SOUTH}/v1/domains/pd/drain"))).json()
    at = time.time() + 9000
    window = {"domain": "pd", "begins_at": at, "ends_at": at + 60}
    planned = (await provider.post(_url(api, f"{SOUTH}/v1/windows"), json=window)).json()
    assert (
        await provider.put(_url(api, f"{SOUTH}/v1/domains/pd/orders"), json=BODIES["TakenOrders"])
    ).is_success
    order = (await api.bench.control.place_order(_ORDER.validate_python(BODIES["PlaceOrder"]))).id
    ask = {
        "operation": "dump",
        "machine": machine,
        "arguments": DIGEST,
        "purpose": "a crash",
        "not_before": int(at) - 9000,
        "expires_at": int(at),
    }
    act = (await provider.post(_url(api, f"{SOUTH}/v1/acts"), json=ask)).json()
    gave = to_json(ExportView, ExportView(act=act["id"], header="", pages=()))
    async with api.bench.parts.store.write() as session:
        session.add(ActExport(act=act["id"], export=gave))
    found = (await provider.post(_url(api, f"{SOUTH}/v1/findings"), json=event(machine=machine))).json()
    own = str(uuid.uuid4())
    said = incident_event(own, cloud=(await api.bench.control.cloud("c")).id, blanket=machine)
    await inbox.take(api.bench.parts.store, machine, said.data["incident"]["cloud"], [said], at=time.time())
    (incident,) = await api.bench.control.incidents()
    known = {"order": order, "command": order, "act": act["id"], "finding": found[0]["id"]}
    known |= {"incident": incident.id, "reaction": said.data["reactions"][0]["command"]["id"]}
    known["evidence"] = str(uuid.uuid4())
    return {**known, "drain": drain["id"], "window": planned["id"]}, ask


def _url(api: Served, path: str) -> str:
    return f"https://{HOST}:{api.access.port}{path}"


def _client(api: Served, signing: Signing | None) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.access.port}/v1",
        headers={"Host": CONTROLLER_NAME},
        timeout=60,
        auth=signing,
    )
    client._transport = Named(api.client().tls)
    return client


# ---------------------------------------------------------------- the matrix


async def test_every_operation_by_every_role_and_relation(cast: Cast) -> None:
    assert len(cast.operations) >= 80
    before = await cast.seen()
    wrong: list[str] = []
    for who in WHO:
        if who == "operator":
            assert await cast.seen() == before, "who may not has changed nothing"
        if who == "elsewhere":
            assert (await cast.seen())[:-1] == before[:-1], "all but tokens of hers, which it administers"
        for operation in cast.operations:
            answer = await _asked(cast.api, cast.clients[who], operation)
            verdict = _VERDICTS.get(answer.status_code, ALLOWED)
            assert answer.status_code < 500 or answer.json()["code"] == "unavailable", answer.text
            if verdict != expected(who, operation):
                wrong.append(f"{who}: {operation.label} ({operation.permission}) {answer.text[:150]}")
            told = who in {"bob", "operator", *PROVIDERS}
            if verdict == ALLOWED and told and operation.method == "GET":
                wrong += _leaked(who, operation, answer.text, before)
    assert not wrong, "\n".join(wrong)


async def test_every_operation_by_how_clouds_stand_to_each_other(cast: Cast) -> None:
    clients, relation = await _related(cast)
    before = await cast.seen()
    given = str(next(one for one in cast.operations if "/trust/" in one.path).path.split("/")[2])
    wrong: list[str] = []
    for who in RELATED:
        if who == "above":
            assert (await cast.seen())[:-2] == before[:-2], "all but the relation that the other end let end"
        for operation in sorted(cast.operations, key=lambda one: one.path.endswith("/revoke")):
            theirs = operation
            if who == "trusted":
                theirs = replace(operation, path=operation.path.replace(given, relation))
            answer = await _asked(cast.api, clients[who], theirs)
            verdict = _VERDICTS.get(answer.status_code, ALLOWED)
            assert answer.status_code < 500 or answer.json()["code"] == "unavailable", answer.text
            if verdict != expected(who, operation):
                wrong.append(f"{who}: {operation.label} ({operation.permission}) {answer.text[:150]}")
            if verdict == ALLOWED and who == "within" and operation.method == "GET":
                outer = [one for one in before[0] if one["name"] != "within-c"]
                wrong += _leaked(who, operation, answer.text, [outer, *before[1:]])
            if verdict == ALLOWED and who == "trusted" and operation.method == "GET":
                wrong += _leaked(who, operation, answer.text, [[], *before[4:6], []])  # no relation names one
    for client in clients.values():
        await client.aclose()
    assert not wrong, "\n".join(wrong)


async def _related(cast: Cast) -> tuple[dict[str, httpx.AsyncClient], str]:
    """Who stands so to Alice, each with a cloud; and one of the relations of the one whom she trusts."""
    control, clients, clouds = cast.api.bench.control, {}, {}
    for who in RELATED:
        key = IdentityKey.new()
        person = await control.add_principal(AddPrincipal(name=who, key=key.name))
        token = (await control.mint_token(MintToken(principal=who))).token
        clients[who] = _client(cast.api, Signing(key, token, cast.api.channel))
        clouds[who] = (await control.create_cloud(CreateCloud(name=f"{who}-c"))).id
        async with cast.api.bench.parts.store.write() as session:
            owned = update(Cloud).where(Cloud.id == clouds[who])
            await session.execute(owned.values(owner=person.id))
    async with cast.api.bench.parts.store.write() as session:
        hers = (await control.cloud("c")).id
        await session.execute(update(Cloud).where(Cloud.id == hers).values(parent=clouds["above"]))
        await session.execute(update(Cloud).where(Cloud.id == clouds["within"]).values(parent=hers))
    cast.api.bench.parts.directory.changed()
    network = {"name": "far", "cloud": "trusted-c", "cidr": "10.99.0.0/24"}
    made = await clients["trusted"].post("/networks", json=network)
    about: list[dict[str, Any]] = [
        {"kind": "share-image", "image": "debian"},
        {"kind": "connect", "network": "lan", "to_network": made.json()["id"]},
        {"kind": "see-findings"},
        {"kind": "order-reactions", "reactions": ["restart:device"]},
        {"kind": "place", "blanket": "n1"},
        {"kind": "migrate-to", "blanket": "n1"},
    ]
    assert {one["kind"] for one in about} == set(TrustKind), "with all that there is"
    for one in about:
        granted = await cast.clients["alice"].post(
            "/trust", json={"cloud": "c", "to": clouds["trusted"], **one}
        )
        assert granted.status_code == 201, granted.text
    return clients, granted.json()["id"]


async def _asked(api: Served, client: httpx.AsyncClient, operation: Operation) -> httpx.Response:
    content = b"" if operation.path.endswith("/content") else None
    where = _url(api, operation.path) if operation.south else operation.path
    if operation.path.endswith(guard.EVENTS):
        return await client.get(where, params={"lasts_s": 0})
    return await client.request(operation.method, where, json=operation.body, content=content)


def _leaked(who: str, operation: Operation, said: str, hers: list[Any]) -> list[str]:
    """What an answer tells of Alice's things, by their ids. That she exists, operators know; a provider has
    her blankets as machines, by the same ids."""
    lists = [hers[0], *hers[2:-1]] if operation.south else hers[:-1]
    things = list(itertools.chain.from_iterable(lists))
    return [f"{who}: {operation.label} shows {one['name']}" for one in things if one["id"] in said]


async def test_streams_are_for_who_may_have_them(cast: Cast) -> None:
    await cast.api.bench.control.let_tools_in("n1")
    paths = ("/v1/instances/web/streams/console", "/v1/blankets/n1/console", "/v1/blankets/n1/tools")
    for path in paths:
        assert await _stream(cast, None, path) == 403
        for who in ("thief", "expired", "revoked"):
            assert await _stream(cast, cast.signing[who], path) == 403, who
        for who in ("bob", "operator", "elsewhere"):
            assert (await _stream(cast, cast.signing[who], path)) == "not-found", who
        for who in ("reader", "runner"):
            assert (await _stream(cast, cast.signing[who], path)) == "denied", who
        assert await _stream(cast, cast.signing["alice"], path) in {"open", "refused"}


async def test_a_stream_ends_with_its_token(cast: Cast) -> None:
    path, alice = "/v1/instances/web/streams/console", cast.signing["alice"]
    async with connect(
        f"wss://{HOST}:{cast.api.access.port}{path}",
        ssl=cast.api.client().tls,
        server_hostname=CONTROLLER_NAME,
        additional_headers=alice.headers("GET", path, b""),
    ) as stream:
        for _ in range(2):
            await stream.send(b"x")
            async with asyncio.timeout(20):
                assert await stream.recv() == b"x", "every port of a double is an echo"
        revoked = await cast.clients["operator"].post("/tokens/revoke", json={"token": alice.token})
        assert revoked.status_code == 200
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionClosed):
                while True:
                    await stream.recv()


async def test_each_is_told_of_what_it_may_read(cast: Cast) -> None:
    """Whatever is told could be read, and whatever is hers and can be read is told."""
    begun = str(cast.api.bench.parts.feed.now)
    alice = cast.clients["alice"]
    answers = [
        await alice.post("/clouds", json={"name": "e"}),
        await alice.post("/networks", json={"name": "x", "cloud": "c", "cidr": "10.77.0.0/24"}),
        await alice.post("/networks", json={"name": "y", "cloud": "d", "cidr": "10.77.0.0/24"}),
        await alice.post("/volumes", json={"name": "v", "cloud": "c", "size_bytes": 1 << 20}),
        await alice.post("/instances/web/stop", json={}),
        await cast.clients["operator"].post("/providers", json={"name": "more", "kind": "simulated"}),
        await alice.delete("/networks/x"),
        await alice.delete("/clouds/e"),
        await alice.post("/tokens", json={}),
    ]
    assert all(one.is_success for one in answers), [one.text for one in answers]
    expected = {
        "alice": {"e", "x", "y", "v", "web", "more", "token"},
        "bob": {"more"},
        "operator": {"more", "token"},
        "reader": {"e", "x", "y", "v", "web", "more", "token"},
        "runner": {"web"},
        "elsewhere": {"y"},
    }
    await arrived(alice, begun, kind="token")
    for who, names in expected.items():
        async with watching(cast.clients[who], since=begun, lasts_s=0) as stream:
            told = (await stream.rest())[1:]
        heard = {"token" if one.data["kind"] == "token" else one.data["name"] for one in told}
        assert heard == names, who
    removed = {one.data["name"] for one in told if one.data["act"] == "removed"}
    assert removed == set(), "of d, nothing was"


async def test_a_stream_ends_with_its_token_and_says_so(cast: Cast) -> None:
    async with watching(cast.clients["alice"]) as stream:
        await stream.next()
        revoked = await cast.clients["operator"].post(
            "/tokens/revoke", json={"token": cast.signing["alice"].token}
        )
        assert revoked.status_code == 200
        assert (await stream.rest())[-1].data["code"] == "unauthenticated"
    async with asyncio.timeout(10):
        while cast.api.bench.parts.feed._watchers:  # noqa: ASYNC110 - that a watcher is forgotten has no event
            await asyncio.sleep(0.01)


async def _stream(cast: Cast, signing: Signing | None, path: str) -> str | int:
    """How an attempt ended: the HTTP status of its refusal, the error's code, or that it was open."""
    headers = {} if signing is None else signing.headers("GET", path, b"")
    try:
        async with connect(
            f"wss://{HOST}:{cast.api.access.port}{path}",
            ssl=cast.api.client().tls,
            server_hostname=CONTROLLER_NAME,
            additional_headers=headers,
        ) as stream:
            await stream.send(b"x")
            async with asyncio.timeout(20):
                await stream.recv()
            return "open"
    except InvalidStatus as refused:
        return refused.response.status_code
    except ConnectionClosedError as closed:
        assert closed.rcvd is not None
        return closed.rcvd.reason.partition(":")[0]


# ---------------------------------------------------------------- declaring


async def _nothing() -> None: ...


async def _both(one: guard.VmRead, two: Annotated[Northbound, guard.VmRun.__metadata__[0]]) -> None: ...  # type: ignore[attr-defined]


@pytest.mark.parametrize("endpoint", [_nothing, _both])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_operation_that_declares_no_permission_or_two_keeps_the_api_down(endpoint: Any, kind: str) -> None:
    router = APIRouter()
    if kind == "http":
        router.add_api_route("/new", endpoint)
    else:
        router.add_api_websocket_route("/new", endpoint)
    with pytest.raises(TypeError, match="/new needs one permission"):
        guard.declared([router])


def test_a_route_that_cannot_declare_any_keeps_the_api_down() -> None:
    router = APIRouter()
    router.add_route("/new", _nothing)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot declare"):
        guard.declared([router])
