"""What is tried inside the blanket VM, in the order in which it builds upon one another."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import struct
import time
import traceback
from dataclasses import replace
from pathlib import Path

from overlay_connect import connected
from overlay_frames import Listener, datagram, inside, say
from overlay_guest import TCP_PORT
from overlay_hostile import (
    instance_lies,
    other_cloud,
    peer_impersonates,
    peer_lies,
    provider_lies,
    world_pushes,
)
from overlay_inside import (
    NETS,
    RUN,
    WORLD,
    Blanket,
    Capture,
    Instance,
    Scene,
    check,
    connects,
    refused,
    responder,
    sh,
    underlay,
    until,
)
from overlay_keys import finish_talk, interrupted, rotation, rotation_of_both, start_talk
from overlay_machines import machines

from supercloud.blanket.overlay.plan import link_device

RED, BLUE = NETS


async def all_checks() -> None:
    scene = Scene()
    RUN.mkdir(parents=True)
    await underlay("one", "two", "three", "four", "five")
    capture = Capture(scene.all)
    for step in (
        mesh,
        instances,
        closed,
        machines,
        world_pushes,
        instance_lies,
        peer_lies,
        peer_impersonates,
        provider_lies,
        other_cloud,
        leases,
        inherited,
        permits,
        no_way_out,
        connected,
        moving,
        rotation,
        rotation_of_both,
        interrupted,
        restart,
        no_mesh_no_traffic,
        removal,
        nothing_left,
    ):
        begun = time.monotonic()
        try:
            await step(scene)
        except Exception as error:  # noqa: BLE001 - a finding like any other
            check(f"{step.__name__}: ran through", False, error=repr(error), at=traceback.format_exc()[-900:])
            break  # the others build upon it
        print(f"{step.__name__}: {time.monotonic() - begun:.0f} s", flush=True)
    seen = capture.between
    check(
        "blankets send one another WireGuard and nothing else",
        seen.get("wireguard", 0) > 500 and not set(seen) - {"wireguard", "no wireguard here", hex(0x0806)},
        seen=seen,
    )
    check("no address of an instance or of the mesh is on the underlay", capture.inner == 0, n=capture.inner)
    check("nothing that instances said is readable there", capture.clear == 0, frames=capture.clear)
    check("whole packets fit into 1500 bytes", capture.longest == 1480, longest=capture.longest)
    check("and nothing is fragmented", capture.fragments == 0, fragments=capture.fragments)
    print("DONE", flush=True)


async def mesh(scene: Scene) -> None:
    cold = [await one.start() for one in scene.all]
    for one in scene.all:
        one.keys = ((await one.keyed("report")).key,)
    for instance, blanket in scene.at:
        scene.cloud.locations[instance.id] = instance.at(blanket, 1)
    first = await scene.cloud.apply()
    links = await _links("one")
    again = await scene.cloud.apply()
    check("applied again, no link is made anew", links == await _links("one"))

    async def alive() -> bool:
        return all([len((await one.keyed("report")).alive) == 2 for one in scene.all])

    check("every blanket shakes hands with every other", await until(alive))
    check("measured: start, first apply, repeated apply (ms)", True, start=cold, first=first, again=again)
    check("two VXLAN devices for each network", len([name for name in links if name[:3] == "vx-"]) == 4)
    _, said = await sh("ip", "-o", "link", namespace="one")
    mtus = dict(re.findall(r"^\d+: ([^:@]+).*? mtu (\d+)", said, re.M))
    check("MTU 1420 in the mesh", mtus["wg-sc"] == "1420")
    check("MTU 1370 for instances", {mtus[name] for name in mtus if name[:3] in ("vx-", "br-")} == {"1370"})
    _, said = await sh("ip", "-d", "link", namespace="one")
    check("VXLAN sums nothing up that WireGuard authenticates", said.count(" noudpcsum ") == 4)
    _, said = await sh("bridge", "-d", "link", "show", namespace="one")
    ports = [" ".join(one.split()) for one in re.split(r"^\d+: ", said, flags=re.M) if one[:3] == "vx-"]
    for flag in (
        "learning off",
        "flood off",
        "bcast_flood off",
        "locked on",
        "isolated on",
        "neigh_suppress on",
    ):
        check(f"ports towards peers: {flag}", len(ports) == 4 and all(f" {flag}" in one for one in ports))


async def _links(namespace: str) -> dict[str, str]:
    """Each link's number by its name."""
    _, said = await sh("ip", "-o", "link", namespace=namespace)
    return {name: number for number, name in re.findall(r"^(\d+): ([^:@]+)", said, re.M)}


async def instances(scene: Scene) -> None:
    for instance, blanket in scene.at:
        await instance.make()
        await instance.plug(blanket, permit_s=0)
        if instance is scene.alice:
            check("a hypervisor may take a port with its offloads", _takes_offloads(blanket, instance))
        await instance.run_on(blanket)
        await instance.addressed()
    check("without a permit nothing leaves", await scene.alice.misses(scene.bob.ip))
    check("not even within the blanket", await scene.alice.misses(scene.erin.ip))
    for instance, blanket in scene.at:
        await instance.plug(blanket)
    check("instances of one network reach each other over the mesh", await scene.alice.reaches(scene.bob.ip))
    check("with the whole MTU", await scene.alice.reaches(scene.bob.ip, "-M", "do", "-s", "1342"))
    check("in both directions", await scene.dave.reaches(scene.alice.ip))
    check("within one blanket", await scene.alice.reaches(scene.erin.ip))
    check("networks are apart", await scene.alice.misses(scene.carol.ip))
    _, said = await sh("bridge", "-d", "fdb", "show", namespace="one")
    device = link_device(scene.cloud.port(scene.one, scene.two), RED.id)
    entry = re.search(rf"^{scene.bob.mac} dev {device} master .*$", said, re.M)
    check("the entry for an instance elsewhere is static", entry is not None and "static" in entry[0])
    learnt = re.findall(r"^(?!33:33|01:00:5e)\S+ dev (?:vx-|t)\S+ (?!.*(?:static|permanent)).*$", said, re.M)
    check("and none is learnt", not learnt, learnt=learnt)


def _takes_offloads(blanket: Blanket, instance: Instance) -> bool:
    """What QEMU asks of a port: virtio headers, then checksums and segmentation left to the kernel."""

    def take() -> socket.socket:
        end = os.open("/dev/net/tun", os.O_RDWR)
        # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR; then TUNSETOFFLOAD: checksum, TSO4, TSO6.
        fcntl.ioctl(end, 0x400454CA, struct.pack("16sH22x", instance.tap.encode(), 0x0002 | 0x1000 | 0x4000))
        for offloads in (1 | 2 | 4, 0):
            fcntl.ioctl(end, 0x400454D0, offloads)
        os.close(end)
        return socket.socket()

    inside(blanket.name, take).close()
    return True


async def closed(scene: Scene) -> None:
    servers = [await responder(name) for name in ("one", "two", "bob", None)]
    alice, one, two = scene.alice, scene.one, scene.two
    check("instance to instance over TCP", await alice.connects(scene.bob.ip))
    check("an instance reaches the world", await alice.connects(WORLD))
    _, tracked = await sh("cat", "/proc/net/nf_conntrack", namespace="one")
    check("its connection is tracked", f"dst={WORLD}" in tracked)
    carriers = [line for line in tracked.splitlines() if re.search(r"port=(51820|47\d\d) ", line)]
    check("what carries frames between blankets is not", not carriers, tracked=carriers[:3])
    for where, ip in (
        ("its blanket at the gateway", RED.gateway),
        ("its blanket's mesh address", one.address),
        ("its blanket's underlay address", one.underlay),
        ("another network's gateway", BLUE.gateway),
        ("another blanket's mesh address", two.address),
        ("another blanket's underlay address", two.underlay),
        ("the provider's router", "10.0.2.2"),
    ):
        check(f"an instance does not reach {where}", await alice.refused(ip))
    check("the world does not reach a blanket", await refused(None, one.underlay))
    check("without a grant nothing listens on the mesh", await refused("one", two.address))
    await two.call("grant_tcp", one.address, [TCP_PORT], 60)
    check("a grant opens one port to one blanket", await connects("one", two.address))
    check("and to no other blanket", await refused("three", two.address))
    await two.call("grant_tcp", one.address, [TCP_PORT], 0)
    check("a grant that ended is closed", await refused("one", two.address))
    await two.call("grant_tcp", one.address, [TCP_PORT], 1)

    async def over() -> bool:
        return await refused("one", two.address)

    check("a grant ends by itself", await until(over))
    for server in servers:
        await server.kill()


async def leases(scene: Scene) -> None:
    alice = scene.alice
    said = await _lease(alice)
    wanted = f"LEASE {alice.ip} 1370 {RED.gateway} {RED.gateway} red alice"
    check("DHCP gives its address, MTU, router, name server, name", wanted in said, said=said[-300:])
    for name in ("bob", "bob.red"):
        check(f"DNS knows {name}", scene.bob.ip in await _looked_up(name))
    check("DNS does not tell of other networks", scene.carol.ip not in await _looked_up("carol.blue"))
    pid = int((RUN / "one" / "overlay" / "dhcp" / f"{RED.id}.pid").read_text())
    status = Path(f"/proc/{pid}/status").read_text()
    check("dnsmasq is not root", re.search(r"^Uid:\s+0\s", status, re.M) is None)
    os.kill(pid, 9)

    async def back() -> bool:
        return scene.bob.ip in await _looked_up("bob")

    check("dnsmasq comes back after it died", await until(back))


async def inherited(scene: Scene) -> None:
    """Alice goes, another instance comes and has her address, and then she has it again."""
    alice, one = scene.alice, scene.one
    heir = Instance("heir", "9", RED, heir_of=alice)
    await heir.make()
    for goes, comes in ((alice, heir), (heir, alice)):
        await one.call("unplug", goes.id)
        del scene.cloud.locations[goes.id]
        await scene.cloud.apply()
        scene.cloud.locations[comes.id] = comes.at(one, 1)
        await scene.cloud.apply()
        await comes.plug(one)
        await comes.run_on(one)
        said = await _lease(comes)
        check(
            f"an address goes from {goes.name} to {comes.name}",
            f"LEASE {alice.ip} " in said,
            said=said[-300:],
        )
    assert heir.cable is not None
    await heir.cable.kill()


async def _lease(instance: Instance) -> str:
    """What DHCP tells it; it has its address again afterwards."""
    await sh("ip", "addr", "flush", "dev", "g0", namespace=instance.name)
    script = RUN / "lease"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] && echo "LEASE $ip $mtu $router $dns $domain $hostname"\nexit 0\n'
    )
    script.chmod(0o755)
    asked = f"busybox udhcpc -i g0 -n -q -t 5 -T 1 -O mtu -s {script}"
    _, said = await sh(*asked.split(), namespace=instance.name, ok=False)
    await instance.addressed()
    return said


async def _looked_up(name: str) -> str:
    _, said = await sh("busybox", "nslookup", name, RED.gateway, namespace="alice", ok=False)
    return said


async def permits(scene: Scene) -> None:
    alice, one = scene.alice, scene.one
    servers = [await responder("alice"), await responder(None)]
    await alice.plug(one, permit_s=10)
    begun = time.monotonic()
    check("while the permit lasts traffic leaves", await alice.reaches(scene.bob.ip, tries=1))
    # Nobody is left to end it: the kernel does.
    assert one.child is not None
    await one.child.kill()
    await asyncio.sleep(max(0.0, begun + 10.2 - time.monotonic()))
    check("the kernel ends it, with the agent dead", await alice.misses(scene.bob.ip))
    check("within the blanket as well", await alice.misses(scene.erin.ip))
    check("to the world as well", await alice.refused(WORLD))
    check("and from its blanket", await refused("one", alice.ip))
    took = await one.start()
    check("a restarted agent does not prolong it", await alice.misses(scene.bob.ip))
    await alice.plug(one)
    out = await alice.reaches(scene.bob.ip)
    check("a new permit lets it out again", out, **({} if out else await _state(scene)))
    out = await alice.connects(WORLD)
    # It missed once in five runs, which nobody has understood: a second try tells a lost answer from a closed
    # way, and what was so after the first one is in the findings.
    seen = {} if out else {"first": out, **await _state(scene)}
    check("to the world as well, again", out or await alice.connects(WORLD), **seen)
    await one.call("permit", alice.id, 0)
    check("0 ends it now", await alice.misses(scene.bob.ip))
    await one.call("keeper_permits", alice.id, 3600)
    check("the keeper's permit lets it out", await alice.reaches(scene.bob.ip))
    await one.call("keeper_permits", alice.id, 0)
    check("and the keeper's 0 ends it", await alice.misses(scene.bob.ip))
    await alice.plug(one)
    check("measured: restart with all it knew (ms)", True, restart=took)
    for server in servers:
        await server.kill()


async def no_way_out(scene: Scene) -> None:
    """As a security level has it for a network."""
    alice, bob = scene.alice, scene.bob
    servers = [await responder("bob"), await responder(None)]
    scene.cloud.networks = (replace(RED, outward=False), BLUE)
    await scene.cloud.apply()
    check("without a way out the world is not reached", await alice.refused(WORLD))
    check("an instance of the network is", await alice.connects(bob.ip))
    check("and answered for by name", bob.ip in await _looked_up("bob"))
    scene.cloud.networks = NETS
    await scene.cloud.apply()
    check("with a way out it is reached again", await alice.connects(WORLD))
    for server in servers:
        await server.kill()


async def _state(scene: Scene) -> dict[str, str]:
    """To find out why."""
    return {
        "permitted": (await sh("nft", "list", "set", "bridge", "supercloud", "permitted", namespace="one"))[
            1
        ],
        "rules": (await sh("nft", "list", "table", "bridge", "supercloud", namespace="one"))[1],
        "alice": (await sh("ip", "neigh", namespace="alice"))[1],
        "one": (await sh("ip", "neigh", namespace="one"))[1],
        "fdb": (await sh("bridge", "fdb", "show", namespace="one"))[1],
        "later": str(await scene.alice.reaches(scene.bob.ip)),
    }


async def moving(scene: Scene) -> None:
    alice, bob, one, two, three = scene.alice, scene.bob, scene.one, scene.two, scene.three
    servers = [await responder("bob"), await responder(None)]
    talk = await start_talk(scene)
    await bob.plug(three)
    check("a waiting port does not draw its copy's frames", await scene.dave.reaches(bob.ip))
    times: list[float] = []
    for epoch, blanket in enumerate((three, two, three), 2):
        await bob.plug(blanket)
        await bob.run_on(blanket)
        times += await scene.cloud.locate(bob.at(blanket, epoch))
        check(f"reached after move {epoch - 1}", await alice.reaches(bob.ip))
    check("a neighbour at the new blanket reaches it, too", await scene.dave.reaches(bob.ip))
    check("it reaches the world from there", await bob.connects(WORLD))
    check("measured: locate (ms)", True, ms=times)
    for late in (bob.at(two, 2), bob.at(two, 4)):
        await one.call("locate", late)
    check("an older or equal epoch is ignored", await alice.reaches(bob.ip))
    truth = scene.cloud.locations[bob.id]
    scene.cloud.locations[bob.id] = bob.at(two, 3)
    await scene.cloud.apply(one)
    check("in a whole mesh as well", await alice.reaches(bob.ip))
    scene.cloud.locations[bob.id] = truth
    await scene.cloud.apply(one)
    ear = Listener("alice")
    for blanket, word in ((two, b"old copy"), (three, b"new copy")):
        device = link_device(scene.cloud.port(one, blanket), RED.id)
        say(blanket.name, device, datagram(alice.mac, bob.mac, bob.ip, alice.ip, word))

    async def new_is_heard() -> bool:
        return ear.heard(b"new copy")

    check("the blanket that it is in is heard", await until(new_is_heard))
    await asyncio.sleep(0.5)  # two ways, so no order between the words
    check("the blanket that it left is not", not ear.heard(b"old copy"))
    ear.close()
    said = await _lease(bob)
    check("its lease is the same in its new blanket", f"LEASE {bob.ip} 1370 {RED.gateway}" in said)
    outcome = await finish_talk(talk)
    check("one TCP connection lived through the moves", bool(outcome["kept"]), **outcome)
    await two.call("unplug", bob.id)
    check("where it was, its port goes", bob.tap not in await _links("two"))
    for server in servers:
        await server.kill()


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
    strays = {"vx-9999-abcdef", "br-99999999", "t0123456789ab"} & set(await _links("one"))
    check("strays are removed", not strays, strays=sorted(strays))
    _, said = await sh("nft", "list", "chain", "inet", "supercloud", "input", namespace="one")
    check("a foreign rule is removed", "\t\taccept" not in said)

    async def one_each() -> bool:
        return len(_dnsmasq(one)) == len(NETS)

    check("one dnsmasq for each network", await until(one_each), found=_dnsmasq(one))
    check("and all works on", await until(lambda: scene.alice.reaches(scene.bob.ip)))


def _dnsmasq(blanket: Blanket) -> list[str]:
    """The configurations with which it runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        words = process.read_bytes().decode().split("\0")
        found += [word for word in words if word.startswith(f"--conf-file={RUN}/{blanket.name}/")]
    return found


async def no_mesh_no_traffic(scene: Scene) -> None:
    await sh("ip", "link", "del", "wg-sc", namespace="one")
    check("without the mesh nothing goes", await scene.alice.misses(scene.bob.ip))
    await scene.cloud.apply(scene.one)
    check("apply makes it anew", await until(lambda: scene.alice.reaches(scene.bob.ip, tries=1)))


async def removal(scene: Scene) -> None:
    one, carol = scene.one, scene.carol
    await one.call("unplug", carol.id)
    check("unplugged, a port is gone", carol.tap not in await _links("one"))
    check("and nothing is said of it", carol.tap not in await _tables("one"))
    await one.call("unplug", carol.id)
    scene.cloud.networks = (RED,)
    scene.cloud.locations.pop(carol.id)
    await scene.cloud.apply(one)
    short = BLUE.id[:7]
    check("a removed network leaves no link", not [name for name in await _links("one") if short in name])
    check("no element of a set", short not in await _tables("one"))
    check("no process", not [found for found in _dnsmasq(one) if BLUE.id in found])
    check("no file", not list((RUN / "one" / "overlay" / "dhcp").glob(f"{BLUE.id}*")))
    check("and disturbs no other", await scene.alice.reaches(scene.bob.ip))


async def _tables(namespace: str) -> str:
    _, said = await sh("nft", "list", "ruleset", namespace=namespace)
    return said


async def nothing_left(scene: Scene) -> None:
    """The cloud's last network goes, then its other blankets, then the agents."""
    for instance in (scene.alice, scene.erin):
        await scene.one.call("unplug", instance.id)
    scene.cloud.networks = ()
    scene.cloud.locations.clear()
    await scene.cloud.apply()
    names = set(await _links("one"))
    check("without networks there is only the mesh", names == {"lo", "eth0", "wg-sc"}, names=sorted(names))
    scene.cloud.blankets = {"one": scene.one}
    await scene.cloud.apply(scene.one)
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="one")
    check("without peers no key", said.strip() == "")
    said = await _tables("one")
    left = said[max(0, said.find("elements") - 300) :][:600]
    check("two tables and no element", said.count("table ") == 2 and "elements" not in said, said=left)
    for blanket in scene.all:
        assert blanket.child is not None
        await blanket.child.end()
    check("no process outlives its agent", not [found for one in scene.all for found in _dnsmasq(one)])
