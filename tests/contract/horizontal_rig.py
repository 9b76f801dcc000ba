"""Instances at blankets, as the store has them, and what blankets tell of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from blanket_double import Double
from provider_rig import Estate
from sqlalchemy import select, update

from supercloud.agent.loop import KIND, told
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.model.names import Id, new_id
from supercloud.model.right import RightTerms
from supercloud.model.states import InstanceState
from supercloud.ports.controller import Event
from supercloud.services import inbox
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import Image, Instance, Network, NicRow, Right

DENY = {"action": "deny", "target": "ipv4_net", "net": "$source", "for": "10m"}
CONTAIN = {"action": "contain", "target": "device", "for": "10m"}


def policy(*do: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": 1, "policies": {"spread": {"when": {"rule": "port-scan"}, "do": list(do), **more}}}


async def set_horizontal(who: httpx.AsyncClient, cloud: str, said: dict[str, Any], **more: Any) -> None:
    answer = await who.put(
        f"/clouds/{cloud}/policy", json={"policy": json.dumps(said), **more}, params={"horizontal": True}
    )
    assert answer.is_success, answer.text


class Fleet:
    """Of an estate: `held` makes an instance at a blanket, `tells` has a blanket tell of one."""

    def __init__(self, people: Estate) -> None:
        self.people = people
        self.store = people.api.bench.parts.store
        self.horizontal = people.api.bench.parts.horizontal
        self._macs = 0

    def double(self, blanket: str) -> Double:
        return self.people.api.bench.site.machines[self.people.machines[blanket]]

    async def network(self, cloud: str, cidr: str, name: str = "lan") -> Id:
        async with self.store.write() as session:
            self._macs += 1
            row = Network(
                id=new_id(),
                cloud=self.people.clouds[cloud],
                name=name,
                vni=5000 + self._macs,
                cidr=cidr,
                gateway=cidr.replace("0/24", "1"),
                created_at=0.0,
            )
            session.add(row)
            return row.id

    async def held(self, cloud: str, blanket: str, network: Id, ip: str) -> Id:
        """The id of a new instance."""
        async with self.store.write() as session:
            image = await session.scalar(select(Image.id).limit(1))
            if image is None:
                image = new_id()
                digest = "sha256:" + "0" * 64
                session.add(
                    Image(id=image, name="i", digest=digest, size_bytes=1, virtual_bytes=1, created_at=0.0)
                )
                await session.flush()
            self._macs += 1
            row = Instance(
                id=new_id(),
                cloud=self.people.clouds[cloud],
                name=f"vm{self._macs}",
                state=InstanceState.STOPPED,
                image=image,
                vcpus=1,
                memory_mib=64,
                ssh_keys=[],
                created_at=0.0,
            )
            session.add(row)
            SqlRights.create(session, row.id, cloud=row.cloud, terms=RightTerms())
            await session.flush()
            session.add(
                NicRow(
                    instance=row.id,
                    network=network,
                    cloud=row.cloud,
                    position=0,
                    mac=f"02:00:00:00:00:{self._macs:02x}",
                    ip=ip,
                )
            )
        await self.moves(row.id, blanket)
        return row.id

    async def moves(self, instance: Id, blanket: str) -> None:
        async with self.store.write() as session:
            await session.execute(
                update(Right)
                .where(Right.instance == instance)
                .values(holder=self.people.machines[blanket], epoch=Right.epoch + 1)
            )

    async def tells(self, blanket: str, instance: Id, source: str | None, **more: Any) -> None:
        """An incident of its loop: `many` scans by an instance from a proven address."""
        identity = self.people.machines[blanket]
        cloud = next(
            self.people.clouds[name]
            for name in self.people.clouds
            if blanket.startswith(name)  # c1, c2, c3: of cloud c
        )
        event = told_event(identity, cloud, instance, source, **more)
        await inbox.take(self.store, identity, cloud, [event], at=time.time())
        self.horizontal.changed()

    async def incidents(self, who: httpx.AsyncClient) -> list[dict[str, Any]]:
        """The horizontal ones, whole."""
        rows = (await who.get("/incidents")).json()
        ids = [row["id"] for row in rows if row["horizontal"]]
        return [(await who.get(f"/incidents/{one}")).json() for one in ids]

    async def the_one(self, who: httpx.AsyncClient, state: str) -> dict[str, Any]:
        """The horizontal incident, once it is in a state."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            found[:] = [one for one in await self.incidents(who) if one["incident"]["state"] == state]
            return bool(found)

        await until(there, lambda: f"none is {state}")
        (one,) = found
        return one

    def denied(self, blanket: str) -> set[str | None]:
        return {one.command.net for one in self.double(blanket).loop.there.values()}


def told_event(
    blanket: Id,
    cloud: Id,
    instance: Id,
    source: str | None,
    *,
    own: Id | None = None,
    version: int = 1,
    many: int = 1,
    rule: str = "port-scan",
    state: IncidentState = IncidentState.OPEN,
    severity: Severity = Severity.HIGH,
) -> Event:
    now = time.time()
    about = Object(kind=ObjectKind.INSTANCE, id=instance)
    seen = Seen(rule=rule, layer=Layer.L2, object=about, first=now, last=now, many=many, source=source)
    incident = Incident(
        id=own or new_id(),
        domain=blanket,
        cloud=cloud,
        state=state,
        severity=severity,
        title="Scan for open ports",
        opened_at=now,
        last_at=now,
        objects=(about,),
        seen=(seen,),
        findings=many,
        version=version,
    )
    return Event(id=new_id(), seq=1, kind=KIND, at=now, data=told(incident, []))


async def until(
    holds: Callable[[], Awaitable[bool]],
    what: Callable[[], str] = lambda: "it is not",
    *,
    seconds: float = 30.0,
) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 - of what is looked at nobody tells
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(what()) from None
