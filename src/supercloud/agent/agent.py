"""The agent put together, over whatever drivers it is given, and what it does by itself while it runs."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from supercloud import __version__
from supercloud.agent.backups import Backups
from supercloud.agent.changes import Changes
from supercloud.agent.channel import Channel
from supercloud.agent.evidence import Evidence, EvidenceHands
from supercloud.agent.identity import Passport
from supercloud.agent.images import ImageFetcher, ImageSource
from supercloud.agent.instances import Arrivals, Instances
from supercloud.agent.journal import Journal, Side
from supercloud.agent.keeperlink import AgentRelay
from supercloud.agent.loop import LoopHands, VerticalLoop
from supercloud.agent.machines import AgentMachines
from supercloud.agent.migration import Forwards, Migration
from supercloud.agent.opener import Opener
from supercloud.agent.overlay import AgentOverlay
from supercloud.agent.reactions import PauseReactions
from supercloud.agent.report import disk_free_bytes, memory_mib
from supercloud.agent.restarts import RestartReactions
from supercloud.agent.scanning import AgentScans, ScanReactions
from supercloud.agent.streams import StreamDialer, Streams
from supercloud.agent.tools import AgentTools
from supercloud.agent.upgrade import AgentUpgrade
from supercloud.agent.volumes import AgentVolumes
from supercloud.keeper.link import KeeperPort
from supercloud.model.errors import NotFound, RightRefused, SupercloudError, Unavailable
from supercloud.model.names import Id
from supercloud.model.reactions import Command
from supercloud.ports.actuator import Actuator
from supercloud.ports.agent import BlanketReport
from supercloud.ports.clock import HolderClock
from supercloud.ports.controller import CertificateRequest, Events, Hello, Surrender
from supercloud.ports.hypervisor import (
    Bundles,
    Console,
    DiskHypervisor,
    Hypervisor,
    Machines,
    MigratingHypervisor,
    Overlay,
    Volumes,
)
from supercloud.ports.keystore import JoinAnswer
from supercloud.ports.tools import Tools
from supercloud.security.actuators import Actuators
from supercloud.wire.proxies import agent_handlers
from supercloud.wire.rpc import Transport

_RETRY_S = 2.0
_SETTLE_EVERY_S = 30.0
_LONGEST_SLEEP_S = 3600.0
_log = structlog.get_logger(__name__)


class WholeHypervisor(Hypervisor, MigratingHypervisor, DiskHypervisor, Console, Protocol):
    """A driver with every ability that a blanket needs."""


class ControlPlaneDialer(ImageSource, StreamDialer, Protocol):
    async def channel(self) -> Transport:
        """Raises: Unavailable, Denied."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    hypervisor: WholeHypervisor
    volumes: Volumes
    overlay: Overlay
    forwards: Forwards
    console_log: Callable[[Id], Path]
    data: Path  # whose file system holds the volumes
    cpu_models: Callable[[], Awaitable[tuple[str, ...]]]
    bundles: Bundles | None = None  # None: these programs cannot be upgraded in place
    tools: Tools | None = None  # None: no place for the user's own libvirt tools
    machines: Machines | None = None  # None: no blanket can be inside this one
    loop: LoopHands | None = None  # None: nothing is detected here


class BlanketAgent:
    """ports.agent.Agent, and the loops beside it. `keeper` is made from the relay it is given."""

    def __init__(
        self,
        *,
        drivers: Drivers,
        journal: Journal,
        passport: Passport,
        clock: HolderClock,
        dialer: ControlPlaneDialer,
        keeper: Callable[[AgentRelay], KeeperPort],
    ) -> None:
        identity = passport.identity
        if identity.blanket is None or identity.cloud is None:
            raise NotFound("the certificate names no blanket")
        self._blanket = identity.blanket
        self._drivers = drivers
        self._journal = journal
        self._passport = passport
        self._clock = clock
        self._connection = secrets.token_hex(16)
        self.channel = Channel(
            dial=dialer.channel, handlers=lambda: agent_handlers(self), greet=self._greeting
        )
        self._keeper = keeper(AgentRelay(self.channel, journal))
        changes, arrivals = Changes(), Arrivals(clock)
        self.evidence = self._kept(drivers.loop, passport, dialer)
        scanned = self._scanned(drivers.loop)
        self.scans = None if scanned is None else AgentScans(scanned, journal.note)
        opener = Opener(self._blanket, passport.keys.sealing, passport.keys.identity)
        hands = drivers.loop
        paused = None if hands is None else self._pauses(hands)
        self.loop = (
            None
            if hands is None or paused is None
            else VerticalLoop(
                replace(hands, actuator=self._actuators(hands, paused, scanned)),
                journal,
                blanket=self._blanket,
                cloud=identity.cloud,
                ready=self.channel.connected,
            )
        )
        self.instances = Instances(
            hypervisor=drivers.hypervisor,
            overlay=drivers.overlay,
            keeper=self._keeper,
            journal=journal,
            changes=changes,
            arrivals=arrivals,
            opener=opener,
            guards=None if self.loop is None else self.loop.guards,
            still=None if paused is None else paused.holds,
        )
        self.migration = Migration(
            hypervisor=drivers.hypervisor,
            overlay=drivers.overlay,
            forwards=drivers.forwards,
            keeper=self._keeper,
            journal=journal,
            changes=changes,
            arrivals=arrivals,
            instances=self.instances,
            opener=opener,
            guards=None if self.loop is None else self.loop.guards,
        )
        images = ImageFetcher(dialer)
        self._backups = Backups(dialer)
        self.upgrade = AgentUpgrade(bundles=drivers.bundles, images=images)
        self.machines = AgentMachines(machines=drivers.machines, images=images) if drivers.machines else None
        self.volumes = AgentVolumes(
            volumes=drivers.volumes,
            hypervisor=drivers.hypervisor,
            disks=drivers.hypervisor,
            images=images,
            backups=self._backups,
            opener=opener,
        )
        self.overlay = AgentOverlay(
            overlay=drivers.overlay,
            passport=passport,
            journal=journal,
            blanket=self._blanket,
            cloud=identity.cloud,
        )
        self.streams = Streams(
            console=drivers.hypervisor,
            console_log=drivers.console_log,
            dialer=dialer,
            journal=journal,
        )
        self.tools = AgentTools(
            tools=drivers.tools,
            journal=journal,
            streams=self.streams,
            volumes=drivers.volumes,
            backups=self._backups,
            opener=opener,
        )

    def _actuators(self, hands: LoopHands, paused: PauseReactions, scanned: ScanReactions | None) -> Actuator:
        """With what a blanket's agent itself can do besides."""
        run = hands.socket.parent
        restarted = RestartReactions(self._drivers.hypervisor, run / "restarted")
        more = [one for one in (self.evidence, scanned) if one is not None]
        return Actuators([hands.actuator, paused, restarted, *more])

    def _scanned(self, hands: LoopHands | None) -> ScanReactions | None:
        if hands is None or hands.yara is None:
            return None
        return ScanReactions(self._drivers.hypervisor, hands.yara)

    def _kept(self, hands: LoopHands | None, passport: Passport, dialer: StreamDialer) -> Evidence | None:
        if hands is None or hands.memory is None or hands.evidence is None:
            return None
        return Evidence(
            EvidenceHands(
                hypervisor=self._drivers.hypervisor,
                memory=hands.memory,
                known=self._known,
                owner_key=lambda: passport.identity.owner_key,
                identity=passport.keys.identity,
                blanket=self._blanket,
                cloud=passport.identity.cloud or "",
            ),
            hands.evidence,
            dialer,
        )

    def _known(self, command: Command) -> tuple[Id, Any]:
        """Raises: Unavailable."""
        if self.loop is None:
            raise Unavailable("there is no loop")
        return self.loop.known(command)

    def _pauses(self, hands: LoopHands) -> PauseReactions:
        run = hands.socket.parent / "paused"
        return PauseReactions(self._drivers.hypervisor, run, self._may_run, self._arriving)

    async def _arriving(self, instance: Id) -> bool:
        if instance in self.instances.starting:
            return True
        transfers = await self._journal.transfers()
        return any(one.instance == instance and one.side is Side.TARGET for one in transfers)

    async def _may_run(self, instance: Id) -> bool:
        held = (await self._keeper.report()).held
        return any(one.instance == instance and one.may_run for one in held)

    async def report(self) -> BlanketReport:
        total_mib, free_mib = memory_mib()
        why_not = "its agent has no driver for that" if not self.machines else await self.machines.why_not()
        return BlanketReport(
            blanket=self._blanket,
            flavour=await self._drivers.hypervisor.flavour(),
            agent_version=__version__,
            boot_id=self._clock.instant().boot_id,
            cpu_models=await self._drivers.cpu_models(),
            memory_mib=total_mib,
            memory_free_mib=free_mib,
            disk_free_bytes=disk_free_bytes(self._drivers.data),
            bundle=await self.upgrade.running(),
            closes_networks=True,
            guards_starts=self.loop is not None,
            takes_tools=self.tools.there,
            nests=not why_not,
            nests_not=why_not,
        )

    async def _greeting(self) -> Hello:
        self.migration.reconnected()
        return Hello(
            agent_version=__version__,
            boot_id=self._clock.instant().boot_id,
            connection=self._connection,
            epochs=(await self._keeper.report()).epochs,
            sealing_key=self._passport.keys.sealing.public,
        )

    # ------------------------------------------------------------ by itself

    async def run(self) -> None:
        """Until cancelled; instances and transfers go on without us, and the next agent adopts them."""
        await self._journal.note("agent.started", {"version": __version__})
        loops = [
            self.channel.run,
            self._listen,
            self._settle,
            self._tell,
            self._surrender,
            self._renew_certificate,
            self._confirm,
        ]
        if self.loop is not None:
            loops.append(self.loop.run)
        try:
            async with asyncio.TaskGroup() as group:
                for loop in loops:
                    group.create_task(loop())
        finally:
            await self.streams.close()
            await self._backups.close()
            if self.evidence is not None:
                await self.evidence.close()
            if self.scans is not None:
                await self.scans.close()

    async def _listen(self) -> None:
        """Hear the hypervisor; connect to it again if it restarts."""
        while True:
            try:
                async for event in self._drivers.hypervisor.events():
                    try:
                        await self.instances.heard(event)
                    except SupercloudError as error:
                        _log.warning("agent.event_not_settled", reason=error.message)
            except SupercloudError as error:
                _log.warning("agent.hypervisor_silent", reason=error.message)
            await asyncio.sleep(_RETRY_S)

    async def _settle(self) -> None:
        while True:
            try:
                await self.instances.adopt()
            except SupercloudError as error:
                _log.info("agent.settle_later", reason=error.message)
                await asyncio.sleep(_RETRY_S)
            else:
                await asyncio.sleep(_SETTLE_EVERY_S)

    async def _tell(self) -> None:
        """Events, oldest first, until each is acknowledged."""
        while True:
            await self.channel.connected()
            self._journal.news.clear()
            try:
                while events := await self._journal.pending():
                    answer = await self.channel.report(Events(events=events))
                    await self._journal.acknowledged(min(answer.seq, events[-1].seq))
                    if answer.seq < events[0].seq:
                        raise Unavailable("the control plane acknowledged none of the events")
            except SupercloudError as error:
                _log.info("agent.events_wait", reason=error.message)
                await asyncio.sleep(_RETRY_S)
            else:
                await self._journal.news.wait()

    async def _surrender(self) -> None:
        """Rights whose instances ended by themselves. Refused means that it is not ours any more: done."""
        while True:
            await self._journal.given_up.wait()
            await self.channel.connected()
            self._journal.given_up.clear()
            for instance, epoch in await self._journal.surrenders():
                try:
                    await self.channel.surrender(Surrender(instance=instance, epoch=epoch))
                except (RightRefused, NotFound) as error:
                    _log.info("agent.surrender_refused", instance=instance, reason=error.message)
                except SupercloudError as error:
                    _log.info("agent.surrender_later", instance=instance, reason=error.message)
                    self._journal.given_up.set()
                    continue
                await self._journal.surrendered(instance, epoch)
            await asyncio.sleep(_RETRY_S)

    async def _confirm(self) -> None:
        await self.channel.connected()
        await self.upgrade.welcomed()

    async def _renew_certificate(self) -> None:
        while True:
            left_s = self._passport.identity.renew_at - time.time()
            if left_s > 0:
                await asyncio.sleep(min(left_s, _LONGEST_SLEEP_S))
                continue
            await self.channel.connected()
            try:
                csr_pem = self._passport.keys.identity.csr()
                answer = await self.channel.renew_certificate(CertificateRequest(csr_pem=csr_pem))
                self._passport.renewed(
                    JoinAnswer(certificate_pem=answer.certificate_pem, authority_pem=answer.authority_pem),
                    at=time.time(),
                )
                await self._journal.note("certificate.renewed", {})
            except SupercloudError as error:
                _log.warning("agent.certificate_not_renewed", reason=error.message)
                await asyncio.sleep(30.0)
