"""The southbound API: a provider's domains from registering to removing, and what it is never shown."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import HOST, Named, Served, Signing, served
from control_rig import DIGEST, IMAGE, Bench, World, furnish
from provider_rig import act_body, event, security
from sqlalchemy import update

from supercloud.client.http import CONTROLLER_NAME
from supercloud.keystore.userdata import keep_user_data
from supercloud.model.domains import Capacity, Window, WindowState
from supercloud.model.errors import Exhausted, InvalidInput, NotFound, Refused
from supercloud.model.levels import Level
from supercloud.model.names import MIB
from supercloud.model.orders import Reaction
from supercloud.model.placement import Placement, Price
from supercloud.model.states import InstanceState, OperationState
from supercloud.model.trust import TrustKind
from supercloud.services.caller import Caller
from supercloud.services.maintenance import Windows
from supercloud.services.requests import (
    AddBlanket,
    AddPrincipal,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    GrantTrust,
    MintToken,
    RegisterImage,
    RunInstance,
)
from supercloud.services.southbound import (
    UNSAID,
    DomainTerms,
    DrainView,
    PlanWindow,
    RegisterDomain,
    Southbound,
)
from supercloud.services.store.tables import Answer, Maintenance
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract
SOUTH = "/southbound/v1"
HOUR = 3600.0


async def provider(bench: Bench, name: str) -> Southbound:
    """As a principal of that name asks, whose token is as it was minted."""
    added = await bench.control.add_principal(
        AddPrincipal(name=name, key=IdentityKey.new().name, provider=True)
    )
    caller = Caller(principal=added.id, operator=False, undivided=True, revocation_ids=(), clouds=())
    return bench.control.on_behalf_of(caller).southbound()


async def blanket(bench: Bench, name: str, domain: str, **asked: Any) -> str:
    request = AddBlanket(name=name, cloud="c", provider=domain, **asked)
    return (await bench.done(await bench.control.add_blanket(request))).object


async def drained(south: Southbound, view: DrainView) -> DrainView:
    async with asyncio.timeout(40):
        while view.ended_at is None:
            view = await south.drain(view.id, wait_s=10)
    return view


async def test_a_domain_runs_machines_once_an_operator_has_accepted_it(bench: Bench) -> None:
    mine, others = await provider(bench, "acme"), await provider(bench, "rival")
    price = Price(currency="EUR", vcpu_hour="0.01")
    asked = RegisterDomain(name="edge", kind="simulated", location="de-by", price=price)
    view = await mine.register_domain(asked)
    assert (view.accepted, view.accelerator, view.rented.machines) == (False, "unknown", 0)
    assert not bench.parts.store.sqlite or not list((bench.site.folder).iterdir())
    with pytest.raises(Refused, match="no operator has accepted it yet"):
        await blanket(bench, "e1", "edge")
    assert (await mine.health("edge")).why == "no operator has accepted it yet"
    accepted = await bench.control.accept_provider("edge")
    assert accepted.accepted and accepted.accelerator == "simulated" and accepted.location == "de-by"
    machine = await blanket(bench, "e1", "edge")
    (one,) = await mine.machines("edge")
    assert (one.id, one.vcpus, one.memory_mib, one.connected, one.in_use) == (machine, 2, 2048, True, False)
    health = await mine.health("edge")
    assert (health.reachable, health.running, health.connected, health.missing) == (True, 1, 1, 0)
    assert (await mine.domain("edge")).rented.machines == 1
    for ask in (others.domain("edge"), others.machines("edge"), others.drain_domain("edge")):
        with pytest.raises(NotFound, match="there is no domain edge"):
            await ask
    assert not await others.domains() and [one.name for one in await mine.domains()] == ["edge"]
    assert "p" not in {one.name for one in await mine.domains()}, "which is the operators'"


async def test_no_more_is_rented_than_a_domain_has_though_all_ask_at_once(bench: Bench) -> None:
    mine = await provider(bench, "acme")
    await mine.register_domain(
        RegisterDomain(name="edge", kind="simulated", capacity=Capacity(machines=3, vcpus=5))
    )
    await bench.control.accept_provider("edge")
    asked = [blanket(bench, f"e{one}", "edge", vcpus=2) for one in range(4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in found if isinstance(one, Exhausted)]
    assert len(refused) == 2 and "too few vCPUs left" in refused[0].message, found
    await mine.set_domain("edge", DomainTerms(capacity=Capacity(machines=3)))
    await blanket(bench, "more", "edge", vcpus=4)
    with pytest.raises(Exhausted, match="too few machines left"):
        await blanket(bench, "last", "edge")
    view = await mine.set_domain("edge", DomainTerms(location="fr"))
    assert (view.capacity, view.location, view.rented.vcpus) == (UNSAID, "fr", 8)


async def test_a_drain_moves_what_runs_there_and_says_what_is_left_without_a_name(bench: Bench) -> None:
    mine = await provider(bench, "acme")
    await mine.register_domain(RegisterDomain(name="edge", kind="simulated"))
    await bench.control.accept_provider("edge")
    await asyncio.gather(blanket(bench, "e1", "edge"), blanket(bench, "n1", "p"))
    await bench.run(on="e1")
    view = await drained(mine, await mine.drain_domain("edge"))
    assert (view.state, view.in_use, view.error) == (OperationState.SUCCEEDED, 0, None)
    assert (await bench.control.instance("web")).blanket == "n1"
    assert (await mine.domain("edge")).draining
    with pytest.raises(Refused, match="is being drained"):
        await blanket(bench, "e2", "edge")
    await mine.undrain_domain("edge")
    await bench.done(await bench.control.migrate_instance("web", to="e1"))
    await bench.done(await bench.control.remove_blanket("n1"))
    stays = await drained(mine, await mine.drain_domain("edge"))
    assert (stays.state, stays.in_use) == (OperationState.FAILED, 1)
    assert stays.error == "not everything that runs there has left"
    assert [one.id for one in await mine.drains()] == [stays.id, view.id]


# ---------------------------------------------------------------- maintenance


@pytest.mark.parametrize(
    ("begins", "ends", "ahead", "good"),
    [
        (HOUR, 2 * HOUR, None, True),
        (0.0, HOUR, 0.0, True),
        (-HOUR, HOUR, None, False),
        (HOUR, HOUR, None, False),
        (HOUR, 40 * 86400.0, None, False),
        (500 * 86400.0, 501 * 86400.0, None, False),
    ],
)
def test_a_window_that_can_be_kept(begins: float, ends: float, ahead: float | None, good: bool) -> None:
    window = Window(begins_at=1e9 + begins, ends_at=1e9 + ends, drain_ahead_s=ahead)
    if good:
        window.check(1e9)
    else:
        with pytest.raises(InvalidInput):
            window.check(1e9)


def test_windows_overlap_from_when_they_close_the_domain() -> None:
    one = Window(begins_at=100, ends_at=200)
    assert not one.overlaps(Window(begins_at=200, ends_at=300))
    assert one.overlaps(Window(begins_at=250, ends_at=300, drain_ahead_s=60))
    assert one.overlaps(Window(begins_at=150, ends_at=160))


async def test_a_window_closes_drains_and_opens_its_domain_by_itself(bench: Bench) -> None:
    """By a clock of the test's, which the control plane's own loop does not see."""
    mine = await provider(bench, "acme")
    await mine.register_domain(RegisterDomain(name="edge", kind="simulated"))
    await bench.control.accept_provider("edge")
    await asyncio.gather(blanket(bench, "e1", "edge"), blanket(bench, "n1", "p"))
    await bench.run(on="e1")
    start = time.time() + 10 * HOUR
    clock = [start]
    windows = Windows(bench.parts, now=lambda: clock[0])
    ahead = PlanWindow(
        domain="edge", begins_at=start + HOUR, ends_at=start + 2 * HOUR, drain_ahead_s=600, reason="disks"
    )
    view = await mine.plan_window(ahead)
    assert await windows.do_due() == pytest.approx(start + HOUR - 600)
    assert (await mine.window(view.id)).state is WindowState.PLANNED
    (told,) = (await bench.control.provider("edge")).maintenance
    assert (told.closes_at, told.drains, told.reason) == (start + HOUR - 600, True, "disks"), "to users, too"
    clock[0] = start + HOUR - 599
    assert await windows.do_due() == pytest.approx(start + 2 * HOUR)
    assert (await mine.window(view.id)).state is WindowState.CLOSED
    (drain,) = await mine.drains()
    assert (await drained(mine, drain)).state is OperationState.SUCCEEDED
    assert (await bench.control.instance("web")).blanket == "n1"
    await windows.do_due()
    assert len(await mine.drains()) == 1, "once"
    clock[0] = start + 2 * HOUR
    await windows.do_due()
    assert (await mine.window(view.id)).state is WindowState.OVER
    assert not (await mine.domain("edge")).draining
    assert not (await bench.control.provider("edge")).maintenance

    quiet = await mine.plan_window(
        PlanWindow(domain="edge", begins_at=start + 3 * HOUR, ends_at=start + 4 * HOUR)
    )
    clock[0] = start + 3 * HOUR
    await windows.do_due()
    assert (await mine.domain("edge")).draining and len(await mine.drains()) == 1, "what runs there stays"
    await mine.cancel_window(quiet.id)
    assert not (await mine.domain("edge")).draining
    assert [one.id for one in await mine.windows()] == [view.id]


async def test_a_domain_that_was_drained_by_hand_stays_closed_after_a_window(bench: Bench) -> None:
    mine, others = await provider(bench, "acme"), await provider(bench, "rival")
    await mine.register_domain(RegisterDomain(name="edge", kind="simulated"))
    start = time.time() + 10 * HOUR
    planned = await mine.plan_window(
        PlanWindow(domain="edge", begins_at=start, ends_at=start + HOUR, drain_ahead_s=0)
    )
    with pytest.raises(NotFound):
        await others.window(planned.id)
    with pytest.raises(NotFound):
        await others.cancel_window(planned.id)
    windows = Windows(bench.parts, now=lambda: clock[0])
    clock = [start + 1]
    await windows.do_due()
    await mine.drain_domain("edge")
    clock[0] = start + HOUR
    await windows.do_due()
    assert (await mine.window(planned.id)).state is WindowState.OVER
    assert (await mine.domain("edge")).draining, "it was asked for"


async def test_what_was_due_while_the_control_plane_was_away_is_done_when_it_is_back(world: World) -> None:
    async with world.up() as bench:
        await furnish(bench, world.keys)
        mine = await provider(bench, "acme")
        await mine.register_domain(RegisterDomain(name="edge", kind="simulated"))
        at = time.time() + 100
        view = await mine.plan_window(PlanWindow(domain="edge", begins_at=at, ends_at=at + HOUR))
        missed = await mine.plan_window(
            PlanWindow(domain="edge", begins_at=at + 2 * HOUR, ends_at=at + 3 * HOUR)
        )
        async with bench.parts.store.write() as session:  # as time goes by
            for row in [await session.get_one(Maintenance, one) for one in (view.id, missed.id)]:
                late = 200 if row.id == view.id else 4 * HOUR
                row.begins_at, row.ends_at = row.begins_at - late, row.ends_at - late
    async with world.up() as bench:
        south = bench.control.southbound()
        async with asyncio.timeout(20):
            while not (await south.domain("edge")).draining:  # noqa: ASYNC110 - nobody watches here
                await asyncio.sleep(0.02)
        states = {one.id: one.state for one in await south.windows()}
        assert states == {view.id: WindowState.CLOSED, missed.id: WindowState.OVER}


# ---------------------------------------------------------------- what a provider is never shown


@dataclass
class Marks:
    """Words that users chose, none of which occurs anywhere by chance."""

    words: dict[str, str]

    def __getitem__(self, what: str) -> str:
        return self.words.setdefault(what, f"zq{secrets.token_hex(6)}")

    def found_in(self, said: bytes) -> list[str]:
        return [what for what, word in self.words.items() if word.encode() in said]


@asynccontextmanager
async def heard(api: Served, signing: Signing, said: bytearray) -> AsyncIterator[None]:
    """Everything that the provider's stream tells meanwhile."""
    client = provider_client(api, signing)
    ready = asyncio.Event()

    async def listen() -> None:
        async with client.stream("GET", f"{SOUTH}/events") as answer:
            async for part in answer.aiter_bytes():
                said.extend(part)
                if b"ready" in said:
                    ready.set()

    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        yield
        async with asyncio.timeout(20):
            while said.count(b'"subject":"machine"') < 1:  # noqa: ASYNC110 - it is the test's own
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()


def provider_client(api: Served, signing: Signing) -> httpx.AsyncClient:
    client = httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.access.port}",
        headers={"Host": CONTROLLER_NAME},
        timeout=60,
        auth=signing,
    )
    client._transport = Named(api.client().tls)
    return client


async def populate(api: Served, world: World, marks: Marks) -> set[str]:
    """A user's cloud in the provider's domain, all that can be named with a word of its own, and what it is
    that has an id: all ids but the machines'."""
    control, done = api.bench.control, api.bench.done
    key = await world.keys.new_image_key()
    await world.keys.bind_image_key(id=key.id, digest=DIGEST)
    image = RegisterImage(name=marks["image"], digest=DIGEST, size_bytes=len(IMAGE), virtual_bytes=64 * MIB)
    await control.register_image(image)

    async def content() -> AsyncIterator[bytes]:
        yield IMAGE

    await control.upload_image(DIGEST, 0, content())
    cloud = marks["cloud"]
    await control.create_cloud(CreateCloud(name=cloud))
    network = CreateNetwork(name=marks["network"], cloud=cloud, cidr="10.9.0.0/24", level=Level.BASELINE)
    await control.create_network(network)
    for name, domain in (("first", "edge"), ("second", "p")):
        await done(await control.add_blanket(AddBlanket(name=marks[name], cloud=cloud, provider=domain)))
    data = await keep_user_data(world.keys, marks["user data"].encode(), instance=marks["instance"])
    for name, group, sealed in (("instance", "group", data), ("other", "other group", None)):
        request = RunInstance(
            name=marks[name],
            cloud=cloud,
            image=marks["image"],
            on=marks["first"],
            networks=(marks["network"],),
            memory_mib=64,
            group=marks[group],
            user_data=sealed,
            ssh_keys=(f"ssh-ed25519 AAAA {marks['key']}",),
            placement=Placement(apart_from=(marks["apart"],)),
        )
        await done(await control.run_instance(request))
    volume = CreateVolume(name=marks["volume"], cloud=cloud, size_bytes=MIB)
    await control.create_volume(volume)
    await done(await control.attach_volume(marks["volume"], instance=marks["instance"]))
    await done(await control.snapshot_volume(marks["volume"], snapshot=marks["snapshot"]))
    await done(await control.stop_instance(marks["other"]))  # so that a drain fails because of it
    await control.create_cloud(CreateCloud(name=marks["trusted cloud"]))
    for kind, reactions in ((TrustKind.SEE_FINDINGS, ()), (TrustKind.ORDER_REACTIONS, (Reaction.RESTART,))):
        let = GrantTrust(kind=kind, cloud=cloud, to=marks["trusted cloud"], reactions=reactions)
        await control.grant_trust(let)
    things = [
        *await control.clouds(), *await control.networks(), *await control.volumes(),
        *await control.instances(), *await control.images(),
    ]  # fmt: skip
    return {one.id for one in things} | {one.addresses[0] for one in await control.instances()} | {DIGEST}


def calls(document: dict[str, Any], known: dict[str, str]) -> list[tuple[str, str, Any]]:
    """Every operation, about what there is and about what there is not."""
    bodies = {
        "DetectionFinding": event("again", machine=known["machine"]),
        "TakenOrders": {"takes": ["restart:device"]},
        "Response": {"status": 200},
        "AskAct": act_body(known["machine"]),
        "RegisterDomain": {"name": "edge", "kind": "simulated"},
        "DomainTerms": {"location": "de"},
        "PlanWindow": {"domain": "edge", "begins_at": time.time() + 9e4, "ends_at": time.time() + 9.1e4},
    }
    found = []
    for path, item in document["paths"].items():
        for method, one in item.items():
            content = one.get("requestBody", {}).get("content", {}).get("application/json")
            body = None if content is None else bodies[named(content["schema"])]
            for values in (known, dict.fromkeys(known, known["unknown"])):
                where = path.format(**{"ref": "edge", **values})
                found.append((method.upper(), where, body))
    # What takes things away comes last, so that what shows them has something to show.
    return sorted(found, key=lambda call: (call[0] == "DELETE", "undrain" in call[1], "cancel" in call[1]))


def named(schema: dict[str, Any]) -> str:
    """Of one, or of the first that it may be."""
    one = schema.get("$ref") or schema["oneOf"][0]["$ref"]
    return str(one.rpartition("/")[2])


async def test_no_word_of_a_user_and_no_id_but_a_machines_is_shown_to_a_provider(tmp_path: Path) -> None:
    world, marks, said = World(f"sqlite:///{tmp_path / 'supercloud.db'}", tmp_path), Marks({}), bytearray()
    try:
        async with served(world, tmp_path / "h") as api:
            control, key = api.bench.control, IdentityKey.new()
            await furnish_bare(api)
            await control.add_principal(AddPrincipal(name="acme", key=key.name, provider=True))
            await control.add_principal(AddPrincipal(name=marks["user"], key=IdentityKey.new().name))
            token = (await control.mint_token(MintToken(principal="acme"))).token
            signing = Signing(key, token, api.channel)
            client = provider_client(api, signing)
            registered = {"name": "edge", "kind": "simulated"}
            assert (await client.post(f"{SOUTH}/domains", json=registered)).status_code == 201
            await control.accept_provider("edge")
            async with heard(api, signing, said):
                hidden = await populate(api, world, marks)
                drain = (await client.post(f"{SOUTH}/domains/edge/drain")).json()
                south = control.southbound()
                ended = await drained(south, await south.drain(drain["id"]))
                assert ended.state is OperationState.FAILED and ended.in_use == 1, "one stays, one moved"
                at = time.time() + 9000
                window = {"domain": "edge", "begins_at": at, "ends_at": at + 60}
                planned = (await client.post(f"{SOUTH}/windows", json=window)).json()
                unknown = "00000000-0000-4000-8000-000000000000"
                known = {"drain": drain["id"], "window": planned["id"], "unknown": unknown}
                named_by_user = (marks["cloud"], marks["first"])
                known |= await security(api, client, SOUTH, *named_by_user)
                document = (await client.get(f"{SOUTH}/openapi.json")).json()
                north = (await client.get("/v1/openapi.json")).json()
                every = calls(document, known)
                assert len(every) >= 2 * 28
                answered: dict[int, int] = {}
                for method, path, body in [*every, *denied(north)]:
                    ask = {"params": {"lasts_s": 0}} if path.endswith("/events") else {"json": body}
                    answer = await client.request(method, path, **ask)  # type: ignore[arg-type]
                    said.extend(answer.content + repr(answer.headers.raw).encode())
                    answered[answer.status_code // 100] = answered.get(answer.status_code // 100, 0) + 1
                    assert answer.status_code < 500, (method, path, answer.text)
                assert answered[2] >= 25 and answered[4] > 50, answered
                machines = (await client.get(f"{SOUTH}/domains/edge/machines")).json()
                assert len(machines) == 1 and machines[0]["in_use"]
            await client.aclose()
            for subject in (b"machine", b"drain", b"finding", b"command", b"act"):
                assert b'"subject":"%s"' % subject in said, "it was told of them"
            for machine in world.platform._host.machines.values():
                said.extend(f"{machine.spec.name} {machine.spec.id}".encode() + machine.spec.birth)
            assert not marks.found_in(bytes(said)) and len(marks.words) >= 14
            visible = bytes(said).replace(world.site.folder.as_posix().encode(), b"")
            births = {one.birth.cloud for one in world.site.machines.values()}
            shown = {one for one in hidden if one.encode() in visible}
            assert shown <= births, "a machine is born into a cloud by an id, and told of nothing in it"
            api_said = bytes(said).split(b"blanket-")[0]
            assert not [one for one in hidden if one.encode() in api_said]
            # The test would see them: the user's own side is full of them.
            own = json.dumps([one.name for one in await control.instances()]).encode()
            assert len(marks.found_in(own)) == 2
            states = {one.state for one in await control.instances()}
            assert states == {InstanceState.RUNNING, InstanceState.STOPPED}
    finally:
        await world.close()


async def furnish_bare(api: Served) -> None:
    await api.bench.control.add_provider(AddProvider(name="p", kind="simulated"))


def denied(north: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Every operation of the northbound API, of which a provider may ask for its own tokens only."""
    found = []
    for path, item in north["paths"].items():
        for method in item:
            where = path
            for name in ("ref", "operation", "digest"):
                where = where.replace(f"{{{name}}}", "sha256:" + "3" * 64 if name == "digest" else "zz")
            if not where.endswith("/content"):
                found.append((method.upper(), where, {}))
    return found


# ---------------------------------------------------------------- as the northbound API has it


async def test_repeats_conditions_parts_and_problems_are_the_northbound_apis(tmp_path: Path) -> None:
    world = World(f"sqlite:///{tmp_path / 'supercloud.db'}", tmp_path)
    try:
        async with served(world, tmp_path / "h") as api:
            key = IdentityKey.new()
            await api.bench.control.add_principal(AddPrincipal(name="acme", key=key.name, provider=True))
            token = (await api.bench.control.mint_token(MintToken(principal="acme"))).token
            client = provider_client(api, Signing(key, token, api.channel))
            again = {"Idempotency-Key": "one"}
            for name in ("a", "b", "c"):
                body = {"name": name, "kind": "simulated"}
                assert (await client.post(f"{SOUTH}/domains", json=body)).status_code == 201
            at = time.time() + 9000
            window = {"domain": "a", "begins_at": at, "ends_at": at + 60}
            first = await client.post(f"{SOUTH}/windows", json=window, headers=again)
            second = await client.post(f"{SOUTH}/windows", json=window, headers=again)
            assert first.status_code == second.status_code == 201 and first.json() == second.json()
            assert second.headers["Idempotency-Replayed"] == "true"
            assert len((await client.get(f"{SOUTH}/windows")).json()) == 1

            drain = {"Idempotency-Key": "two"}
            begun = await client.post(f"{SOUTH}/domains/c/drain", headers=drain)
            async with api.bench.parts.store.write() as session:  # as a kill before the answer leaves it
                lost = {"status": None, "body": None, "media_type": None, "run": "another"}
                await session.execute(update(Answer).values({**lost, "begun_at": Answer.begun_at - 999}))
            second = await client.post(f"{SOUTH}/windows", json=window, headers=again)
            assert (second.status_code, second.json()) == (201, first.json())
            second = await client.post(f"{SOUTH}/domains/c/drain", headers=drain)
            assert (second.status_code, second.json()["id"]) == (202, begun.json()["id"])
            assert len((await client.get(f"{SOUTH}/windows")).json()) == 1

            part = await client.get(f"{SOUTH}/domains", params={"limit": 2})
            assert [one["name"] for one in part.json()] == ["a", "b"]
            following = part.headers["Link"].partition(">")[0][1:]
            assert following.startswith(f"{SOUTH}/domains?")
            assert [one["name"] for one in (await client.get(following)).json()] == ["c"]

            seen = (await client.get(f"{SOUTH}/domains/a")).headers["ETag"]
            same = {"If-None-Match": seen}
            assert (await client.get(f"{SOUTH}/domains/a", headers=same)).status_code == 304
            terms = {"location": "de"}
            only = {"If-Match": seen}
            changed = await client.put(f"{SOUTH}/domains/a/terms", json=terms, headers=only)
            assert changed.status_code == 200
            stale = await client.put(f"{SOUTH}/domains/a/terms", json=terms, headers=only)
            assert stale.status_code == 412
            assert stale.headers["Content-Type"] == "application/problem+json"
            missing = (await client.get(f"{SOUTH}/domains/zz")).json()
            assert (missing["code"], missing["hint"]) == (
                "not-found",
                "supercloud domain ls shows which there are",
            )
            await client.aclose()
    finally:
        await world.close()
