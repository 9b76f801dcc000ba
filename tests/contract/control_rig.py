"""The whole control plane on either database, with machines that really dial in (see blanket_double)."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blanket_double import Double, LivePlatform, Site
from sqlalchemy import update

from supercloud.controlplane.compose import control_plane
from supercloud.controlplane.listener import AgentListener
from supercloud.keystore.memory import memory_keystore
from supercloud.model.errors import (
    Conflict,
)
from supercloud.model.kinds import Kind
from supercloud.model.names import MIB
from supercloud.model.states import OperationState
from supercloud.model.trust import TrustKind
from supercloud.ports.agent import RunState, UserData
from supercloud.ports.platform import BlanketFiles
from supercloud.services.blanket_files import OwnBlanketFiles
from supercloud.services.facade import ControlPlane
from supercloud.services.parts import Parts, Settings
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    GrantTrust,
    RegisterImage,
    RunInstance,
)
from supercloud.services.store.changes import Change
from supercloud.services.store.engine import normal_url
from supercloud.services.store.tables import Cloud
from supercloud.services.upgrades import OwnBundle
from supercloud.services.views import OperationView
from supercloud.trust.keys import IdentityKey, to_text
from supercloud.trust.tls import Credentials, server_context

IMAGE = secrets.token_bytes(700_000)
DIGEST = "sha256:" + hashlib.sha256(IMAGE).hexdigest()
BLANKET_IMAGE = "sha256:" + "0" * 64


@dataclass
class Bench:
    control: ControlPlane
    parts: Parts
    site: Site

    async def done(
        self, view: OperationView, end: OperationState = OperationState.SUCCEEDED
    ) -> OperationView:
        async with asyncio.timeout(40):
            while view.ended_at is None:
                view = await self.control.operation(view.id, wait_s=10)
        assert view.state is end, view.error
        return view

    async def gone(self, blanket: str) -> None:
        async with asyncio.timeout(10):
            while (await self.control.blanket(blanket)).connected:  # noqa: ASYNC110 - what users see has no event
                await asyncio.sleep(0.02)

    async def blanket(self, name: str, cloud: str = "c") -> Double:
        view = await self.done(
            await self.control.add_blanket(AddBlanket(name=name, cloud=cloud, provider="p"))
        )
        return self.site.machines[view.object]

    async def run(self, name: str = "web", on: str = "north", **other: object) -> str:
        request = RunInstance(name=name, cloud="c", image="debian", on=on, networks=("lan",), **other)  # type: ignore[arg-type]
        return (await self.done(await self.control.run_instance(request))).object


class World:
    """One key store, one site, one database; controllers come and go."""

    def __init__(
        self, database: str, folder: Path, platform: Callable[[Site], LivePlatform] = LivePlatform
    ) -> None:
        self.database = database
        self.folder = folder
        (folder / "machines").mkdir()
        self.keys = memory_keystore()
        self.site = Site(folder / "machines")
        self.platform = platform(self.site)
        self.port = 0

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Bench]:
        settings = Settings(
            images=self.folder / "images",
            agents_port=self.port,
            blanket_image=lambda: BLANKET_IMAGE,
            database=normal_url(self.database).get_backend_name(),
            bundle=OwnBundle(lambda: self.folder / "bundle"),
            blanket_files=OwnBlanketFiles(self._files, lambda: BLANKET_IMAGE),
            join_s=30,
        )
        identity = IdentityKey.new()
        answer = await self.keys.issue_controller(csr_pem=identity.csr())
        context = server_context(
            Credentials(answer.certificate_pem, identity.to_pem()), answer.authority_pem, joining=True
        )
        async with control_plane(
            database=self.database, settings=settings, keys=self.keys, drivers=lambda *_: self.platform
        ) as (control, parts, _, takeover):
            listener = AgentListener(parts)
            self.port = await listener.start("127.0.0.1", self.port, context)
            object.__setattr__(settings, "agents_port", self.port)  # known only now: any free one
            parts.feed.listeners.append(self._told)
            await takeover.sweep()
            await control.start()
            try:
                yield Bench(control, parts, self.site)
            finally:
                await listener.close()

    def _files(self, image: str) -> BlanketFiles:
        """Of the blanket image, as far as anybody looks into it."""
        assert image == BLANKET_IMAGE
        paths = {name: self.folder / f"image-{name}" for name in ("kernel", "initrd", "root", "bundle")}
        for name, path in paths.items():
            if not path.exists():
                path.write_bytes(name.encode() * 1000)
        return BlanketFiles(**paths, cmdline="quiet")

    def _told(self, changes: tuple[Change, ...]) -> None:
        self.site.names |= {one.id: one.name for one in changes if one.kind is Kind.BLANKET}

    async def close(self) -> None:
        for machine in self.site.machines.values():
            await machine.end()


async def furnish(bench: Bench, keys: object) -> None:
    """A provider, a cloud with a network, an image."""
    control = bench.control
    await control.add_provider(AddProvider(name="p", kind="simulated"))
    await control.create_cloud(CreateCloud(name="c"))
    await control.create_network(CreateNetwork(name="lan", cloud="c", cidr="10.9.0.0/24"))
    key = await keys.new_image_key()  # type: ignore[attr-defined]
    await keys.bind_image_key(id=key.id, digest=DIGEST)  # type: ignore[attr-defined]
    await control.register_image(
        RegisterImage(name="debian", digest=DIGEST, size_bytes=len(IMAGE), virtual_bytes=64 * MIB)
    )

    async def content(start: int, end: int) -> AsyncIterator[bytes]:
        yield IMAGE[start:end]

    half = len(IMAGE) // 2
    partial = await control.upload_image(DIGEST, 0, content(0, half))
    assert (partial.complete, partial.present_bytes) == (False, half)
    with pytest.raises(Conflict):
        await control.upload_image(DIGEST, 0, content(0, half))
    assert (await control.upload_image(DIGEST, half, content(half, len(IMAGE)))).complete


async def transferring(bench: Bench) -> tuple[Double, Double, str, OperationView]:
    """North, south, an instance on its way between them, held in its transfer."""
    north, south = await bench.blanket("north"), await bench.blanket("south")
    instance = await bench.run()
    bench.site.hold_transfers = True
    view = await bench.control.migrate_instance("web", to="south")
    async with asyncio.timeout(20):
        while view.phase != "transfer":
            view = await bench.control.operation(view.id, wait_s=5)
    return north, south, instance, view


def arrived(north: Double, south: Double, instance: str) -> None:
    """Everything is at the target, paused, and the source's process ended."""
    north.rights.pop(instance)
    south.states[instance], north.states[instance] = RunState.PAUSED, RunState.DEFINED


def lost(north: Double, south: Double, instance: str) -> None:
    """The source's process ended, and nothing is at the target."""
    del south.states[instance]
    north.rights.pop(instance)
    north.states[instance] = RunState.DEFINED


def unopenable(text: bytes) -> UserData:
    """As large as it is; it was not encrypted."""
    sealed = bytes(28) + text
    return UserData(digest=f"sha256:{hashlib.sha256(sealed).hexdigest()}", ciphertext=to_text(sealed))


async def share_with(bench: Bench, owner: str, *, times: int = 1) -> None:
    """Cloud `c` shares its image with a cloud that belongs to principal `owner`."""
    made = await bench.control.create_cloud(CreateCloud(name="hers"))
    principal = await bench.control.principal(owner)
    async with bench.parts.store.write() as session:
        await session.execute(update(Cloud).where(Cloud.id == made.id).values(owner=principal.id))
    for _ in range(times):
        request = GrantTrust(kind=TrustKind.SHARE_IMAGE, cloud="c", to=made.id, image="debian")
        await bench.control.grant_trust(request)
