"""Two clouds, of which one lets the other's network begin connections to its own: trust of kind `connect`.

`five` is a blanket of the other cloud. Its address in its own mesh is the one that `two` has in ours, since
clouds know nothing of each other's addresses there. frank is in its network green, gina in its network grey.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from overlay_frames import Listener, datagram, packet, throw, vxlan
from overlay_guest import TCP_PORT
from overlay_inside import (
    NETS,
    Blanket,
    Cloud,
    Instance,
    Process,
    Scene,
    check,
    connects,
    refused,
    responder,
    sh,
    until,
)

from supercloud.ports.overlay import Abroad, Foreigner, ForeignPeer, Location, Network, Passage

RED, BLUE = NETS
GREEN, GREY = (
    Network(
        id=f"{digit * 8}-0000-4000-8000-000000000000",
        name=name,
        vni=int(digit) + 100,
        cidr=f"10.7{digit}.0.0/24",
        gateway=f"10.7{digit}.0.1",
    )
    for digit, name in (("3", "green"), ("4", "grey"))
)
OUR_CLOUD, THEIR_CLOUD = (f"{digit * 8}-2222-4000-8000-000000000000" for digit in "12")
LASTS_S, ENDS_S = 3600.0, 60.0
#: Its first digit, who begins, with whom, for how long.
Relation = tuple[str, Network, Network, float]


class Theirs(Blanket):
    @property
    def address(self) -> str:
        return "100.64.0.2"


@dataclass
class Two:
    """Both clouds, and the relations between them: (relation, who begins, with whom, for how long)."""

    scene: Scene
    five: Theirs
    frank: Instance
    gina: Instance
    cloud: Cloud

    async def connect(self, *passages: Relation, only: Blanket | None = None) -> None:
        """As both control planes' rows have it; with `only`, one blanket is told."""
        ours = tuple(_passage(*one, of=RED) for one in passages)
        theirs = tuple(_passage(*one, of=GREEN) for one in passages)
        for one in self.scene.all:
            self.scene.cloud.abroad[one.name] = self._seen(
                THEIR_CLOUD, [self.five], self.cloud.locations, GREEN, ours
            )
        self.cloud.abroad["five"] = self._seen(
            OUR_CLOUD, self.scene.all, self.scene.cloud.locations, RED, theirs
        )
        if only is None or only is not self.five:
            await self.scene.cloud.apply(*([only] if only else self.scene.all))
        if only is None or only is self.five:
            await self.cloud.apply()

    def _seen(
        self,
        cloud: str,
        blankets: list[Blanket] | list[Theirs],
        locations: dict[str, Location],
        network: Network,
        passages: tuple[Passage, ...],
    ) -> Abroad:
        if not passages:
            return Abroad()
        return Abroad(
            peers=tuple(
                ForeignPeer(blanket=one.id, cloud=cloud, endpoint=f"{one.underlay}:51820", keys=one.keys)
                for one in blankets
            ),
            instances=tuple(
                Foreigner(
                    instance=one.instance,
                    network=one.network,
                    ip=one.ip,
                    blanket=one.blanket,
                    epoch=one.epoch,
                )
                for one in locations.values()
                if one.network == network.id and one.blanket is not None
            ),
            passages=passages,
        )


def _passage(relation: str, begins: Network, reached: Network, left_s: float, *, of: Network) -> Passage:
    other = begins if of is reached else reached
    return Passage(
        relation=f"{relation * 8}-3333-4000-8000-000000000000",
        network=of.id,
        other=other.id,
        cidr=other.cidr,
        inward=of is reached,
        left_s=left_s,
    )


def _granted(relation: str, left_s: float = LASTS_S) -> Relation:
    """Green may begin connections to red."""
    return relation, GREEN, RED, left_s


async def connected(scene: Scene) -> None:
    two = await _another_cloud(scene)
    servers = [
        await responder(name)
        for name in ("alice", "bob", "carol", "dave", "frank", "gina", "one", "five", None)
    ]
    for step in (_without, _with, _nothing_else, _lies, _cut, _over_time, _ends_move, _rotates, _back):
        begun = time.monotonic()
        await step(two)
        print(f"connected, {step.__name__}: {time.monotonic() - begun:.0f} s", flush=True)
    for server in servers:
        await server.kill()
    for instance in (two.frank, two.gina):
        assert instance.cable is not None
        await instance.cable.kill()
    assert two.five.child is not None
    await two.five.child.end()


async def _another_cloud(scene: Scene) -> Two:
    five = Theirs("five", 5)
    frank, gina = Instance("frank", "6", GREEN), Instance("gina", "7", GREY)
    cloud = Cloud({"five": five}, networks=(GREEN, GREY))
    await five.start()
    five.keys = ((await five.keyed("report")).key,)
    for instance in (frank, gina):
        cloud.locations[instance.id] = instance.at(five, 1)
    await cloud.apply()
    for instance in (frank, gina):
        await instance.make()
        await instance.plug(five)
        await instance.run_on(five)
        await instance.addressed()
    return Two(scene, five, frank, gina, cloud)


async def _without(two: Two) -> None:
    alice, frank = two.scene.alice, two.frank
    check("without a relation another cloud does not reach an instance", await frank.refused(alice.ip))
    check("nor is it reached", await alice.refused(frank.ip))
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="one")
    check("nor known", two.five.keys[0] not in said)


async def _with(two: Two) -> None:
    alice, bob, frank = two.scene.alice, two.scene.bob, two.frank
    await two.connect(_granted("1"))

    async def reached() -> bool:
        return await frank.reaches(alice.ip, tries=1)

    check("with one its network reaches ours", await until(reached))
    check("over TCP", await frank.connects(alice.ip))
    check("in each blanket that has some of it", await frank.connects(bob.ip))
    check("with the whole MTU", await frank.reaches(alice.ip, "-M", "do", "-s", "1342"))
    _, said = await sh("cat", "/proc/net/nf_conntrack", namespace="one")
    check("nobody's address is translated", f"src={frank.ip} dst={alice.ip}" in said, tracked=said[:400])
    check("the direction that was not granted is refused", await alice.refused(frank.ip))
    check("to ICMP as well", await alice.misses(frank.ip))
    check("though it answers", await frank.connects(alice.ip))
    await two.connect(_granted("1"), ("2", RED, GREEN, LASTS_S))
    check("granted too, it may begin", await until(lambda: alice.connects(frank.ip)))
    await two.connect(_granted("1"))
    check("and that ends alone", await alice.refused(frank.ip) and await frank.connects(alice.ip))


async def _nothing_else(two: Two) -> None:
    scene, frank, gina = two.scene, two.frank, two.gina
    check("another network of the same blanket is not reached", await frank.refused(scene.carol.ip))
    check("nor by another network", await gina.refused(scene.alice.ip))
    check("nor by its blanket", await refused("five", scene.alice.ip))
    check("nor is a blanket at its gateway", await frank.refused(RED.gateway))
    check("nor in the mesh", await frank.refused(scene.one.address))
    check("our instances of other networks do not reach it", await scene.carol.refused(frank.ip))
    check("within a cloud all is as before", await scene.alice.reaches(scene.bob.ip))
    check("and out of it", await scene.alice.connects("203.0.113.10"))
    _, said = await sh("wg", "show", "wg-sc", "allowed-ips", namespace="one")
    entry = f"{two.five.keys[0]}\t{frank.ip}/32\n"
    check("it is heard from its instance's address alone", entry in said, said=said)
    _, said = await sh("nft", "list", "set", "inet", "supercloud", "reach", namespace="one")
    check("what is let ends in the kernel", "expires" in said and said.count("timeout") >= 2, said=said)


async def _lies(two: Two) -> None:
    """five's admin says to its WireGuard what it likes, and sends by hand."""
    scene, frank = two.scene, two.frank
    alice, carol, one = scene.alice, scene.carol, scene.one
    key = scene.one.keys[0]
    wider = f"{RED.cidr},{BLUE.cidr},{one.address}/32"
    await sh(*f"wg set wg-sc peer {key} allowed-ips {wider}".split(), namespace="five")
    await sh(*f"ip route add {BLUE.cidr} dev wg-sc".split(), namespace="five")
    ear, other = Listener("alice"), Listener("carol")
    lies = {
        "in the name of one of its networks that is not connected": (two.gina.ip, alice.ip, b"word-a"),
        "in the name of nobody in the one that is": ("10.73.0.99", alice.ip, b"word-b"),
        "in our own instance's name": (scene.bob.ip, alice.ip, b"word-c"),
        "in the name of a gateway": (GREEN.gateway, alice.ip, b"word-d"),
        "in the name of a blanket in our mesh": (scene.two.address, alice.ip, b"word-e"),
        "to another network of ours": (frank.ip, carol.ip, b"word-f"),
    }
    for source, target, word in lies.values():
        throw("five", packet(source, target, word, port=12345))
    inner = vxlan(RED.vni, datagram(alice.mac, scene.bob.mac, scene.bob.ip, alice.ip, b"word-g"))
    for source in (scene.two.address, frank.ip):
        throw("five", packet(source, one.address, inner, port=scene.cloud.port(one, scene.two)))
    throw("five", packet(frank.ip, alice.ip, b"word-z", port=12345))

    async def heard() -> bool:
        return ear.heard(b"word-z")

    check("(another cloud's blanket that speaks for its own instance is heard)", await until(heard))
    for what, (_, _, word) in lies.items():
        check(f"one that speaks {what} is not", not ear.heard(word) and not other.heard(word))
    check("one that speaks VXLAN is not", not ear.heard(b"word-g"))
    check("nor reaches a blanket of ours", await refused("five", one.address))
    ear.close()
    other.close()
    await sh(*f"ip route del {BLUE.cidr} dev wg-sc".split(), namespace="five")
    await two.connect(_granted("1"))


async def _talk(begins: Instance, reached: Instance) -> Process:
    talk = await Process.start("talk", reached.ip, str(TCP_PORT), namespace=begins.name)
    await talk.line()
    return talk


async def _how_far(talk: Process) -> int:
    """How many messages went to and fro, once the one that is under way did; -1: it has ended."""
    assert talk.process.stdin is not None
    talk.process.stdin.write(b"\n")
    said = await talk.line()
    return -1 if "kept" in said else int(said["count"])


async def _cut(two: Two) -> None:
    alice, frank, five, one = two.scene.alice, two.frank, two.five, two.scene.one
    talk = await _talk(frank, alice)
    await two.connect(only=five)
    outcome = await talk.line()
    check("revoked, an open connection is cut", not outcome["kept"], **outcome)
    check("by a reset, not by waiting", "Reset" in str(outcome.get("why")), **outcome)
    check("and none begins", await frank.refused(alice.ip))
    await two.connect(_granted("3"))
    check("granted anew, it does", await until(lambda: frank.connects(alice.ip)))
    talk = await _talk(frank, alice)
    await two.connect(only=one)
    check(
        "revoked where it was granted, with their blanket not told: none begins",
        await frank.refused(alice.ip),
    )
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="one")
    check("their blanket is not known there any more", five.keys[0] not in said)
    _, said = await sh("ip", "route", namespace="one")
    check("nor is there a route", GREEN.cidr not in said, said=said)
    await two.connect()
    outcome = await talk.line()
    check("and what was open is cut", not outcome["kept"], **outcome)


async def _over_time(two: Two) -> None:
    """Every agent is dead as it ends; each side alone ends it."""
    alice, frank, five, one = two.scene.alice, two.frank, two.five, two.scene.one
    for who, ends, stays in (("its", five, one), ("our", one, five)):
        await two.connect(_granted("4"), only=stays)
        await two.connect(_granted("4", ENDS_S), only=ends)
        begun = time.monotonic()
        check(f"{who} side's end: it lasts", await until(lambda: frank.connects(alice.ip), 30))
        talk = await _talk(frank, alice)
        assert ends.child is not None
        await ends.child.kill()
        check(f"{who} side's end: with the agent dead it still lasts", await frank.connects(alice.ip))
        await asyncio.sleep(max(0.0, begun + ENDS_S + 0.5 - time.monotonic()))
        check(f"{who} side's end: the kernel ends it", await frank.refused(alice.ip))
        if ends is five:
            outcome = await talk.line()
            check("what was open is cut by the kernel", not outcome["kept"], **outcome)
        else:
            await talk.kill()
        await ends.start()
        check(f"{who} side's end: a restarted agent does not prolong it", await frank.refused(alice.ip))
        _, said = await sh("ip", "route", namespace=ends.name)
        check(
            f"{who} side's end: and clears up",
            f"{GREEN.cidr} dev wg" not in said and f"{RED.cidr} dev wg" not in said,
        )
        await two.connect()
    await two.connect(_granted("5", 6.0))
    await asyncio.sleep(6.5)

    async def cleared() -> bool:
        _, said = await sh("wg", "show", "wg-sc", "peers", namespace="one")
        return five.keys[0] not in said

    check("an agent that lives clears up by itself", await until(cleared, 30))


async def _ends_move(two: Two) -> None:
    """dave, who talks with frank, from `three` to `two` and back: as who is reached, then as who began."""
    frank, dave = two.frank, two.scene.dave
    await _lives_through_moves(two, _granted("6"), frank, dave, first=2)
    await _lives_through_moves(two, ("8", RED, GREEN, LASTS_S), dave, frank, first=4)


async def _lives_through_moves(
    two: Two,
    relation: Relation,
    begins: Instance,
    reached: Instance,
    *,
    first: int,
) -> None:
    """`first`: the first epoch that dave has not had yet."""
    scene, dave = two.scene, two.scene.dave

    async def connects_now() -> bool:
        return await begins.connects(reached.ip)

    await two.connect(relation)
    check(f"{begins.name} reaches {reached.name} of the other cloud", await until(connects_now))
    talk = await _talk(begins, reached)
    for epoch, blanket in enumerate((scene.two, scene.three), first):
        await dave.plug(blanket)
        await dave.run_on(blanket)
        await scene.cloud.locate(dave.at(blanket, epoch))
        await two.connect(relation)
        check(f"and does after move {epoch - 1}", await until(connects_now))
        # Twice: what it says first may be of before the move.
        before = await _how_far(talk)
        after = before if before < 0 else await _how_far(talk)
        check(f"and what {begins.name} began goes on after it", before < after, before=before, after=after)
        if after < 0:
            return
    await scene.two.call("unplug", dave.id)
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    outcome = await talk.line()
    check(f"what {begins.name} began lives through the moves", bool(outcome["kept"]), **outcome)


async def _rotates(two: Two) -> None:
    """five's keys, then ours, under a connection."""
    scene, five = two.scene, two.five
    await two.connect(_granted("9"))
    await until(lambda: two.frank.connects(scene.alice.ip))
    talk = await _talk(two.frank, scene.alice)
    old = []
    for blanket in (five, scene.one):
        report = await blanket.keyed("prepare_key")
        assert report.next_key is not None
        old.append(report.key)
        blanket.keys = (report.key, report.next_key)
        await two.connect(_granted("9"))
        await blanket.keyed("switch_key")
        check(
            f"{blanket.name} has switched its key: reached from the other cloud",
            await until(lambda: two.frank.connects(scene.alice.ip)),
        )
        blanket.keys = (report.next_key,)
        await two.connect(_granted("9"))
    for name, key in (("one", old[0]), ("five", old[1])):
        _, said = await sh("wg", "show", "wg-sc", "peers", namespace=name)
        check(f"the old key is gone from {name}", key not in said)
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    outcome = await talk.line()
    check("a connection from another cloud lives through new keys", bool(outcome["kept"]), **outcome)


async def _back(two: Two) -> None:
    """What contradicts what a blanket has is left out; then nothing is left."""
    scene = two.scene
    await two.connect(_granted("7"))
    honest = scene.cloud.abroad["one"]
    (passage,) = honest.passages
    overlapping = replace(passage, cidr="10.72.0.0/16")
    scene.cloud.abroad["one"] = replace(honest, passages=(overlapping,))
    await scene.cloud.apply(scene.one)
    check("a network that overlaps ours is not connected", await two.frank.refused(scene.alice.ip))
    check("and costs ours nothing", await scene.alice.reaches(scene.bob.ip))
    scene.cloud.abroad["one"] = honest
    scene.cloud.networks = (replace(RED, outward=False), BLUE)
    await scene.cloud.apply(scene.one)
    check("a network without a way out is not connected", await two.frank.refused(scene.alice.ip))
    scene.cloud.networks = NETS
    await scene.cloud.apply(scene.one)
    check("with one it is again", await until(lambda: two.frank.connects(scene.alice.ip)))
    await two.connect()
    _, said = await sh("nft", "list", "set", "inet", "supercloud", "reach", namespace="one")
    check("nothing is left of it", "elements" not in said, said=said)
    check("in the end as in the beginning", await two.frank.refused(scene.alice.ip))
    check("(and its server was there)", await connects("one", scene.alice.ip))
