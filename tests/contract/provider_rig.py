"""Two users who rent machines of two providers, over both APIs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from api_rig import HOST, Named, Served, Signing, served
from blanket_double import LivePlatform, Site
from control_rig import DIGEST, World
from pydantic import TypeAdapter
from sqlalchemy import update

from supercloud.client.http import CONTROLLER_NAME
from supercloud.model.names import Id
from supercloud.model.ocsf import DetectionFinding
from supercloud.model.orders import Command, Device, Reaction, Target
from supercloud.services.facade import ControlPlane
from supercloud.services.requests import AddBlanket, AddPrincipal, CreateCloud, MintToken
from supercloud.services.security_views import AskAct, PlaceOrder, TakenOrders
from supercloud.services.store.tables import Cloud
from supercloud.trust.keys import IdentityKey

#: Some event of a common detector's, in the form in which it has it; what we do not know of it stays.
EVENT: dict[str, Any] = {
    "activity_id": 1,
    "category_uid": 2,
    "class_uid": 2004,
    "type_uid": 200401,
    "severity_id": 4,
    "message": "two processes share a page table",
    "metadata": {"uid": "e-1", "version": "1.3.0", "product": {"name": "hostwatch", "vendor_name": "Acme"}},
    "finding_info": {
        "uid": "f-1",
        "title": "hidden process on the host",
        "analytic": {"name": "R17 hidden process", "type_id": 1, "uid": "r17"},
    },
    "evidences": [{"process": {"pid": 4711, "name": "kworker"}}],
    "unmapped": {"scan": [1, 2.5, None, True, "é"]},
}


def event(uid: str = "e-1", machine: str | None = None, **more: Any) -> dict[str, Any]:
    """A copy of it, now, with a uid and about a machine; `more` goes over its top level."""
    made: dict[str, Any] = json.loads(json.dumps(EVENT))
    made["metadata"]["uid"] = uid
    made["time"] = int(time.time() * 1000)
    if machine is not None:
        made["resources"] = [{"uid": machine, "type": "Virtual Machine"}]
    return made | more


@dataclass
class Estate:
    """Alice has cloud `c` with machines in `edge` and `far`, Bob cloud `b` with one in `edge`, Carol cloud
    `k` with none. Provider acme has `edge`, rival has `far`. `machines`: ids by the blankets' names."""

    api: Served
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    carol: httpx.AsyncClient
    acme: httpx.AsyncClient
    rival: httpx.AsyncClient
    clouds: dict[str, str]
    machines: dict[str, str]
    signing: dict[str, Signing]
    world: World | None = None

    async def deliver(self, *events: dict[str, Any], by: httpx.AsyncClient | None = None) -> list[Any]:
        answer = await (by or self.acme).post("/findings", json=list(events))
        assert answer.status_code == 201, answer.text
        found: list[Any] = answer.json()
        return found

    async def seen(self, who: httpx.AsyncClient, **query: Any) -> list[str]:
        """The uids of what somebody reads, the oldest first."""
        answer = await who.get("/findings", params=query)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in reversed(answer.json())]

    async def trust(self, kind: str, to: str, *, by: httpx.AsyncClient | None = None, **more: Any) -> Any:
        body = {"kind": kind, "cloud": "c", "to": self.clouds[to], **more}
        answer = await (by or self.alice).post("/trust", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def revoke(self, relation: Any) -> None:
        answer = await self.alice.post(f"/trust/{relation['id']}/revoke")
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def estate(
    database_url: str, folder: Path, platform: Callable[[Site], LivePlatform] = LivePlatform
) -> AsyncIterator[Estate]:
    world = World(database_url, folder, platform)
    try:
        async with served(world, folder / "h") as api:
            made = await _built(api)
            made.world = world
            yield made
            for client in (made.alice, made.bob, made.carol, made.acme, made.rival):
                await client.aclose()
    finally:
        await world.close()


async def _built(api: Served) -> Estate:
    control = api.bench.control
    clients, signing = {}, {}
    for name in ("alice", "bob", "carol", "acme", "rival"):
        provides = name in {"acme", "rival"}
        key = IdentityKey.new()
        await control.add_principal(AddPrincipal(name=name, key=key.name, provider=provides))
        token = (await control.mint_token(MintToken(principal=name))).token
        signing[name] = Signing(key, token, api.channel)
        clients[name] = client(api, signing[name], "/southbound/v1" if provides else "/v1")
    for who, domain in (("acme", "edge"), ("rival", "far")):
        asked = await clients[who].post("/domains", json={"name": domain, "kind": "simulated"})
        assert asked.status_code == 201, asked.text
        await control.accept_provider(domain)
    clouds = {}
    for who, name in (("alice", "c"), ("bob", "b"), ("carol", "k")):
        cloud = (await control.create_cloud(CreateCloud(name=name))).id
        owner = (await control.principal(who)).id
        async with api.bench.parts.store.write() as session:
            await session.execute(update(Cloud).where(Cloud.id == cloud).values(owner=owner))
        clouds[name] = cloud
    api.bench.parts.directory.changed()
    machines = {}
    for name, cloud, domain in (("c1", "c", "edge"), ("c2", "c", "far"), ("b1", "b", "edge")):
        asked_for = AddBlanket(name=name, cloud=clouds[cloud], provider=domain)
        machines[name] = (await api.bench.done(await control.add_blanket(asked_for))).object
    return Estate(
        api=api, clouds=clouds, machines=machines, signing=signing,
        **clients,
    )  # fmt: skip


def client(api: Served, signing: httpx.Auth, base: str) -> httpx.AsyncClient:
    """One that asks over one API."""
    made = httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.access.port}{base}",
        headers={"Host": CONTROLLER_NAME},
        timeout=60,
        auth=signing,
    )
    made._transport = Named(api.client().tls)
    return made


async def security(
    api: Served, provider: httpx.AsyncClient, base: str, cloud: str, blanket: str
) -> dict[str, str]:
    """A finding, an order and an act about a user's machine in domain `edge`, with all that its user may say
    of them. Their ids; `blanket` is what the user calls the machine."""
    control = api.bench.control
    (machine,) = (await provider.get(f"{base}/domains/edge/machines")).json()
    takes = {"takes": ["restart:device"]}
    assert (await provider.put(f"{base}/domains/edge/orders", json=takes)).status_code == 200
    command = Command(action="restart", target=Target(device=Device()))
    first, second = [
        await control.place_order(PlaceOrder(blanket=blanket, cloud=cloud, command=command)) for _ in range(2)
    ]
    await control.cancel_order(second.id)
    asked = (await provider.post(f"{base}/acts", json=act_body(machine["id"]))).json()
    await control.refuse_act(asked["id"])
    delivered = [event(machine=machine["id"]), event("wide")]
    found = (await provider.post(f"{base}/findings", json=delivered)).json()
    assert (await control.finding(found[0]["id"])).object_name == blanket, "its user reads its own word"
    ids = {"command": first.id, "act": asked["id"], "finding": found[0]["id"]}
    return {**ids, "machine": machine["id"]}


def act_body(machine: str) -> dict[str, Any]:
    now = int(time.time())
    return {
        "operation": "dump",
        "machine": machine,
        "arguments": "sha256:" + "e" * 64,
        "purpose": "a crash",
        "not_before": now,
        "expires_at": now + 600,
    }


async def told_about(control: ControlPlane, blanket: str, machine: Id) -> None:
    """A finding, an order and an act about a machine of domain `p`."""
    south = control.southbound()
    await south.take_orders("p", TakenOrders(takes=(Reaction.RESTART,)))
    restart = Command(action="restart", target=Target(device=Device()))
    await control.place_order(PlaceOrder(blanket=blanket, cloud="c", command=restart))
    at = int(time.time())
    asked = {"operation": "dump", "machine": machine, "arguments": DIGEST, "purpose": "a crash"}
    await south.ask_act(
        TypeAdapter(AskAct).validate_python(asked | {"not_before": at, "expires_at": at + 900})
    )
    found = TypeAdapter(DetectionFinding).validate_python(event(machine=machine))
    await south.deliver([found], domain="p")
