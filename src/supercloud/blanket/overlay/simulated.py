"""An overlay without a kernel: the same knowledge and the same plans, for tests and simulated blankets."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence

from supercloud.blanket.overlay.plan import (
    NOTHING,
    InstancePort,
    Knowledge,
    Plan,
    plan,
    plugged,
    told_location,
    told_mesh,
    unplugged,
)
from supercloud.model.errors import NotFound
from supercloud.model.names import Id, Ipv4, Mac, Port, WireguardKey
from supercloud.ports.overlay import Location, Mesh, MeshReport


class SimulatedOverlay:
    """`now` in seconds, of any clock; keys are recognizable, not secret.

    `heard` asks as a frame would: whether the blanket accepts it from there.
    """

    def __init__(self, *, blanket: Id, now: Callable[[], float]) -> None:
        self._blanket = blanket
        self._now = now
        self._known: Knowledge = NOTHING
        self._until: dict[str, float] = {}
        self._grants: dict[tuple[Ipv4, Port], float] = {}
        self._number = 0
        self._next = False

    @property
    def plan(self) -> Plan:
        return plan(self._known, blanket=self._blanket, now=self._now())

    async def apply(self, mesh: Mesh) -> MeshReport:
        known = told_mesh(self._known, mesh, now=self._now())
        plan(known, blanket=self._blanket)
        self._known = known
        return await self.report()

    async def locate(self, location: Location) -> None:
        self._known = told_location(self._known, location)

    def expect(self, instance: Id, devices: Sequence[str]) -> None:
        """Nobody looks here before they are plugged."""

    async def plug(self, instance: Id, device: str, network: Id, mac: Mac, ip: Ipv4) -> None:
        if network not in self.plan.segments:
            raise NotFound(f"network {network} is not in this blanket")
        port = InstancePort(instance=instance, device=device, network=network, mac=mac, ip=ip)
        self._known = plugged(self._known, port)

    async def unplug(self, instance: Id) -> None:
        await self.permit(instance, 0)
        self._known = unplugged(self._known, instance)

    async def permit(self, instance: Id, seconds: float) -> None:
        devices = [port.device for port in self._known.ports if port.instance == instance]
        if not devices and seconds > 0:
            raise NotFound(f"instance {instance} has no port here")
        for device in devices:
            self._until[device] = self._now() + int(seconds)

    async def grant_tcp(self, peer: Ipv4, ports: Sequence[Port], seconds: float) -> None:
        for port in ports:
            self._grants[peer, port] = self._now() + int(seconds)

    async def prepare_key(self) -> MeshReport:
        self._next = True
        return await self.report()

    async def switch_key(self) -> MeshReport:
        self._number += self._next
        self._next = False
        return await self.report()

    async def report(self) -> MeshReport:
        return MeshReport(
            generation=self._known.mesh.generation,
            key=self._key(self._number),
            next_key=self._key(self._number + 1) if self._next else None,
            alive=tuple(peer.blanket for peer in self.plan.speakers),
        )

    def heard(self, device: str, mac: Mac, ip: Ipv4) -> bool:
        """Whether a frame with this sender, from an instance's port or a peer's link, is accepted now."""
        wanted = self.plan.filter
        permitted = self._until.get(device, 0.0) > self._now()
        return (device, mac, ip) in wanted.remote or (permitted and (device, mac, ip) in wanted.own)

    def granted(self, peer: Ipv4, port: Port) -> bool:
        return self._grants.get((peer, port), 0.0) > self._now()

    def _key(self, number: int) -> WireguardKey:
        digest = hashlib.sha256(f"{self._blanket} {number}".encode()).digest()
        return base64.b64encode(digest).decode()
