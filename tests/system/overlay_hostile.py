"""What instances, peers, the provider and other clouds may say, and whether anybody listens.

The words that nobody shall hear are spoken first, then one that is right on the same way: once it is heard,
the others would have been.
"""

from __future__ import annotations

from overlay_frames import Listener, arp, datagram, packet, say, throw, version_6, vxlan
from overlay_guest import TCP_PORT
from overlay_inside import (
    NETS,
    Blanket,
    Instance,
    Scene,
    check,
    connects,
    refused,
    responder,
    sh,
    until,
)

from supercloud.blanket.overlay.plan import link_device
from supercloud.ports.overlay import Mesh, Peer

RED, _ = NETS
STRANGER, STRANGERS_IP = "02:00:00:00:00:42", "10.71.0.42"


async def instance_lies(scene: Scene) -> None:
    """alice to erin, in the same blanket: nothing but the bridge is between them."""
    alice, erin, bob = scene.alice, scene.erin, scene.bob
    lies = {
        "its MAC with another's IP": datagram(erin.mac, alice.mac, bob.ip, erin.ip, b"word-a"),
        "another's MAC and IP": datagram(erin.mac, bob.mac, bob.ip, erin.ip, b"word-b"),
        "another's MAC with its IP": datagram(erin.mac, bob.mac, alice.ip, erin.ip, b"word-c"),
        "that another's IP is at its MAC (ARP)": arp(erin.mac, alice.mac, alice.mac, bob.ip, b"word-d"),
        "that the gateway is at its MAC (ARP)": arp(erin.mac, alice.mac, alice.mac, RED.gateway, b"word-e"),
        "ARP in another's name": arp(erin.mac, bob.mac, bob.mac, bob.ip, b"word-f"),
        "that its IP is at another's MAC (ARP)": arp(erin.mac, alice.mac, bob.mac, alice.ip, b"word-g"),
        "what only a DHCP server says": datagram(erin.mac, alice.mac, alice.ip, erin.ip, b"word-h", port=67),
        "IPv6": version_6(erin.mac, alice.mac, b"word-i"),
    }
    truths = {
        "its own IP (ARP)": arp(erin.mac, alice.mac, alice.mac, alice.ip, b"word-y"),
        "its own words": datagram(erin.mac, alice.mac, alice.ip, erin.ip, b"word-z"),
    }
    await _speak(("alice", "g0"), "erin", "an instance", lies, truths)


async def peer_lies(scene: Scene) -> None:
    """`two` to alice at `one`; bob is at `two`, dave at `three`."""
    alice, bob, dave = scene.alice, scene.bob, scene.dave
    lies = {
        "for another blanket's instance": datagram(alice.mac, dave.mac, dave.ip, alice.ip, b"word-a"),
        "for it (ARP)": arp(alice.mac, dave.mac, dave.mac, dave.ip, b"word-b"),
        "of its own with another's IP": datagram(alice.mac, bob.mac, dave.ip, alice.ip, b"word-c"),
        "of its own with another's IP (ARP)": arp(alice.mac, bob.mac, bob.mac, dave.ip, b"word-d"),
        "of another's MAC with its own IP": datagram(alice.mac, dave.mac, bob.ip, alice.ip, b"word-e"),
        "for the listener itself": datagram(alice.mac, alice.mac, alice.ip, alice.ip, b"word-f"),
        "for the gateway (ARP)": arp(alice.mac, bob.mac, bob.mac, RED.gateway, b"word-g"),
        "for a stranger": datagram(alice.mac, STRANGER, STRANGERS_IP, alice.ip, b"word-h"),
    }
    truths = {"for its own instance": datagram(alice.mac, bob.mac, bob.ip, alice.ip, b"word-z")}
    device = link_device(scene.cloud.port(scene.one, scene.two), RED.id)
    await _speak(("two", device), "alice", "a peer", lies, truths)


async def peer_impersonates(scene: Scene) -> None:
    """`two` makes VXLAN by hand, as if it were `three`, at which dave is."""
    one, two, three, alice = scene.one, scene.two, scene.three, scene.alice
    ours, theirs = scene.cloud.port(one, two), scene.cloud.port(one, three)
    heard = Listener("alice")
    dave = vxlan(RED.vni, datagram(alice.mac, scene.dave.mac, scene.dave.ip, alice.ip, b"word-a"))
    throw("two", packet(two.address, one.address, dave, port=theirs))
    dave = vxlan(RED.vni, datagram(alice.mac, scene.dave.mac, scene.dave.ip, alice.ip, b"word-b"))
    throw("two", packet(three.address, one.address, dave, port=theirs))
    bob = vxlan(RED.vni, datagram(alice.mac, scene.bob.mac, scene.bob.ip, alice.ip, b"word-z"))
    throw("two", packet(two.address, one.address, bob, port=ours))
    check("(VXLAN by hand on a peer's own port is heard)", await until(lambda: _heard(heard, b"word-z")))
    check("on another peer's port it is not", not heard.heard(b"word-a"))
    check("nor from another peer's mesh address", not heard.heard(b"word-b"))
    heard.close()


async def provider_lies(scene: Scene) -> None:
    """VXLAN in clear on the underlay, as the provider or a neighbour there could send it."""
    one, two, alice, bob = scene.one, scene.two, scene.alice, scene.bob
    heard = Listener("alice")
    frame = datagram(alice.mac, bob.mac, bob.ip, alice.ip, b"word-a")
    await sh("ip", "route", "add", one.address, "via", one.underlay)
    for sender in (two.underlay, two.address, "10.0.2.2"):
        for target in (one.underlay, one.address):
            throw(None, packet(sender, target, vxlan(RED.vni, frame), port=scene.cloud.port(one, two)))
    say("two", link_device(scene.cloud.port(one, two), RED.id), frame.replace(b"word-a", b"word-z"))
    check("(through the mesh it is heard)", await until(lambda: _heard(heard, b"word-z")))
    check("VXLAN in clear on the underlay is not", not heard.heard(b"word-a"))
    await sh("ip", "route", "del", one.address)
    heard.close()


async def other_cloud(scene: Scene) -> None:
    """`four` belongs to another cloud on the same underlay, and claims to be `two` with bob in it."""
    one, alice = scene.one, scene.alice
    four = Blanket("four", 4)
    eve = Instance("eve", "2", RED)
    await four.start()
    key = (await four.keyed("report")).key
    peer = Peer(
        blanket=one.id,
        address=one.address,
        endpoint=f"{one.underlay}:51820",
        keys=one.keys,
        vxlan_port=scene.cloud.port(one, scene.two),
    )
    told = Mesh(
        address=scene.two.address,
        generation=1,
        peers=(peer,),
        networks=(RED,),
        locations=(alice.at(one, 1), eve.at(four, 99)),
    )
    await four.call("apply", told)
    await eve.make()
    await eve.plug(four)
    await eve.run_on(four)
    await eve.addressed()
    server = await responder("one")
    heard = Listener("alice")
    say("four", link_device(peer.vxlan_port, RED.id), datagram(alice.mac, eve.mac, eve.ip, alice.ip, b"eve"))
    check("another cloud's instance does not reach ours", await eve.misses(alice.ip))
    check("nor is it heard", await alice.reaches(scene.bob.ip) and not heard.heard(b"eve"))
    check("another cloud's blanket does not reach ours", await refused("four", one.underlay))
    check("nor through a mesh", await refused("four", one.address))
    check("no handshake with it", (await four.keyed("report")).alive == ())
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="one")
    check("ours does not know its key", key not in said)
    heard.close()
    assert eve.cable is not None and four.child is not None
    await eve.cable.kill()
    await four.child.end()
    await server.kill()


async def world_pushes(scene: Scene) -> None:
    """The provider's router knows the way to an instance; nothing lets it in."""
    server = await responder("alice")
    await sh("ip", "route", "add", RED.cidr, "via", scene.one.underlay)
    check("the world does not reach an instance", await refused(None, scene.alice.ip))
    check("its blanket does, for published ports", await connects("one", scene.alice.ip))
    check("another blanket does not", await refused("two", scene.alice.ip))
    check("nor on another port", await refused("one", scene.alice.ip, TCP_PORT + 1))
    await sh("ip", "route", "del", RED.cidr)
    await server.kill()


async def _speak(
    mouth: tuple[str, str],
    listener: str,
    who: str,
    lies: dict[str, bytes],
    truths: dict[str, bytes],
) -> None:
    ear = Listener(listener)
    for frame in (*lies.values(), *truths.values()):
        say(*mouth, frame)
    for what, frame in truths.items():
        check(f"({who} that speaks {what} is heard)", await until(lambda f=frame: _heard(ear, _word(f))))
    for what, frame in lies.items():
        check(f"{who} that speaks {what} is not heard", not ear.heard(_word(frame)))
    ear.close()


def _word(frame: bytes) -> bytes:
    at = frame.rindex(b"word-")
    return frame[at : at + 6]


async def _heard(ear: Listener, word: bytes) -> bool:
    return ear.heard(word)
