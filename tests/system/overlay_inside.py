"""Runs inside one blanket VM, as root: three namespaces act as three blankets, and all is tried for real.

`python3 overlay_inside.py` prints one line `CHECK {...}` for each finding, then `DONE`. Each blanket is a
process of its own in its namespace (`… blanket NAME`), driven over its standard input; each instance is a
namespace whose device is joined to its port in a blanket by `… pump`. Kept free of test libraries: only what
a blanket has is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyroute2 import netns

from supercloud.blanket.overlay.driver import LinuxOverlay
from supercloud.model.errors import SupercloudError
from supercloud.ports.agent import Location, Mesh, MeshReport, Network, Peer

RUN = Path("/run/overlay-check")
WORLD = "203.0.113.10"
TCP_PORT = 8080
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
    begun = time.perf_counter()
    await overlay.start()
    print(json.dumps({"ms": _ms(begun)}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        method, arguments = json.loads(line)
        begun = time.perf_counter()
        try:
            answer = await getattr(overlay, method)(*_arguments(method, arguments))
            result = {"ok": _ANY.dump_python(answer, mode="json")}
        except SupercloudError as error:
            result = {"error": error.code, "message": error.message}
        print(json.dumps({**result, "ms": _ms(begun)}), flush=True)
    await overlay.close()


def _arguments(method: str, arguments: list[Any]) -> list[Any]:
    kind: Any = {"apply": Mesh, "locate": Location}.get(method)
    return [TypeAdapter(kind).validate_python(arguments[0])] if kind else arguments


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 1)


def blanket_id(name: str) -> str:
    return {"one": "a", "two": "b", "three": "c"}[name] * 8 + "-0000-4000-8000-000000000000"


# ---------------------------------------------------------------- an instance's cable


def pump(blanket: str, tap: str, instance: str) -> None:
    """What a hypervisor and a guest's network card do: frames between a port and a namespace's device."""
    ends = []
    for namespace, device in ((blanket, tap), (instance, "g0")):
        netns.setns(namespace)
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x0002 | 0x1000))  # TUNSETIFF
        ends.append(end)
    print("{}", flush=True)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    while True:
        for ready in select.select(ends, [], [])[0]:
            with contextlib.suppress(OSError):  # the other end is down for a moment
                os.write(other[ready], os.read(ready, 65536))


@dataclass
class Process:
    """A child that answers one line for each line."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, *arguments: str, namespace: str | None = None) -> Process:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        process = await asyncio.create_subprocess_exec(
            *inside,
            sys.executable,
            __file__,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(await asyncio.wait_for(self.process.stdout.readline(), 60))

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

    async def reaches(self, ip: str, *extra: str, tries: int = 3) -> bool:
        code, _ = await sh(
            "ping",
            "-n",
            "-q",
            "-c",
            str(tries),
            "-i",
            "0.2",
            "-W",
            "2",
            *extra,
            ip,
            namespace=self.name,
            ok=False,
        )
        return code == 0

    async def connects(self, ip: str, port: int = TCP_PORT) -> bool:
        return await connects(self.name, ip, port)


async def connects(namespace: str, ip: str, port: int = TCP_PORT) -> bool:
    code, _ = await sh("busybox", "nc", "-w", "2", ip, str(port), namespace=namespace, ok=False)
    return code == 0


@dataclass
class Cloud:
    blankets: dict[str, Blanket]
    generation: int = 0
    endpoints: bool = True
    locations: dict[str, Location] = field(default_factory=dict)
    networks: tuple[Network, ...] = NETS

    def mesh(self, blanket: Blanket) -> Mesh:
        return Mesh(
            address=blanket.address,
            generation=self.generation,
            networks=self.networks,
            locations=tuple(self.locations.values()),
            peers=tuple(
                Peer(
                    blanket=other.id,
                    address=other.address,
                    endpoint=f"10.0.2.1{other.number}:51820",
                    keys=other.keys,
                    vxlan_port=4700 + blanket.number + other.number,
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


async def underlay(blankets: list[Blanket]) -> None:
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
    for one in blankets:
        for command in (
            f"ip netns add {one.name}",
            f"ip link add u-{one.name} type veth peer name eth0 netns {one.name}",
            f"ip link set u-{one.name} master under up",
            f"ip -n {one.name} addr add 10.0.2.1{one.number}/24 dev eth0",
            f"ip -n {one.name} link set eth0 up",
            f"ip -n {one.name} link set lo up",
            f"ip -n {one.name} route add default via 10.0.2.2",
        ):
            await sh(*command.split())


class Capture:
    """All that crosses the underlay between blankets, by (protocol, port)."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.clear = 0
        self._sockets = []
        for name in ("u-one", "u-two", "u-three"):
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            one.bind((name, 0))
            one.setblocking(False)
            self._sockets.append(one)
            asyncio.get_running_loop().add_reader(one, self._read, one)

    def _read(self, one: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = one.recv(2048)
                kind = int.from_bytes(frame[12:14], "big")
                what = {0x0806: "arp", 0x86DD: "ipv6"}.get(kind, hex(kind))
                if kind == 0x0800:
                    between = all(address[:3] == b"\x0a\x00\x02" for address in (frame[26:30], frame[30:34]))
                    ports = {int.from_bytes(frame[34:36], "big"), int.from_bytes(frame[36:38], "big")}
                    wireguard = frame[23] == 17 and 51820 in ports
                    what = "wireguard" if wireguard else f"ip {frame[23]} {sorted(ports)} inside={between}"
                self.seen[what] = self.seen.get(what, 0) + 1
                self.clear += b"IN-CLEAR-0123456789" in frame


async def responder(namespace: str, port: int = TCP_PORT) -> Process:
    child = await Process.start("serve", str(port), namespace=namespace)
    await child.line()
    return child


async def serve(port: int) -> None:
    """Gives back what it is sent."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", port)  # noqa: S104 - the filter is what is tried
    print("{}", flush=True)
    await server.serve_forever()


async def talk(ip: str, port: int) -> None:
    """One connection; numbered messages until standard input ends; says how it went."""
    reader, writer = await asyncio.open_connection(ip, port)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("{}", flush=True)
    count, longest = 0, 0.0
    try:
        while not ended.done():
            message = b"%08d IN-CLEAR-0123456789\n" % count
            begun = time.monotonic()
            writer.write(message)
            if await asyncio.wait_for(reader.readexactly(len(message)), 20) != message:
                raise OSError("another answer")
            longest = max(longest, time.monotonic() - begun)
            count += 1
            await asyncio.sleep(0.02)
        print(json.dumps({"kept": True, "count": count, "longest_ms": round(longest * 1000)}), flush=True)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        print(json.dumps({"kept": False, "count": count, "why": repr(error)}), flush=True)


async def until(what: Any, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if await what():
            return True
        await asyncio.sleep(0.1)
    return False


def main() -> None:
    match sys.argv[1:]:
        case ["blanket", name]:
            asyncio.run(blanket_process(name))
        case ["pump", blanket, tap, instance]:
            pump(blanket, tap, instance)
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["talk", ip, port]:
            asyncio.run(talk(ip, int(port)))
        case _:
            from overlay_checks import all_checks

            asyncio.run(all_checks())


if __name__ == "__main__":
    main()
