"""Who is told what of a cloud's mesh and when: on SQLite and PostgreSQL, over agents that only note."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from supercloud.model.errors import OutcomeUnknown
from supercloud.model.names import new_id
from supercloud.ports.overlay import Location, Mesh, MeshReport
from supercloud.services.mesh import Meshes, changed
from supercloud.services.store import tables
from supercloud.services.store.engine import Store

pytestmark = pytest.mark.contract


@dataclass
class Overlay:
    """`free`: whether a mesh that came in is answered. `generation`: of the last that it took, as ours do:
    none that is older."""

    key: str
    generation: int = 0
    heard: list[str] = field(default_factory=list)
    alive: tuple[str, ...] = ()
    busy: int = 0  # how many meshes more it does not answer in time
    free: asyncio.Event = field(default_factory=asyncio.Event)
    came_in: asyncio.Event = field(default_factory=asyncio.Event)

    async def apply(self, mesh: Mesh) -> MeshReport:
        self.came_in.set()
        await self.free.wait()
        if self.busy:
            self.busy -= 1
            raise OutcomeUnknown("overlay.apply was not answered in 60 s")
        if mesh.generation >= self.generation:
            self.generation = mesh.generation
            self.heard.append("mesh")
        return MeshReport(generation=self.generation, key=self.key, alive=self.alive)

    async def locate(self, location: Location) -> None:
        self.heard.append(f"{location.name} at {location.epoch}")


class Agents:
    """The registry, of agents that have only an overlay."""

    def __init__(self) -> None:
        self.overlays: dict[str, Overlay] = {}

    def is_connected(self, blanket: str) -> bool:
        return blanket in self.overlays

    is_expected = is_connected

    def agent(self, blanket: str) -> Any:
        @dataclass
        class Agent:
            overlay: Overlay

        return Agent(self.overlays[blanket])


@dataclass
class Bench:
    meshes: Meshes
    agents: Agents
    cloud: str
    instance: str
    north: str
    south: str


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    """A cloud of two blankets, an instance in the first; only the first's agent is there."""
    cloud, provider, image, network, instance, north, south = (new_id() for _ in range(7))
    times = {"length_s": 60, "margin_s": 15, "grace_s": 30}
    rows = [
        [
            tables.Cloud(id=cloud, name="c", cpu_model="m", created_at=0, **times),
            tables.Provider(id=provider, name="p", kind="k", options={}, declaration={}, created_at=0),
            tables.Image(id=image, name="i", digest="d", size_bytes=1, virtual_bytes=1, created_at=0),
        ],
        [
            tables.Blanket(
                id=blanket,
                cloud=cloud,
                provider=provider,
                name=f"b{number}",
                state="ready",
                wanted={},
                mesh_address=f"100.64.0.{number}",
                keys=[f"key {number}"],
                created_at=0,
            )
            for number, blanket in enumerate((north, south), 1)
        ]
        + [
            tables.Network(
                id=network,
                cloud=cloud,
                name="n",
                vni=1,
                cidr="10.1.0.0/24",
                gateway="10.1.0.1",
                created_at=0,
            )
        ],
        [
            tables.PeerLink(low=min(north, south), high=max(north, south), cloud=cloud, port=20000),
            tables.Instance(
                id=instance,
                cloud=cloud,
                name="web",
                state="running",
                blanket=north,
                image=image,
                vcpus=1,
                memory_mib=1,
                ssh_keys=[],
                created_at=0,
            ),
            tables.Right(instance=instance, cloud=cloud, epoch=7, holder=north, renew_every_s=10, **times),
        ],
        [
            tables.NicRow(
                instance=instance,
                network=network,
                cloud=cloud,
                position=0,
                mac="52:54:00:00:00:01",
                ip="10.1.0.2",
            )
        ],
    ]
    for together in rows:
        async with store.write() as session:
            session.add_all(together)
    agents = Agents()
    agents.overlays[north] = Overlay("key 1")
    yield Bench(Meshes(store, agents), agents, cloud, instance, north, south)  # type: ignore[arg-type]


async def test_a_location_waits_for_a_mesh_that_was_read_before_it(bench: Bench) -> None:
    overlay = bench.agents.overlays[bench.north]
    applying = asyncio.create_task(bench.meshes.apply(bench.north))
    await overlay.came_in.wait()
    locating = asyncio.create_task(bench.meshes.locate(bench.instance))
    await asyncio.wait([locating], timeout=0.5)
    assert overlay.heard == [], "told first, and then wiped out by what was read before"
    overlay.free.set()
    await asyncio.gather(applying, locating)
    assert overlay.heard == ["mesh", "web at 7"]


async def test_what_several_want_told_at_once_is_told_once_with_all_of_it_and_one_that_hangs_holds_up_itself(
    bench: Bench, store: Store
) -> None:
    north = bench.agents.overlays[bench.north]
    south = bench.agents.overlays[bench.south] = Overlay("key 2")
    north.free.set()
    asked = [asyncio.create_task(bench.meshes.spread(bench.cloud))]
    async with asyncio.timeout(20):
        await south.came_in.wait()
    asked += [asyncio.create_task(bench.meshes.spread(bench.cloud)) for _ in range(9)]
    async with store.write() as session:
        await changed(session, bench.cloud)
        generation = (await session.get_one(tables.Cloud, bench.cloud)).mesh_generation
    asked.append(asyncio.create_task(bench.meshes.spread(bench.cloud)))
    async with asyncio.timeout(20):
        while north.generation < generation:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert south.heard == [], "it hangs, and nobody waited for it"
    south.free.set()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*asked) == [()] * 11
    assert len(south.heard) <= 3, "of eleven that wanted it told"
    assert south.generation == north.generation == generation


async def test_whom_only_its_peers_hear_holds_up_a_rotation(bench: Bench) -> None:
    overlay = bench.agents.overlays[bench.north]
    overlay.free.set()
    assert await bench.meshes.spread(bench.cloud, patient=True) == (), "it is dead: nothing to lose"
    overlay.alive = (bench.south,)
    assert await bench.meshes.spread(bench.cloud, patient=True) == (bench.south,)
    bench.agents.overlays[bench.south] = Overlay("key 2")
    bench.agents.overlays[bench.south].free.set()
    assert await bench.meshes.spread(bench.cloud, patient=True) == ()


async def test_one_that_was_too_busy_to_answer_is_told_again_and_then_its_peers(bench: Bench) -> None:
    """Else a blanket that is busy as it joins stays without a mesh for as long as it is connected."""
    busy = bench.agents.overlays[bench.north] = Overlay("key that nobody knows yet", busy=2)
    peer = bench.agents.overlays[bench.south] = Overlay("key 2")
    for overlay in (busy, peer):
        overlay.free.set()
    await bench.meshes.greet(bench.north)
    assert busy.heard == []
    for _ in range(2):
        await bench.meshes.settle()
        await asyncio.gather(*bench.meshes._tasks)
    assert "mesh" in busy.heard and "mesh" in peer.heard
    busy.heard.clear()
    await bench.meshes.settle()
    await asyncio.gather(*bench.meshes._tasks)
    assert busy.heard == [], "nothing is owed any more"


async def test_a_restored_store_goes_on_after_what_blankets_have_heard(bench: Bench) -> None:
    """Else they would take nothing from it until it has changed as often as before."""
    ahead, farther = bench.agents.overlays[bench.north], Overlay("key 2", generation=90)
    ahead.generation = 40
    bench.agents.overlays[bench.south] = farther
    for overlay in (ahead, farther):
        overlay.free.set()
    assert await bench.meshes.spread(bench.cloud, patient=False) == ()
    assert "mesh" in ahead.heard and "mesh" in farther.heard and farther.generation > 90
    ahead.heard.clear()
    await bench.meshes.spread(bench.cloud, patient=False)
    assert ahead.heard == ["mesh"] and ahead.generation == farther.generation, "and then as ever"


async def test_no_blanket_drives_the_count_to_its_end(bench: Bench, store: Store) -> None:
    liar = bench.agents.overlays[bench.north]
    liar.generation = 1 << 62
    liar.free.set()
    await bench.meshes.apply(bench.north)
    async with store.read() as session:
        assert (await session.get_one(tables.Cloud, bench.cloud)).mesh_generation < 100
