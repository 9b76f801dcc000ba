"""DHCP and DNS of each network: one dnsmasq per network, bound to its gateway address alone.

Leases are what the locations say, names are the instances'. dnsmasq answers nobody else, writes nothing, and
asks only the blanket's own resolver. It drops root by itself. A child that dies is started again; children of
an earlier agent are ended before new ones start, found by the pid that dnsmasq wrote, and only if the process
really runs our configuration.

It remembers whom it gave an address, for as long as that lease lasts, and gives it to nobody else before,
whatever it is told: so one that is to give an address to another instance than before is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from supercloud.blanket.overlay.plan import INSTANCE_MTU, Segment
from supercloud.model.errors import Failed
from supercloud.model.names import Id
from supercloud.ports.overlay import Location

_RESTART_S = 1.0
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`directory` must be readable for `user`; `resolver` is the one that the blanket itself asks."""

    directory: Path
    resolver: str = "10.0.2.3"
    user: str = "dnsmasq"


def configuration(segment: Segment, settings: Settings) -> str:
    """dnsmasq's configuration for one network. It does not depend on who is in the network. Of one without a
    way out it answers the network's own names only: other names would carry anything to the world."""
    cidr, gateway = IPv4Network(segment.network.cidr), segment.network.gateway
    here = settings.directory / segment.network.id
    lines = [
        f"interface={segment.bridge}",
        f"listen-address={gateway}",
        "bind-interfaces",
        "except-interface=lo",
        f"user={settings.user}",
        f"pid-file={here}.pid",
        "no-resolv",
        "no-poll",
        "no-hosts",
        *([f"server={settings.resolver}"] if segment.network.outward else []),
        f"addn-hosts={here}.names",
        f"domain={segment.network.name}",
        f"local=/{segment.network.name}/",
        "domain-needed",
        "bogus-priv",
        f"dhcp-hostsfile={here}.leases",
        f"dhcp-range={cidr.network_address},static,{cidr.netmask},12h",
        "dhcp-ignore=tag:!known",
        "dhcp-authoritative",
        "leasefile-ro",
        "no-ping",
        f"dhcp-option=option:router,{gateway}",
        f"dhcp-option=option:dns-server,{gateway}",
        f"dhcp-option=option:mtu,{INSTANCE_MTU}",
        "quiet-dhcp",
        "log-facility=-",
    ]
    return "\n".join(lines) + "\n"


def leases(segment: Segment) -> str:
    """Who gets which address, by MAC."""
    return "".join(f"{one.mac},{one.ip},{one.name}\n" for one in _in_order(segment))


def names(segment: Segment) -> str:
    """Who is called what: the instance's name, alone and within its network."""
    return "".join(f"{one.ip} {one.name}.{segment.network.name} {one.name}\n" for one in _in_order(segment))


def _in_order(segment: Segment) -> list[Location]:
    return sorted(segment.locations, key=lambda location: location.instance)


class Children:
    """The dnsmasq processes of this blanket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[Id, asyncio.Task[None]] = {}
        self._processes: dict[Id, asyncio.subprocess.Process] = {}
        #: Whose each address is by what was told last, and has been since its process began: MACs by IP.
        self._told: dict[Id, dict[str, str]] = {}
        self._given: dict[Id, dict[str, str]] = {}

    async def converge(self, segments: Iterable[Segment]) -> None:
        """One child per network with what it shall answer; others end.

        Raises:
            Failed: dnsmasq refuses its configuration.
        """
        wanted = {segment.network.id: segment for segment in segments}
        self._settings.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._end_orphans()
        for network in self._running.keys() - wanted.keys():
            await self._end(network)
        for stray in self._settings.directory.iterdir():
            if stray.name.partition(".")[0] not in wanted:
                stray.unlink()
        for network, segment in wanted.items():
            configured = self._write(segment, ".conf", configuration(segment, self._settings))
            if configured and network in self._running:
                await self._end(network)
            self.tell(segment)
            if network not in self._running:
                await self._check(network)
                self._running[network] = asyncio.create_task(self._supervise(network))

    def tell(self, segment: Segment) -> None:
        """Bring leases and names up to date; dnsmasq reads them again only if they changed."""
        network = segment.network.id
        changed = [
            self._write(segment, ".leases", leases(segment)),
            self._write(segment, ".names", names(segment)),
        ]
        self._told[network] = told = {one.ip: one.mac for one in segment.locations}
        given = self._given.setdefault(network, {})
        another = any(given.get(ip, mac) != mac for ip, mac in told.items())
        given |= told
        process = self._processes.get(network)
        if any(changed) and process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL if another else signal.SIGHUP)  # it has nothing to write

    async def close(self) -> None:
        for network in list(self._running):
            await self._end(network)

    async def _supervise(self, network: Id) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._given[network] = dict(self._told.get(network, {}))
            process = await asyncio.create_subprocess_exec(
                "dnsmasq",
                "--keep-in-foreground",
                f"--conf-file={self._path(network, '.conf')}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
            )
            self._processes[network] = process
            try:
                await process.wait()
            except asyncio.CancelledError:
                await _terminate(process)
                raise
            finally:
                del self._processes[network]
            # A child that cannot live must not take the processor.
            await asyncio.sleep(max(0.0, _RESTART_S - (loop.time() - began)))

    async def _check(self, network: Id) -> None:
        process = await asyncio.create_subprocess_exec(
            "dnsmasq",
            "--test",
            f"--conf-file={self._path(network, '.conf')}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        if process.returncode:
            raise Failed(f"dnsmasq: {said.decode(errors='replace').strip()[:300]}")

    async def _end(self, network: Id) -> None:
        self._told.pop(network, None)
        self._given.pop(network, None)
        task = self._running.pop(network)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _end_orphans(self) -> None:
        own = {process.pid for process in self._processes.values()}
        for record in self._settings.directory.glob("*.pid"):
            text = record.read_text().strip()
            conf = str(record.with_suffix(".conf"))
            if text.isdigit() and int(text) not in own and _runs(int(text), conf):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(text), signal.SIGKILL)

    def _write(self, segment: Segment, suffix: str, text: str) -> bool:
        """True if that changed the file."""
        path = self._path(segment.network.id, suffix)
        if path.exists() and path.read_text() == text:
            return False
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.rename(path)
        return True

    def _path(self, network: Id, suffix: str) -> Path:
        return self._settings.directory / f"{network}{suffix}"


def _runs(pid: int, configuration: str) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"--conf-file={configuration}".encode() in arguments


async def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
