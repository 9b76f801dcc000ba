"""What is tried inside the blanket VM, in the order in which it builds upon one another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from overlay_inside import (
    NETS,
    RUN,
    TCP_PORT,
    WORLD,
    Blanket,
    Capture,
    Cloud,
    Instance,
    Process,
    check,
    connects,
    responder,
    sh,
    underlay,
    until,
)

RED, BLUE = NETS


class Scene:
    def __init__(self) -> None:
        self.one, self.two, self.three = (
            Blanket(name, number) for number, name in enumerate(("one", "two", "three"), 1)
        )
        self.all = [self.one, self.two, self.three]
        self.cloud = Cloud({blanket.name: blanket for blanket in self.all})
        self.alice = Instance("alice", "1", RED)
        self.bob = Instance("bob", "2", RED)
        self.carol = Instance("carol", "3", BLUE)
        self.dave = Instance("dave", "4", RED)
        self.instances = [self.alice, self.bob, self.carol, self.dave]


async def all_checks() -> None:
    scene = Scene()
    RUN.mkdir(parents=True)
    await underlay(scene.all)
    capture = Capture()
    for step in (
        mesh,
        instances,
        closed,
        spoofing,
        leases,
        permits,
        moving,
        rotation,
        rotation_of_both,
        restart,
        no_mesh_no_traffic,
        removal,
    ):
        try:
            await step(scene)
        except Exception as error:  # noqa: BLE001 - a finding like any other
            check(f"{step.__name__}: ran through", False, error=repr(error), at=traceback.format_exc()[-600:])
    strange = {what: count for what, count in capture.seen.items() if "inside=True" in what}
    check(
        "only WireGuard between blankets",
        capture.seen.get("wireguard", 0) > 50 and not strange,
        seen=capture.seen,
    )
    check("nothing that instances said is readable", capture.clear == 0, frames=capture.clear)
    print("DONE", flush=True)


async def mesh(scene: Scene) -> None:
    cold = [await one.start() for one in scene.all]
    for one in scene.all:
        one.keys = ((await one.keyed("report")).key,)
    for located in (
        scene.alice.at(scene.one, 1),
        scene.bob.at(scene.two, 1),
        scene.carol.at(scene.one, 1),
        scene.dave.at(scene.three, 1),
    ):
        scene.cloud.locations[located.instance] = located
    first = await scene.cloud.apply()
    again = await scene.cloud.apply()

    async def alive() -> bool:
        return all([len((await one.keyed("report")).alive) == 2 for one in scene.all])

    check("every blanket shakes hands with every other", await until(alive))
    check("measured: start, first apply, repeated apply (ms)", True, start=cold, first=first, again=again)
    _, said = await sh("ip", "-d", "-o", "link", namespace="one")
    check("bridge, two VXLAN devices a network, MTU 1370", said.count("vxlan id") == 4 and "mtu 1370" in said)


async def instances(scene: Scene) -> None:
    for instance, blanket in (
        (scene.alice, scene.one),
        (scene.bob, scene.two),
        (scene.carol, scene.one),
        (scene.dave, scene.three),
    ):
        await instance.make()
        await instance.plug(blanket, permit_s=0)
        await instance.run_on(blanket)
        await instance.addressed()
    check("without a permit nothing leaves", not await scene.alice.reaches(scene.bob.ip))
    for instance, blanket in (
        (scene.alice, scene.one),
        (scene.bob, scene.two),
        (scene.carol, scene.one),
        (scene.dave, scene.three),
    ):
        await instance.plug(blanket)
    check("instances of one network reach each other over the mesh", await scene.alice.reaches(scene.bob.ip))
    check("with the whole MTU", await scene.alice.reaches(scene.bob.ip, "-M", "do", "-s", "1342"))
    check("in both directions", await scene.dave.reaches(scene.alice.ip))
    check("networks are apart", not await scene.alice.reaches(scene.carol.ip, tries=2))
    _, said = await sh("bridge", "-d", "fdb", "show", namespace="one")
    check("entries are static", f"{scene.bob.mac} dev vx-4703-" in said and "static" in said)


async def closed(scene: Scene) -> None:
    servers = [await responder(name) for name in ("one", "two", "bob")]
    world = await Process.start("serve", str(TCP_PORT))
    await world.line()
    alice = scene.alice
    try:
        check("instance to instance over TCP", await alice.connects(scene.bob.ip))
        check("an instance reaches the world", await alice.connects(WORLD))
        for where, ip in (
            ("its blanket at the gateway", RED.gateway),
            ("its blanket's mesh address", scene.one.address),
            ("its blanket's underlay address", "10.0.2.11"),
            ("another blanket's mesh address", scene.two.address),
            ("another blanket's underlay address", "10.0.2.12"),
            ("the provider's router", "10.0.2.2"),
        ):
            check(f"an instance does not reach {where}", not await alice.connects(ip))
        check("a blanket does not answer another on the underlay", not await connects("one", "10.0.2.12"))
        check("the world does not reach a blanket", not await outside_connects("10.0.2.11"))
        check("without a grant nothing listens on the mesh", not await connects("one", scene.two.address))
        await scene.two.call("grant_tcp", scene.one.address, TCP_PORT, 60)
        check("a grant opens one port to one blanket", await connects("one", scene.two.address))
        check("and to no other blanket", not await connects("three", scene.two.address))
        await scene.two.call("grant_tcp", scene.one.address, TCP_PORT, 0)
        check("a grant that ended is closed", not await connects("one", scene.two.address))
        await scene.two.call("grant_tcp", scene.one.address, TCP_PORT, 1)
        await asyncio.sleep(1.5)
        check("a grant ends by itself", not await connects("one", scene.two.address))
    finally:
        for server in (*servers, world):
            await server.kill()


async def outside_connects(ip: str) -> bool:
    code, _ = await sh("busybox", "nc", "-w", "2", ip, str(TCP_PORT), ok=False)
    return code == 0


async def spoofing(scene: Scene) -> None:
    alice, bob = scene.alice, scene.bob
    await sh("ip", "addr", "add", "10.71.0.77/24", "dev", "g0", namespace="alice")
    check("another IP is refused", not await alice.reaches(bob.ip, "-I", "10.71.0.77", tries=2))
    await sh("ip", "addr", "del", "10.71.0.77/24", "dev", "g0", namespace="alice")
    await sh("ip", "link", "set", "g0", "address", "52:54:00:00:00:99", namespace="alice")
    check("another MAC is refused", not await alice.reaches(bob.ip, tries=2))
    await sh("ip", "link", "set", "g0", "address", alice.mac, namespace="alice")
    check("and the right ones are accepted again", await alice.reaches(bob.ip))
    heard = Listener("alice")
    poison = arp(alice.mac, bob.mac, scene.dave.ip, alice.mac, alice.ip)
    say("bob", "g0", poison)
    # dave is at `three`: whatever `two` sends in his name must not arrive at `one`.
    device = "vx-4703-" + RED.id.replace("-", "")[:7]
    for source, ip, what in (
        (scene.dave.mac, scene.dave.ip, "an instance of another blanket"),
        (bob.mac, scene.dave.ip, "another's IP"),
        (scene.dave.mac, bob.ip, "another's MAC"),
        ("02:00:00:00:00:42", "10.71.0.42", "a stranger"),
    ):
        heard.clear()
        say("two", device, arp(alice.mac, source, ip, alice.mac, alice.ip))
        say("two", device, datagram(alice.mac, source, ip, alice.ip))
        await asyncio.sleep(0.5)
        check(
            f"a peer that speaks for {what} is not heard",
            not heard.from_either(source, ip),
            frames=len(heard.frames),
        )
    heard.clear()
    say("two", device, datagram(alice.mac, bob.mac, bob.ip, alice.ip))
    await asyncio.sleep(0.5)
    check("(the same words in its own instance's name are heard)", heard.from_either(bob.mac, bob.ip))


async def leases(scene: Scene) -> None:
    alice = scene.alice
    await sh("ip", "addr", "flush", "dev", "g0", namespace="alice")
    script = RUN / "lease"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] && echo "LEASE $ip $mtu $router $dns $domain $hostname"\nexit 0\n'
    )
    script.chmod(0o755)
    asked = (
        "busybox",
        "udhcpc",
        "-i",
        "g0",
        "-n",
        "-q",
        "-t",
        "5",
        "-T",
        "1",
        "-O",
        "mtu",
        "-s",
        str(script),
    )
    _, said = await sh(*asked, namespace="alice", ok=False)
    wanted = f"LEASE {alice.ip} 1370 {RED.gateway} {RED.gateway} red"
    check("DHCP gives the instance its address, MTU, router, name server", wanted in said, said=said[-300:])
    await alice.addressed()
    for name in ("bob", "bob.red"):
        _, said = await sh("busybox", "nslookup", name, RED.gateway, namespace="alice", ok=False)
        check(f"DNS knows {name}", scene.bob.ip in said, said=said[-200:])
    _, said = await sh("busybox", "nslookup", "carol.blue", RED.gateway, namespace="alice", ok=False)
    check("DNS does not tell of other networks", scene.carol.ip not in said)
    pid = int((RUN / "one" / "overlay" / "dhcp" / f"{RED.id}.pid").read_text())
    status = Path(f"/proc/{pid}/status").read_text()
    check("dnsmasq is not root", re.search(r"^Uid:\s+0\s", status, re.M) is None)
    os.kill(pid, 9)

    async def back() -> bool:
        _, said = await sh("busybox", "nslookup", "bob", RED.gateway, namespace="alice", ok=False)
        return scene.bob.ip in said

    check("dnsmasq comes back after it died", await until(back))


async def permits(scene: Scene) -> None:
    await scene.alice.plug(scene.one, permit_s=2)
    begun = time.monotonic()
    check("while the permit lasts traffic leaves", await scene.alice.reaches(scene.bob.ip, tries=1))
    # Nobody is left to end it: the kernel does.
    assert scene.one.child is not None
    await scene.one.child.kill()
    await asyncio.sleep(max(0.0, begun + 2.6 - time.monotonic()))
    check("the kernel ends it, with the agent dead", not await scene.alice.reaches(scene.bob.ip, tries=2))
    took = await scene.one.start()
    check("a restarted agent does not prolong it", not await scene.alice.reaches(scene.bob.ip, tries=2))
    await scene.alice.plug(scene.one)
    check("a new permit lets it out again", await scene.alice.reaches(scene.bob.ip))
    await scene.one.call("permit", scene.alice.id, 0)
    check("0 ends it now", not await scene.alice.reaches(scene.bob.ip, tries=1))
    await scene.alice.plug(scene.one)
    check("measured: restart with all it knew (ms)", True, restart=took)


async def moving(scene: Scene) -> None:
    alice, bob = scene.alice, scene.bob
    server = await responder("bob")
    talk = await Process.start("talk", bob.ip, str(TCP_PORT), namespace="alice")
    await talk.line()
    await bob.plug(scene.three)
    check("a waiting port does not draw its copy's frames", await scene.dave.reaches(bob.ip))
    times: list[float] = []
    for epoch, blanket in enumerate((scene.three, scene.two, scene.three), 2):
        await bob.plug(blanket)
        await bob.run_on(blanket)
        times += await scene.cloud.locate(bob.at(blanket, epoch))
        check(f"reached after move {epoch - 1}", await alice.reaches(bob.ip))
    check("a neighbour at the new blanket reaches it, too", await scene.dave.reaches(bob.ip))
    check("measured: locate (ms)", max(times) < 1000, ms=times)
    for late in (bob.at(scene.two, 2), bob.at(scene.two, 4)):
        await scene.one.call("locate", late)
    check("an older or equal epoch is ignored", await alice.reaches(bob.ip))
    heard = Listener("alice")
    device = "vx-4703-" + RED.id.replace("-", "")[:7]
    say("two", device, datagram(alice.mac, bob.mac, bob.ip, alice.ip, b"old copy"))
    await asyncio.sleep(0.5)
    check("the blanket it left is not heard any more", not heard.contains(b"old copy"))
    outcome = await finish(talk)
    check("one TCP connection lived through the moves", bool(outcome["kept"]), **outcome)
    await server.kill()


async def rotation(scene: Scene) -> None:
    server = await responder("bob")
    await rotate(scene, [scene.one], "one blanket rotates")
    await server.kill()


async def rotation_of_both(scene: Scene) -> None:
    server = await responder("bob")
    await rotate(scene, [scene.one, scene.three], "two blankets rotate at once")
    await server.kill()


async def rotate(scene: Scene, blankets: list[Blanket], what: str) -> None:
    talk = await Process.start("talk", scene.bob.ip, str(TCP_PORT), namespace="alice")
    await talk.line()
    ping = asyncio.create_task(
        sh("ping", "-n", "-q", "-c", "150", "-i", "0.1", "-W", "5", scene.bob.ip, namespace="alice", ok=False)
    )
    old = {blanket.name: blanket.keys[0] for blanket in blankets}
    for blanket in blankets:
        prepared = await blanket.keyed("prepare_key")
        repeated = await blanket.keyed("prepare_key")
        check(f"{what}: the next key is made once", prepared.next_key == repeated.next_key is not None)
        blanket.keys = (prepared.key, prepared.next_key or "")
    others = [one for one in scene.all if one not in blankets]
    await scene.cloud.apply()
    for blanket in blankets:
        await blanket.keyed("switch_key")
        again = await blanket.keyed("switch_key")
        check(
            f"{what}: switched, and switching again is nothing",
            again.key == blanket.keys[1] and not again.next_key,
        )

    async def moved() -> bool:
        seen = [(await sh("wg", "show", "wg-sc", "allowed-ips", namespace=one.name))[1] for one in others]
        return all(
            re.search(rf"^{re.escape(blanket.keys[1])}\t{blanket.address}/32$", said, re.M)
            for said in seen
            for blanket in blankets
        )

    begun = time.monotonic()
    check(
        f"{what}: addresses follow to the new key",
        await until(moved, 30),
        after_s=round(time.monotonic() - begun, 1),
    )
    for blanket in blankets:
        blanket.keys = (blanket.keys[1],)
    await scene.cloud.apply()
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="two")
    check(f"{what}: the old key is gone", not any(key in said for key in old.values()))
    _, said = await ping
    lost = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    outcome = await finish(talk)
    check(f"{what}: the connection is kept", bool(outcome["kept"]) and outcome["count"] > 20, **outcome)
    check(f"{what}: instances reach each other after it", await scene.alice.reaches(scene.bob.ip))
    check(f"measured: {what}: pings lost", True, lost=int(lost[1]) - int(lost[2]) if lost else said[-200:])


async def restart(scene: Scene) -> None:
    one = scene.one
    assert one.child is not None
    await one.child.kill()
    for command in (
        "ip link add vx-9999-abcdef type dummy",
        "ip link add br-99999999 type bridge",
        "ip tuntap add t0123456789ab mode tap",
        "nft add rule inet supercloud input accept",
    ):
        await sh(*command.split(), namespace="one")
    await one.start()
    report = await one.keyed("report")
    check("a restarted agent knows what it was told", report.generation == scene.cloud.generation)
    check("and its key", (report.key,) == one.keys)
    await scene.cloud.apply(one)
    _, said = await sh("ip", "-o", "link", namespace="one")
    strays = [name for name in ("vx-9999", "br-99999999", "t0123456789ab") if name in said]
    check("strays are removed", not strays, strays=strays)
    _, said = await sh("nft", "list", "chain", "inet", "supercloud", "input", namespace="one")
    check("a foreign rule is removed", "\t\taccept" not in said)

    async def one_each() -> bool:
        _, said = await sh("busybox", "pgrep", "-f", "dnsmasq.*overlay-check/one/", ok=False)
        return len(said.split()) == len(NETS)

    check("one dnsmasq a network", await until(one_each))
    check("and all works on", await scene.alice.reaches(scene.bob.ip))


async def no_mesh_no_traffic(scene: Scene) -> None:
    await sh("ip", "link", "del", "wg-sc", namespace="one")
    check("without the mesh nothing goes", not await scene.alice.reaches(scene.bob.ip, tries=2))
    await scene.cloud.apply(scene.one)
    check("apply makes it anew", await until(lambda: scene.alice.reaches(scene.bob.ip, tries=1)))


async def removal(scene: Scene) -> None:
    one = scene.one
    await one.call("unplug", scene.carol.id)
    await one.call("unplug", scene.carol.id)
    scene.cloud.networks = (RED,)
    scene.cloud.locations.pop(scene.carol.id)
    await scene.cloud.apply(one)
    _, said = await sh("ip", "-o", "link", namespace="one")
    check(
        "a removed network leaves nothing behind", "br-22222222" not in said and scene.carol.tap not in said
    )
    check("and disturbs no other", await scene.alice.reaches(scene.bob.ip))


# ---------------------------------------------------------------- frames by hand


def arp(to: str, source: str, ip: str, target: str, target_ip: str) -> bytes:
    """An ARP reply: `ip` is at `source`."""
    return (
        mac(to) + mac(source) + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02"
        + mac(source) + socket.inet_aton(ip) + mac(target) + socket.inet_aton(target_ip)
    )  # fmt: skip


def datagram(to: str, source: str, ip: str, target_ip: str, said: bytes = b"spoken") -> bytes:
    udp = b"\x30\x39\x30\x39" + (8 + len(said)).to_bytes(2, "big") + b"\x00\x00" + said
    head = b"\x45\x00" + (20 + len(udp)).to_bytes(2, "big") + b"\x00\x00\x00\x00\x40\x11\x00\x00"
    head += socket.inet_aton(ip) + socket.inet_aton(target_ip)
    total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (
        mac(to)
        + mac(source)
        + b"\x08\x00"
        + head[:10]
        + (~total & 0xFFFF).to_bytes(2, "big")
        + head[12:]
        + udp
    )


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that belongs to a namespace: the thread goes there and back."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    import ctypes

    setns = ctypes.CDLL(None, use_errno=True).setns
    try:
        if setns(there, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        return make()
    finally:
        setns(here, 0x40000000)
        os.close(here)
        os.close(there)


def packet_socket(device: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    one.bind((device, 0))
    one.setblocking(False)
    return one


def say(namespace: str, device: str, frame: bytes) -> None:
    with inside(namespace, lambda: packet_socket(device)) as one:
        one.send(frame)


class Listener:
    """What arrives at an instance."""

    def __init__(self, instance: str) -> None:
        self._socket = inside(instance, lambda: packet_socket("g0"))
        self.frames: list[bytes] = []

    def clear(self) -> None:
        self._drain()
        self.frames = []

    def from_either(self, source: str, ip: str) -> bool:
        """A hand-made frame, from `source` or `ip`: our datagram, or an ARP reply nobody asked for."""
        self._drain()
        return any(
            frame[6:12] == mac(source)
            and (b"spoken" in frame or (frame[12:14] == b"\x08\x06" and frame[28:32] == socket.inet_aton(ip)))
            for frame in self.frames
        )

    def contains(self, said: bytes) -> bool:
        self._drain()
        return any(said in frame for frame in self.frames)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.frames.append(self._socket.recv(2048))


async def finish(talk: Process) -> dict[str, object]:
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    outcome: dict[str, object] = await talk.line()
    return outcome
