"""The overlay of a blanket: ports.hypervisor.Overlay over WireGuard, VXLAN, nftables and dnsmasq.

What the blanket was told is kept in tmpfs, so that a restarted agent goes on from there before anyone tells
it anything; the kernel's own state goes on meanwhile. Whatever is called, the kernel is made like the plan
that follows from what is known (`plan.py`): wholly in `apply`, by the difference in `locate`, `plug` and
`unplug`. The packet filter comes first where things are added, so that no link is ever there without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from supercloud.blanket import nft
from supercloud.blanket.overlay import filter as packet_filter
from supercloud.blanket.overlay.dhcp import Children, Settings
from supercloud.blanket.overlay.netlink import NetlinkError
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
from supercloud.blanket.overlay.vxlan import Wiring
from supercloud.blanket.overlay.wireguard import Keys, Tunnel
from supercloud.model.errors import Failed, NotFound
from supercloud.model.names import Id, Ipv4, Mac, Port
from supercloud.ports.overlay import Location, Mesh, MeshReport

_KNOWLEDGE = TypeAdapter(Knowledge)
#: How often a peer's two keys are looked at while it rotates: what it sends in between arrives not.
_SETTLE_S, _SETTLE_LATER_S, _SETTLE_SOON_FOR_S = 0.05, 1.0, 120.0
_SYSCTL = Path("/proc/sys/net")
#: Connection tracking says here who began, and not what is in the window: an instance that comes back to this
#: blanket goes on with connections that were elsewhere meanwhile, of which the kernel saw nothing.
_KERNEL = {"ipv4/ip_forward": "1", "netfilter/nf_conntrack_tcp_be_liberal": "1"}


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger(__name__)


class LinuxOverlay:
    """`start` before use, `close` at the end: it leaves the kernel's state and ends only its children.

    `blanket`: this blanket's id. `run`: a directory in tmpfs for what is known and for dnsmasq's files, which
    others may pass through. `keys`: a private directory in tmpfs. `underlay`: the provider's device. `now`:
    seconds of a clock that nobody sets, and that a restart of the program does not begin anew.
    """

    def __init__(
        self,
        *,
        blanket: Id,
        run: Path = Path("/run/supercloud/overlay"),
        keys: Path = Path("/run/supercloud/keys"),
        underlay: str = "eth0",
        listen_port: Port = 51820,
        resolver: Ipv4 = "10.0.2.3",
        dhcp_user: str = "dnsmasq",
        now: Callable[[], float] = _boottime,
    ) -> None:
        self._blanket = blanket
        self._now = now
        self._record = run / "known.json"
        self._underlay = underlay
        self._listen_port = listen_port
        self._keys = Keys(keys)
        self._dhcp = Children(Settings(directory=run / "dhcp", resolver=resolver, user=dhcp_user))
        self._known = NOTHING
        self._expected: dict[Id, tuple[str, ...]] = {}
        self._plan = plan(NOTHING, blanket=blanket)
        #: Whether the kernel is as `_plan` says: not before the first time, nor after a part has failed.
        self._whole = False
        self._lock = asyncio.Lock()
        # netlink sockets belong to one thread, and no call of theirs may hold up the agent's loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="overlay")
        self._settling: asyncio.Task[None] | None = None
        self._lapsing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the kernel's sockets, then go on from what an earlier agent knew.

        Raises:
            Failed: the kernel lacks WireGuard, or a part cannot be restored.
        """
        self._wiring, self._tunnel = await self._in_thread("sockets", self._open)
        self._known = self._recall()
        async with self._lock:
            await self._converge(self._planned(self._known))

    async def close(self) -> None:
        for task in (self._settling, self._lapsing):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._dhcp.close()
        await self._in_thread("sockets", self._wiring.close)
        await self._in_thread("sockets", self._tunnel.close)
        self._thread.shutdown()

    # ------------------------------------------------------------ what is told

    async def apply(self, mesh: Mesh) -> MeshReport:
        """Raises: InvalidInput (it contradicts itself), Failed (names the part; the rest is tried again)."""
        async with self._lock:
            if mesh.generation >= self._known.mesh.generation:
                known = told_mesh(self._known, mesh, now=self._now())
                wanted = self._planned(known)
                self._remember(known)
                await self._converge(wanted)
            return await self._report()

    async def locate(self, location: Location) -> None:
        async with self._lock:
            await self._change(told_location(self._known, location))

    def expect(self, instance: Id, devices: Sequence[str]) -> None:
        self._expected[instance] = tuple(devices)

    async def plug(self, instance: Id, device: str, network: Id, mac: Mac, ip: Ipv4) -> None:
        """Raises: NotFound (no such network here), InvalidInput (not an address of it), Failed."""
        async with self._lock:
            segment = self._plan.segments.get(network)
            if segment is None:
                raise NotFound(f"network {network} is not in this blanket")
            port = InstancePort(instance=instance, device=device, network=network, mac=mac, ip=ip)
            known = plugged(self._known, port)
            # Until the filter knows it, a port can say nothing.
            await self._in_thread("port", self._wiring.plug, segment, device)
            await self._change(known)

    async def unplug(self, instance: Id) -> None:
        async with self._lock:
            devices = self._devices(instance)
            self._expected.pop(instance, None)
            if devices:
                await nft.run(packet_filter.permit(devices, 0))
            await self._change(unplugged(self._known, instance))
            for device in devices:
                await self._in_thread("port", self._wiring.unplug, device)

    async def permit(self, instance: Id, seconds: float) -> None:
        """Raises: NotFound (time for an instance without a port)."""
        devices = self._devices(instance)
        if not devices and seconds > 0:
            raise NotFound(f"instance {instance} has no port here")
        if devices:
            await nft.run(packet_filter.permit(devices, seconds))

    async def grant_tcp(self, peer: Ipv4, ports: Sequence[Port], seconds: float) -> None:
        await nft.run(packet_filter.grant(peer, ports, seconds))

    # ------------------------------------------------------------ keys

    async def prepare_key(self) -> MeshReport:
        async with self._lock:
            await self._in_thread("keys", self._keys.prepare)
            return await self._report()

    async def switch_key(self) -> MeshReport:
        async with self._lock:
            await self._in_thread("keys", self._keys.switch)
            if self._known.mesh.generation:
                await self._in_thread("mesh", self._converge_tunnel)
            return await self._report()

    async def report(self) -> MeshReport:
        async with self._lock:
            return await self._report()

    async def _report(self) -> MeshReport:
        def look() -> MeshReport:
            mesh = self._known.mesh
            return MeshReport(
                generation=mesh.generation,
                key=self._keys.public,
                next_key=self._keys.next_public,
                alive=self._tunnel.alive(self._plan.speakers, time.time()) if mesh.generation else (),
            )

        return await self._in_thread("report", look)

    # ------------------------------------------------------------ making it so

    async def _converge(self, wanted: Plan) -> None:
        """All parts, in the order in which each is safe without the next."""
        self._whole = False
        with _part("filter"):
            await nft.run(
                packet_filter.ruleset(
                    wanted.filter,
                    underlay=self._underlay,
                    listen_port=self._listen_port,
                    now=self._now(),
                )
            )
        self._plan = wanted
        if self._known.mesh.generation:
            await self._in_thread("mesh", self._wiring.mesh, wanted.address)
            await self._in_thread("mesh", self._converge_tunnel)
        await self._in_thread("networks", self._wiring.converge, wanted)
        with _part("forwarding"):
            for name, value in _KERNEL.items():
                await asyncio.to_thread((_SYSCTL / name).write_text, value)
        with _part("DHCP"):
            await self._dhcp.converge(wanted.segments.values())
        self._settle_while_peers_rotate()
        self._lapse_in_time()
        self._whole = True

    async def _change(self, known: Knowledge) -> None:
        """The difference to what is now, where the links stay the same; all, after a change that failed."""
        if known == self._known and self._whole:
            return
        before, wanted = self._plan, self._planned(known)
        self._remember(known)
        if not self._whole:
            await self._converge(wanted)
            return
        self._whole = False
        await self._filter(wanted)
        self._plan = wanted
        for network, segment in wanted.segments.items():
            if segment != before.segments[network]:
                await self._in_thread("networks", self._wiring.shift, before.segments[network], segment)
                self._dhcp.tell(segment)
        self._whole = True

    async def _filter(self, wanted: Plan) -> None:
        commands = packet_filter.change(self._plan.filter, wanted.filter, now=self._now())
        if commands is not None:
            with _part("filter"):
                await nft.run(commands)

    def _converge_tunnel(self) -> None:
        self._tunnel.converge(self._keys.private(), self._plan.speakers, time.time())

    def _settle_while_peers_rotate(self) -> None:
        if self._settling is not None and not self._settling.done():
            self._settling.cancel()
        if any(len(peer.keys) > 1 for peer in self._plan.speakers):
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        """WireGuard tells nobody of a handshake, so ask it, often while a rotation is likely under way."""
        soon_until = time.monotonic() + _SETTLE_SOON_FOR_S
        while True:
            try:
                if not await self._in_thread("mesh", self._tunnel.settle, self._plan.speakers):
                    return
            except Failed:
                _log.exception("a rotating peer's address stays where it is for now")
            await asyncio.sleep(_SETTLE_S if time.monotonic() < soon_until else _SETTLE_LATER_S)

    def _lapse_in_time(self) -> None:
        if self._lapsing is not None and self._lapsing is not asyncio.current_task():
            self._lapsing.cancel()
        if self._plan.filter.reach:
            self._lapsing = asyncio.create_task(self._lapse(min(self._plan.filter.reach.values())))

    async def _lapse(self, end: float) -> None:
        """A relation to another cloud is over: the kernel has cut it by itself, and what it leaves goes."""
        await asyncio.sleep(end - self._now())
        try:
            async with self._lock:
                await self._converge(self._planned(self._known))
        except Failed:
            _log.exception("what a relation to another cloud leaves stays until the next change")

    # ------------------------------------------------------------ what is kept

    def _planned(self, known: Knowledge) -> Plan:
        return plan(known, blanket=self._blanket, now=self._now())

    def _remember(self, known: Knowledge) -> None:
        if known == self._known:
            return
        self._record.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        fresh = self._record.with_suffix(".new")
        fresh.write_bytes(_KNOWLEDGE.dump_json(known))
        fresh.chmod(0o600)
        fresh.rename(self._record)
        self._known = known

    def _recall(self) -> Knowledge:
        try:
            return _KNOWLEDGE.validate_json(self._record.read_bytes())
        except FileNotFoundError:
            return NOTHING
        except ValidationError:
            # Written by another version of this program: the control plane tells it all again.
            _log.warning("what an earlier agent knew of the overlay cannot be read")
            return NOTHING

    def owner(self, device: str) -> Id | None:
        """The instance whose port that is; None: nobody's."""
        return next((port.instance for port in self._known.ports if port.device == device), None)

    def devices(self, instance: Id) -> list[str]:
        """Its ports: those that are there, or will be."""
        return self._devices(instance) or list(self._expected.get(instance, ()))

    def _devices(self, instance: Id) -> list[str]:
        return [port.device for port in self._known.ports if port.instance == instance]

    def _open(self) -> tuple[Wiring, Tunnel]:
        return Wiring(), Tunnel(listen_port=self._listen_port)

    async def _in_thread(self, part: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with _part(part):
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: call(*args, **kwargs)
            )


@contextlib.contextmanager
def _part(name: str) -> Iterator[None]:
    """Foreign errors become ours, saying which part of the overlay they are about."""
    try:
        yield
    except Failed as error:
        raise Failed(f"overlay, {name}: {error.message}") from error
    except (NetlinkError, OSError, KeyError) as error:
        raise Failed(f"overlay, {name}: {error!r}") from error
