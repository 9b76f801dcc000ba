"""Everything that users can ask, as one object: services.northbound.Northbound.

Each resource's part is a class of its own, in its own file; here they are put together and connected with
the operations that carry out what takes long.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy import func, select

from supercloud import __version__
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.model.states import InstanceState
from supercloud.model.trust import TrustKind
from supercloud.ports.controller import Event
from supercloud.ports.durable import Saga
from supercloud.services import incidents
from supercloud.services.adoption import Adopting, Adoptions
from supercloud.services.blanket_operations import BlanketOperations
from supercloud.services.blankets import Blankets
from supercloud.services.caller import Caller
from supercloud.services.clouds import Clouds
from supercloud.services.commands import Commands
from supercloud.services.consents import Consents, Performing
from supercloud.services.deadlines import Deadlines
from supercloud.services.deliveries import Deliveries
from supercloud.services.domains import Domains
from supercloud.services.evidence import Evidences
from supercloud.services.evidence_lists import EvidenceLists
from supercloud.services.feed import Place, Watch
from supercloud.services.findings import Findings
from supercloud.services.governing import LEAVE, ROTATE
from supercloud.services.images import Images
from supercloud.services.incidents import Incidents
from supercloud.services.indicators import Indicators
from supercloud.services.instance_operations import InstanceOperations
from supercloud.services.instances import Instances
from supercloud.services.levels import Levels
from supercloud.services.maintenance import Windows
from supercloud.services.move_operations import MoveOperations
from supercloud.services.moves import Moves
from supercloud.services.networks import Networks
from supercloud.services.northbound import LAST, Northbound
from supercloud.services.operations import Intent
from supercloud.services.orders import Orders
from supercloud.services.pages import Page, Part
from supercloud.services.parts import Parts
from supercloud.services.placement import Placement
from supercloud.services.policies import Policies
from supercloud.services.principals import Principals
from supercloud.services.providers import Providers
from supercloud.services.reconcile import Reconciler
from supercloud.services.refs import clouds_of, counted, find_cloud
from supercloud.services.requests import Ref
from supercloud.services.restoring import RESTORE
from supercloud.services.sagas.rotate import rotate
from supercloud.services.scans import Scans
from supercloud.services.southbound import Southbound
from supercloud.services.store.changes import Change
from supercloud.services.store.tables import Blanket, Cloud, Instance, Operation, Published
from supercloud.services.tools import ToolsAccess
from supercloud.services.trust import Trusts
from supercloud.services.upgrades import UpgradeOperations, Upgrades
from supercloud.services.views import OperationView, StatusView
from supercloud.services.volume_backup import VolumeBackups
from supercloud.services.volume_operations import VolumeOperations
from supercloud.services.volumes import Volumes
from supercloud.services.world import StoreWorld

_log = structlog.get_logger(__name__)


class ControlPlane(
    Principals,
    Providers,
    Clouds,
    Trusts,
    Blankets,
    Upgrades,
    ToolsAccess,
    Adopting,
    Images,
    Networks,
    Volumes,
    Instances,
    Moves,
    Levels,
    Findings,
    Incidents,
    Evidences,
    Scans,
    Policies,
    Indicators,
    Orders,
    Consents,
):
    """The parts keep no state that another part needs, so that inheriting them all is only a list of them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._uploading = set()
        self._lists = EvidenceLists(parts.agents, parts.feed)
        self._started_at = time.time()
        self.world = StoreWorld(parts)
        self.reconciler = Reconciler(parts, self.world)
        self._placement = Placement(parts)
        self._windows = Windows(parts)
        self._deadlines = Deadlines(parts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._register()
        parts.agents.on_ready += [
            parts.meshes.greet,
            self.reconciler.blanket,
            self._placement.arrived,
            parts.policies.arrived,
            parts.horizontal.arrived,
        ]
        parts.agents.on_events.append(self._heard)
        parts.feed.listeners += [self._trusted, parts.policies.told]

    async def start(self) -> None:
        """Once the durable runtime is up: carry on, listen, and keep the store true from now on."""
        await self._parts.publisher.resume()
        for operation in await self._parts.operations.open():
            await self._parts.operations.started(operation)
        self._later(self._parts.publisher.run())
        self._later(self._parts.operations.keep_bounded())
        self._later(self.reconciler.run())
        self._later(self._windows.run())
        self._later(self._deadlines.run())
        self._later(self._parts.policies.run())
        self._later(self._parts.horizontal.run())

    def on_behalf_of(self, caller: Caller) -> Northbound:
        """The same control plane, as far as `caller` sees it. Operations are carried out by this one."""
        seen = copy.copy(self)
        seen._parts = replace(self._parts, store=self._parts.store.seen_by(caller))
        return seen

    def southbound(self) -> Southbound:
        return _OfProviders(self._parts)

    async def close(self) -> None:
        await self._placement.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ operations and status

    async def status(self) -> StatusView:
        parts = self._parts
        async with parts.store.read() as session:
            mine = counted(session, Instance.cloud)
            clouds = await session.scalar(
                select(func.count()).select_from(Cloud).where(counted(session, Cloud.id))
            )
            blankets = list(await session.scalars(select(Blanket.id).where(counted(session, Blanket.cloud))))
            instances = await session.scalar(select(func.count(Instance.id)).where(mine))
            running = await session.scalar(
                select(func.count(Instance.id)).where(Instance.state == InstanceState.RUNNING, mine)
            )
            open_ones = await session.scalar(
                select(func.count(Operation.id)).where(
                    Operation.ended_at.is_(None), counted(session, Operation.cloud)
                )
            )
            missing = await session.scalars(
                select(Published.at).where(
                    Published.at.in_(parts.publisher.missing), counted(session, Published.cloud)
                )
            )
            ports_missing = tuple(sorted(missing))
        return StatusView(
            version=__version__,
            database=parts.settings.database,
            started_at=self._started_at,
            quarantine_left_s=await parts.rights.quarantine_left_s(),
            clouds=clouds or 0,
            blankets=len(blankets),
            blankets_connected=len(parts.agents.connected.intersection(blankets)),
            instances=instances or 0,
            instances_running=running or 0,
            operations_open=open_ones or 0,
            ports_missing=ports_missing,
        )

    async def operations(
        self,
        *,
        open_only: bool = False,
        kind: str | None = None,
        cloud: Ref | None = None,
        about: Id | None = None,
        page: Page = LAST,
    ) -> Part[OperationView]:
        async with self._parts.store.read() as session:
            clouds = await clouds_of(session, cloud)
        return await self._parts.operations.views(
            open_only=open_only,
            kind=kind,
            about=about,
            clouds=clouds,
            administered=cloud is None,
            page=page,
            caller=self._parts.store.caller,
        )

    async def operation(
        self, operation: Id, *, wait_s: float = 0.0, seen_phase: str | None = None
    ) -> OperationView:
        return await self._parts.operations.view(
            operation, wait_s=min(wait_s, 30.0), seen_phase=seen_phase, caller=self._parts.store.caller
        )

    async def cancel(self, operation: Id) -> OperationView:
        return await self._parts.operations.cancel(operation, caller=self._parts.store.caller)

    async def watch(self, *, after: Place | None = None, cloud: Ref | None = None) -> tuple[Watch, Id | None]:
        identity = None
        if cloud is not None:
            async with self._parts.store.read() as session:
                identity = (await find_cloud(session, cloud)).id
        caller = self._parts.store.caller
        return self._parts.feed.watch(caller.principal if caller else None, after), identity

    # ------------------------------------------------------------ inside

    def _register(self) -> None:
        blankets = BlanketOperations(self._parts, self.reconciler.expired)
        volumes = VolumeOperations(self._parts, self.world)
        instances = InstanceOperations(self._parts, self.world, volumes, self._placement)
        moves = MoveOperations(self._parts)
        backups = VolumeBackups(self._parts, self.world, volumes, self)
        works = {
            "blanket.add": blankets.add,
            "blanket.start": blankets.start,
            "blanket.stop": blankets.stop,
            "blanket.remove": blankets.remove,
            "blanket.upgrade": UpgradeOperations(self._parts).upgrade,
            "blanket.adopt": Adoptions(self._parts, self.world, backups, self).adopt,
            "instance.run": instances.start,
            "instance.start": instances.start,
            "instance.stop": instances.stop,
            "instance.reboot": instances.reboot,
            "instance.remove": instances.remove,
            RESTORE: instances.restore,
            "instance.migrate": instances.migrate,
            "group.move": moves.group,
            "provider.drain": moves.drain,
            LEAVE: moves.leave,
            "volume.attach": volumes.attach,
            "volume.detach": volumes.detach,
            "volume.resize": volumes.resize,
            "volume.snapshot": volumes.snapshot,
            "volume.restore": volumes.restore,
            "volume.backup": backups.back_up,
            "volume.remove": volumes.remove,
            ROTATE: self._rotate,
        }
        for kind, work in works.items():
            self._parts.operations.register(kind, work)

    async def _rotate(self, saga: Saga, intent: Intent) -> None:
        await rotate(saga, self.world, cloud=intent["cloud"])

    async def _heard(self, blanket: Id, events: tuple[Event, ...]) -> None:
        """Something happened in a blanket: look at once what it means for its instances."""
        if any(event.kind.startswith(("instance.", "right.")) for event in events):
            self._later(self.reconciler.blanket(blanket))
        if any(event.kind == incidents.KIND for event in events):
            self._parts.horizontal.changed()
        if any(event.kind == "certificate.renewed" for event in events):
            # Its word for its keys comes with the certificate, so that its peers need the new one in time.
            self._later(self._parts.meshes.greet(blanket))

    def _trusted(self, changes: tuple[Change, ...]) -> None:
        """Whichever controller granted or revoked something, blankets that are connected here are told."""
        for one in changes:
            if one.kind is Kind.TRUST and one.cloud and (one.data or {}).get("kind") == TrustKind.CONNECT:
                self._parts.meshes.later(one.cloud)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _OfProviders(Domains, Deliveries, Commands, Performing):
    """services.southbound.Southbound, put together as the northbound one is."""


def _is_northbound(control: ControlPlane) -> Northbound:
    """mypy holds the class to the protocol here."""
    return control
