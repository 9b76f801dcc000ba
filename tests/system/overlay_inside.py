"""Runs inside one blanket VM, as root: three namespaces act as three blankets, and all is tried for real.

`python3 overlay_inside.py` prints one line `CHECK {...}` for each finding, then `DONE`. Each blanket is a
process of its own in its namespace (`… blanket NAME`), driven over its standard input; each instance is a
namespace whose device is joined to its port in a blanket by `overlay_guest.py pump`. Kept free of test
libraries: only what a blanket has is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import overlay_guest
from overlay_guest import MARKER, TCP_PORT
from pydantic import TypeAdapter

from supercloud.blanket.machines.network import MachineNetwork
from supercloud.blanket.overlay.driver import LinuxOverlay
from supercloud.keeper import egress
from supercloud.model.errors import SupercloudError
from supercloud.ports.overlay import Abroad, Location, Mesh, MeshReport, Network, Peer

RUN = Path("/run/overlay-check")
WORLD = "203.0.113.10"
START_S = 300  # for a program to start or answer, on a machine that others use as well
NETS = tuple(
    Network(
        id=f"{digit * 8}-0000-4000-8000-000000000000",
        name=name,
        vni=int(digit) + 100,
        cidr=f"10.7{digit}.0.0/24",
        gateway=f"10.7{digit}.0.1",
    )
    for digit, name in (("1", "red"), ("2", "blue"))
)
_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def check(name: str, ok: bool, **detail: object) -> None:
    print("CHECK", json.dumps({"name": name, "ok": bool(ok), **detail}), flush=True)


# ---------------------------------------------------------------- one blanket, in its own process


async def blanket_process(name: str) -> None:
    """Answers one JSON request a line on standard input: [method, arguments]."""
    overlay = LinuxOverlay(
        blanket=blanket_id(name),
        run=RUN / name / "overlay",
        keys=RUN / name / "keys",
        resolver="10.0.2.2",
    )
    resolv = RUN / name / "resolv.conf"
    resolv.parent.mkdir(parents=True, exist_ok=True)
    resolv.write_text("nameserver 10.0.2.2\n")
    machines = MachineNetwork(control="10.0.2.2:7444", resolv=resolv)
    begun = time.perf_counter()
    await overlay.start()
    print(json.dumps({"ms": _ms(begun)}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, arguments = json.loads(line)
        begun = time.perf_counter()
        try:
            own = {"keeper_permits": _keeper_permits, "machines": machines.open}
            called = own.get(method) or getattr(overlay, method)
            answer = await called(*_arguments(method, arguments))
            result = {"ok": _ANY.dump_python(answer, mode="json")}
        except SupercloudError as error:
            result = {"error": error.code, "message": error.message}
        print(json.dumps({**result, "ms": _ms(begun)}), flush=True)
    await overlay.close()


async def _keeper_permits(instance: str, seconds: float) -> None:
    """As the keeper does, which knows nothing of the overlay but a table's and a set's name."""
    await egress.permit({instance: seconds})


def _arguments(method: str, arguments: list[Any]) -> list[Any]:
    kind: Any = {"apply": Mesh, "locate": Location}.get(method)
    return [TypeAdapter(kind).validate_python(arguments[0])] if kind else arguments


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)


def blanket_id(name: str) -> str:
    return {"one": "a", "two": "b", "three": "c", "four": "d", "five": "e"}[
        name
    ] * 8 + "-0000-4000-8000-000000000000"


# ---------------------------------------------------------------- who is asked and told


@dataclass
class Process:
    """A child that answers one line for each line."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, *arguments: str, namespace: str | None = None) -> Process:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        program = __file__ if arguments[0] == "blanket" else overlay_guest.__file__
        process = await asyncio.create_subprocess_exec(
            *inside,
            sys.executable,
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(await asyncio.wait_for(self.process.stdout.readline(), START_S))

    async def call(self, method: str, *arguments: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps([method, _ANY.dump_python(arguments, mode="json")]).encode() + b"\n"
        )
        await self.process.stdin.drain()
        answer = await self.line()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer}")
        return answer

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> None:
        """In order: its standard input ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await asyncio.wait_for(self.process.wait(), START_S)


# ---------------------------------------------------------------- the outside


async def sh(*arguments: str, namespace: str | None = None, ok: bool = True) -> tuple[int, str]:
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    process = await asyncio.create_subprocess_exec(
        *inside,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if ok and process.returncode:
        raise RuntimeError(f"{arguments}: {said.decode(errors='replace')}")
    return process.returncode or 0, said.decode(errors="replace")


@dataclass
class Blanket:
    name: str
    number: int
    child: Process | None = None
    report: MeshReport | None = None
    keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return blanket_id(self.name)

    @property
    def address(self) -> str:
        return f"100.64.0.{self.number}"

    @property
    def underlay(self) -> str:
        return f"10.0.2.1{self.number}"

    async def start(self) -> float:
        self.child = await Process.start("blanket", self.name, namespace=self.name)
        return float((await self.child.line())["ms"])

    async def call(self, method: str, *arguments: object) -> Any:
        assert self.child is not None
        return await self.child.call(method, *arguments)

    async def keyed(self, method: str) -> MeshReport:
        answer = await self.call(method)
        return TypeAdapter(MeshReport).validate_python(answer["ok"])


@dataclass
class Instance:
    name: str
    digit: str
    network: Network
    cable: Process | None = None
    heir_of: Instance | None = None  # whose address it has

    @property
    def id(self) -> str:
        return f"{self.digit * 8}-1111-4000-8000-000000000000"

    @property
    def tap(self) -> str:
        return "t" + self.id.replace("-", "")[:12]

    @property
    def mac(self) -> str:
        return f"52:54:00:00:00:0{self.digit}"

    @property
    def ip(self) -> str:
        if self.heir_of is not None:
            return self.heir_of.ip
        return self.network.cidr.replace("0/24", f"1{self.digit}")

    def at(self, blanket: Blanket | None, epoch: int) -> Location:
        return Location(
            instance=self.id,
            name=self.name,
            network=self.network.id,
            mac=self.mac,
            ip=self.ip,
            blanket=blanket.id if blanket else None,
            epoch=epoch,
        )

    async def make(self) -> None:
        """A namespace with a card; its address is for DHCP to give."""
        await sh("ip", "netns", "add", self.name)
        for command in (
            ["ip", "tuntap", "add", "g0", "mode", "tap"],
            ["ip", "link", "set", "g0", "address", self.mac, "mtu", "1370"],
            ["ip", "link", "set", "lo", "up"],
            ["ip", "link", "set", "g0", "up"],
        ):
            await sh(*command, namespace=self.name)

    async def addressed(self) -> None:
        await sh("ip", "addr", "replace", f"{self.ip}/24", "dev", "g0", namespace=self.name)
        await sh("ip", "route", "replace", "default", "via", self.network.gateway, namespace=self.name)

    async def run_on(self, blanket: Blanket) -> None:
        if self.cable is not None:
            await self.cable.kill()
        self.cable = await Process.start("pump", blanket.name, self.tap, self.name)
        await self.cable.line()

    async def plug(self, blanket: Blanket, permit_s: float = 3600) -> None:
        await blanket.call("plug", self.id, self.tap, self.network.id, self.mac, self.ip)
        if permit_s:
            await blanket.call("permit", self.id, permit_s)

    async def reaches(self, ip: str, *extra: str, tries: int = 3, within_s: int = 15) -> bool:
        asked = f"ping -n -q -c {tries} -i 0.2 -W {within_s}".split()
        code, _ = await sh(*asked, *extra, ip, namespace=self.name, ok=False)
        return code == 0

    async def misses(self, ip: str, *extra: str) -> bool:
        """No answer; the others' deadline is long because an answer may be slow."""
        return not await self.reaches(ip, *extra, tries=2, within_s=2)

    async def connects(self, ip: str) -> bool:
        return await connects(self.name, ip)

    async def refused(self, ip: str) -> bool:
        return await refused(self.name, ip)


async def connects(namespace: str | None, ip: str, port: int = TCP_PORT, *, within_s: int = 15) -> bool:
    code, _ = await sh("busybox", "nc", "-w", str(within_s), ip, str(port), namespace=namespace, ok=False)
    return code == 0


async def refused(namespace: str | None, ip: str, port: int = TCP_PORT) -> bool:
    return not await connects(namespace, ip, port, within_s=2)


@dataclass
class Cloud:
    blankets: dict[str, Blanket]
    generation: int = 0
    locations: dict[str, Location] = field(default_factory=dict)
    networks: tuple[Network, ...] = NETS
    abroad: dict[str, Abroad] = field(default_factory=dict)  # by the blanket's name

    def port(self, blanket: Blanket, other: Blanket) -> int:
        """The VXLAN port of a pair."""
        return 4700 + blanket.number + other.number

    def mesh(self, blanket: Blanket) -> Mesh:
        return Mesh(
            address=blanket.address,
            generation=self.generation,
            networks=self.networks,
            locations=tuple(self.locations.values()),
            abroad=self.abroad.get(blanket.name, Abroad()),
            peers=tuple(
                Peer(
                    blanket=other.id,
                    address=other.address,
                    endpoint=f"{other.underlay}:51820",
                    keys=other.keys,
                    vxlan_port=self.port(blanket, other),
                )
                for other in self.blankets.values()
                if other is not blanket
            ),
        )

    async def apply(self, *only: Blanket) -> list[float]:
        self.generation += 1
        chosen = only or tuple(self.blankets.values())
        return [(await one.call("apply", self.mesh(one)))["ms"] for one in chosen]

    async def locate(self, location: Location) -> list[float]:
        self.locations[location.instance] = location
        return [(await one.call("locate", location))["ms"] for one in self.blankets.values()]


class Scene:
    """Three blankets of one cloud; erin is with alice at `one`, in one network with bob and dave."""

    def __init__(self) -> None:
        self.one, self.two, self.three = (
            Blanket(name, number) for number, name in enumerate(("one", "two", "three"), 1)
        )
        self.all = [self.one, self.two, self.three]
        self.cloud = Cloud({blanket.name: blanket for blanket in self.all})
        red, blue = NETS
        self.alice = Instance("alice", "1", red)
        self.bob = Instance("bob", "2", red)
        self.carol = Instance("carol", "3", blue)
        self.dave = Instance("dave", "4", red)
        self.erin = Instance("erin", "5", red)
        self.at = (
            (self.alice, self.one),
            (self.bob, self.two),
            (self.carol, self.one),
            (self.dave, self.three),
            (self.erin, self.one),
        )


async def underlay(*names: str) -> None:
    """One provider network 10.0.2.0/24 behind a router (this namespace) to `the world`."""
    for command in (
        "ip link add under type bridge",
        "ip addr add 10.0.2.2/24 dev under",
        "ip link set under up",
        "ip link add world type dummy",
        f"ip addr add {WORLD}/24 dev world",
        "ip link set world up",
    ):
        await sh(*command.split())
    for number, name in enumerate(names, 1):
        for command in (
            f"ip netns add {name}",
            f"ip link add u-{name} type veth peer name eth0 netns {name}",
            f"ip link set u-{name} master under up",
        ):
            await sh(*command.split())
        for command in (  # as the blanket's boot script does
            "busybox sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
            "busybox sysctl -q -w net.ipv4.conf.all.rp_filter=1",
            f"ip addr add 10.0.2.1{number}/24 dev eth0",
            "ip link set eth0 up",
            "ip link set lo up",
            "ip route add default via 10.0.2.2",
        ):
            await sh(*command.split(), namespace=name)


class Capture:
    """All that blankets send on the underlay: what it is, how long, and whether it can be read."""

    def __init__(self, blankets: list[Blanket]) -> None:
        self.between: dict[str, int] = {}  # blankets, by what it is
        self.inner = 0  # frames in the name of an instance or of the mesh
        self.clear = 0  # frames with what instances said
        self.fragments = 0
        self.longest = 0
        self._blankets = {socket.inet_aton(one.underlay) for one in blankets}
        for blanket in blankets:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            one.bind((f"u-{blanket.name}", 0))
            one.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: lose nothing
            one.setblocking(False)
            asyncio.get_running_loop().add_reader(one, self._read, one)

    def _read(self, one: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, direction, *_) = one.recvfrom(65536)
                if direction != 4:  # PACKET_OUTGOING: on its way to the blanket
                    self._look(frame)

    def _look(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        self.clear += MARKER in frame
        if kind != 0x0800:
            self.between[hex(kind)] = self.between.get(hex(kind), 0) + 1
            return
        sender, receiver, protocol = frame[26:30], frame[30:34], frame[23]
        self.longest = max(self.longest, len(frame) - 14)
        self.fragments += bool(int.from_bytes(frame[20:22], "big") & 0x3FFF)
        self.inner += sender[:2] in (b"\x0a\x47", b"\x0a\x48", b"\x0a\x49") or sender[:2] == b"\x64\x40"
        if sender in self._blankets and receiver in self._blankets:
            what = "wireguard" if protocol == 17 and _ports(frame, 34) == {51820} else f"protocol {protocol}"
            if protocol == 1 and frame[51] == 17 and _ports(frame, 62) == {51820}:
                what = "no wireguard here"  # ICMP, where the device was deleted
            self.between[what] = self.between.get(what, 0) + 1


def _ports(frame: bytes, at: int) -> set[int]:
    return {int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")}


async def responder(namespace: str | None, port: int = TCP_PORT) -> Process:
    child = await Process.start("serve", str(port), namespace=namespace)
    await child.line()
    return child


async def until(what: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if await what():
            return True
        await asyncio.sleep(0.1)
    return False


def main() -> None:
    if sys.argv[1:2] == ["blanket"]:
        asyncio.run(blanket_process(sys.argv[2]))
    else:
        from overlay_checks import all_checks

        asyncio.run(all_checks())


if __name__ == "__main__":
    main()
