"""Three blankets of one cloud, a control plane, one instance; all of it out of one seed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

from supercloud.agent.identity import Passport, Safe
from supercloud.keystore.memory import memory_keystore
from supercloud.model.names import Id, Ipv4, new_id
from supercloud.model.placement import Confidentiality
from supercloud.model.right import RightTerms
from supercloud.model.states import BlanketState, InstanceState
from supercloud.ports.platform import Declaration, Flavour
from supercloud.services import mesh
from supercloud.services.store import tables
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.simulator import determinism
from supercloud.simulator.around import Around
from supercloud.simulator.blanket import SimBlanket
from supercloud.simulator.bugs import Bugs
from supercloud.simulator.controller import SimController
from supercloud.simulator.database import Disk
from supercloud.simulator.determinism import EPOCH_S
from supercloud.simulator.loop import SimLoop
from supercloud.simulator.network import Network
from supercloud.simulator.observer import Observer
from supercloud.simulator.trace import Trace
from supercloud.trust.join import join_request
from supercloud.trust.keys import to_text
from supercloud.trust.userdata import encrypt
from supercloud.wire.codec import to_json

T = TypeVar("T")
NAMES = ("north", "south", "west")
_MEMORY = Path("/dev/shm")  # noqa: S108 - journals sync each write; a file system in memory makes that free
_DECLARED = Declaration(
    kind="simulated",
    accelerator="simulated",
    nesting=True,
    flavours=frozenset({Flavour.KVM}),
    confidentiality=Confidentiality.PROCEDURAL,
    abilities=frozenset(),
    reason="nothing runs",
)


class SimWorld:
    """`north` has the instance first; `west` only looks on, as a peer does."""

    user_data = b"#cloud-config\n"
    mac = "02:00:00:00:00:01"
    ip: Ipv4 = "10.1.0.10"

    def __init__(self, random: Random, bugs: Bugs, loop: SimLoop, trace: Trace, folder: Path) -> None:
        self.random = random
        self.bugs = bugs
        self._folder = folder
        self.loop = loop
        self.trace = trace
        self.network = Network(self.loop, random, self.trace)
        self.terms = RightTerms(
            length_s=random.choice((20.0, 30.0, 60.0)),
            margin_s=15.0 if bugs.margin_s is None else bugs.margin_s,
            grace_s=random.choice((5.0, 30.0)),
            renew_every_s=10.0,
        )
        self.cloud_id, self.network_id, self.instance, self.volume = (new_id() for _ in range(4))
        self.instances = [self.instance]
        self.guarded = False  # whether something is in force about the instance
        self.observer = Observer(self)
        self.blankets: dict[Id, SimBlanket] = {}
        loop.on_crash = self._crashed

    def _crashed(self, name: str, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.observer.violate(f"{name} crashed: {error!r}{determinism.where(error)}")

    async def build(self) -> None:
        keys = memory_keystore(now=lambda: EPOCH_S + self.loop.true_s)
        for name in NAMES:
            blanket, folder = new_id(), self._folder / name
            token = await keys.invite(cloud=self.cloud_id, blanket=blanket, lifetime_s=600)
            safe = Safe(folder / "identity")
            own = safe.keys()
            answer = await keys.admit(
                join_request(blanket=blanket, secret=token.secret, identity=own.identity, sealing=own.sealing)
            )
            passport = Passport(safe, own, answer)
            self.blankets[blanket] = SimBlanket(self, name, passport, folder, self.random)
        # Its digest is in what the key store logs, which a replay has to repeat.
        self.sealed_user_data, key = encrypt(self.user_data, instance="vm", random=Random(0).randbytes)  # noqa: S311
        await keys.keep_user_data_key(digest=self.sealed_user_data.digest, key=to_text(key))
        self.controller = SimController(self, keys, self.random)
        self.controller.start()
        for made in self.blankets.values():
            made.begin()

    def put_inside(self, name: str) -> None:
        """A blanket that another one is around, from now on."""
        self[name].around = Around(self[name], self._folder / f"around-{name}")

    def __getitem__(self, name: str) -> SimBlanket:
        (found,) = [one for one in self.blankets.values() if one.name == name]
        return found

    def address(self, blanket: SimBlanket) -> Ipv4:
        return f"100.64.0.{NAMES.index(blanket.name) + 1}"

    def key(self, blanket: SimBlanket) -> str:
        return blanket.overlay._key(blanket.overlay._number)

    async def seed_rows(self, store: Store, disk: Disk) -> None:
        """What `provider add`, `cloud create`, `blanket add`, `network create` and `vm run` leave."""
        await disk.make_tables(store.engine)
        terms = {
            "length_s": self.terms.length_s,
            "margin_s": self.terms.margin_s,
            "grace_s": self.terms.grace_s,
        }
        async with store.write() as session:
            provider, image = new_id(), new_id()
            session.add(
                tables.Provider(
                    id=provider,
                    name="p",
                    kind="simulated",
                    options={},
                    declaration=to_json(Declaration, _DECLARED),
                    created_at=0.0,
                )
            )
            session.add(tables.Cloud(id=self.cloud_id, name="c", cpu_model="x", created_at=0.0, **terms))
            session.add(
                tables.Image(
                    id=image,
                    name="i",
                    digest="d",
                    size_bytes=1,
                    virtual_bytes=1,
                    complete=True,
                    created_at=0.0,
                )
            )
            await session.flush()
            for blanket in self.blankets.values():
                row = self._blanket_row(blanket, provider)
                session.add(row)
                await session.flush()
                await mesh.link(session, row)
                await session.flush()
            self._instance_rows(session, image)

    def _blanket_row(self, blanket: SimBlanket, provider: Id) -> tables.Blanket:
        return tables.Blanket(
            id=blanket.id,
            cloud=self.cloud_id,
            provider=provider,
            name=blanket.name,
            state=BlanketState.BOOTING,
            wanted={},
            mesh_address=self.address(blanket),
            endpoint=f"{blanket.name}:51820",
            keys=[],
            announcement=None,
            created_at=0.0,
        )

    def _instance_rows(self, session, image: Id) -> None:  # type: ignore[no-untyped-def]
        cloud, instance = self.cloud_id, self.instance
        network = tables.Network(
            id=self.network_id,
            cloud=cloud,
            name="n",
            vni=7,
            cidr="10.1.0.0/24",
            gateway="10.1.0.1",
            created_at=0.0,
        )
        vm = tables.Instance(
            id=instance,
            cloud=cloud,
            name="vm",
            state=InstanceState.CREATED,
            blanket=self["north"].id,
            image=image,
            vcpus=1,
            memory_mib=64,
            user_data=self.sealed_user_data.ciphertext,
            user_data_digest=self.sealed_user_data.digest,
            ssh_keys=[],
            created_at=0.0,
        )
        volume = tables.Volume(
            id=self.volume,
            cloud=cloud,
            name="root",
            size_bytes=1 << 20,
            instance=instance,
            position=0,
            snapshots=[],
            created_at=0.0,
        )
        nic = tables.NicRow(
            instance=instance, network=self.network_id, cloud=cloud, position=0, mac=self.mac, ip=self.ip
        )
        session.add_all([network, vm])
        session.add_all([volume, nic])
        SqlRights.create(session, instance, cloud=cloud, terms=self.terms)


def run(
    seed: int,
    bugs: Bugs,
    scenario: Callable[[SimWorld], Awaitable[T]],
    *,
    length_s: float | None = None,
    guarded: bool = False,
) -> T:
    """One world from its beginning to its end, in this thread, in as little real time as it takes."""
    with determinism.forgetting():
        return _run(seed, bugs, scenario, length_s, guarded=guarded)


def _run(
    seed: int,
    bugs: Bugs,
    scenario: Callable[[SimWorld], Awaitable[T]],
    length_s: float | None,
    *,
    guarded: bool,
) -> T:
    random = Random(seed)  # noqa: S311 - it has to be the same each time
    loop = SimLoop(random)
    trace = Trace(lambda: loop.true_s)
    memory = _MEMORY if _MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="simulation-", dir=memory) as folder,
        determinism.seeded(random, monotonic=loop.time, true=lambda: loop.true_s, say=trace.say),
        bugs.put_in(),
    ):
        world = SimWorld(random, bugs, loop, trace, Path(folder))
        world.guarded = guarded
        if length_s is not None:
            world.terms = replace(world.terms, length_s=length_s)
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(_main(world, scenario))
        finally:
            asyncio.set_event_loop(None)
            loop.bury()


async def _main(world: SimWorld, scenario: Callable[[SimWorld], Awaitable[T]]) -> T:
    await world.build()
    return await scenario(world)
