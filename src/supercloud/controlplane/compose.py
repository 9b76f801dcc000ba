"""Putting the parts together, for the program and for whoever tests all of it in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from supercloud.platforms.blanket import BlanketPlatform
from supercloud.ports.keystore import KeyStore
from supercloud.services.agents import Agents
from supercloud.services.directory import Directory
from supercloud.services.durable import DurableRuntime
from supercloud.services.facade import ControlPlane
from supercloud.services.feed import Feed, Listener
from supercloud.services.governing import Governing
from supercloud.services.horizontal import Horizontal
from supercloud.services.mesh import Meshes
from supercloud.services.operations import Operations
from supercloud.services.parts import Parts, PlatformDrivers, Settings
from supercloud.services.publish import Publisher
from supercloud.services.spreading import Spreading
from supercloud.services.store.engine import Store
from supercloud.services.store.rights import SqlRights
from supercloud.services.streams import Streams
from supercloud.services.takeover import Takeover

DATABASE = "supercloud.db"


def database_url(state: Path, url: str | None) -> str:
    """The given one, or SQLite in `state`."""
    return url or f"sqlite:///{state / DATABASE}"


@asynccontextmanager
async def control_plane(
    *, database: str, settings: Settings, keys: KeyStore, drivers: PlatformDrivers
) -> AsyncIterator[tuple[ControlPlane, Parts, DurableRuntime, Takeover]]:
    """Everything but the listeners, which have to be up before operations are carried on: the caller starts
    those and then calls `ControlPlane.start()`.
    """
    store = await Store.open(database)
    directory, feed = Directory(store), Feed()
    feed.listeners.append(directory.told)
    listener = Listener(store, feed)
    rights = SqlRights(store)
    operations = Operations(store)
    agents = Agents(store, rights, keys)
    streams = Streams(agents)
    parts = Parts(
        settings=settings,
        store=store,
        directory=directory,
        feed=feed,
        rights=rights,
        keys=keys,
        operations=operations,
        agents=agents,
        streams=streams,
        meshes=Meshes(store, agents),
        policies=Spreading(store, agents),
        horizontal=Horizontal(store, agents, Governing(store, operations)),
        publisher=Publisher(store, streams),
        drivers=drivers,
        nested=BlanketPlatform,
    )
    runtime = DurableRuntime(operations, database)
    operations.runs_on(runtime.start, runtime.forget)
    takeover = Takeover(store, runtime)
    control = ControlPlane(parts)
    try:
        await listener.start()
        await rights.quarantine_left_s()  # another incarnation of the store is noticed before anybody asks
        await takeover.claim()
        await runtime.launch()
        yield control, parts, runtime, takeover
    finally:
        await control.close()
        await parts.horizontal.end()
        await parts.meshes.close()
        await parts.publisher.close()
        await agents.close()
        await runtime.close()
        await takeover.close()
        await listener.close()
        await store.close()
