"""What passes between a blanket's cloud and others, computed from what it was told. Pure: no I/O.

There is no segment that two clouds share: a packet is routed from one's network to the other's, through the
mesh's device. Three things have to say so. The device hears a blanket of another cloud from the addresses of
instances that are there, and no other. The packet filter has, until a moment, who may begin connections with
whom. And each blanket looks at its own cloud's networks itself: it connects none that has no way out, and
nothing that overlaps with what it has.

Moments are seconds of the machine's own clock (CLOCK_BOOTTIME), which nobody sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from supercloud.model.names import Cidr, Endpoint, Id, WireguardKey
from supercloud.ports.overlay import Abroad, Foreigner, Mesh, Network, Passage, Peer

#: (who may begin, with whom) -> until when.
Reach = Mapping[tuple[Cidr, Cidr], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Whom the mesh's device hears: by its keys (see rotation), and from these addresses only."""

    blanket: Id
    endpoint: Endpoint | None
    keys: tuple[WireguardKey, ...]
    addresses: frozenset[Cidr]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    speakers: tuple[Speaker, ...] = ()
    routes: frozenset[Cidr] = frozenset()
    reach: Reach


def told_ends(before: Mapping[Id, float], abroad: Abroad, *, now: float) -> dict[Id, float]:
    """When each passage ends. Told again, later or by a message that was long under way, it ends no later."""
    ends = {one.relation: now + one.left_s for one in abroad.passages}
    return {relation: min(end, before.get(relation, end)) for relation, end in ends.items()}


def told_foreigners(before: Iterable[Foreigner], abroad: Abroad) -> tuple[Foreigner, ...]:
    """Those told now; none goes back to a lower epoch."""
    known = {(one.instance, one.network): one for one in before}
    return tuple(
        earlier
        if (earlier := known.get((one.instance, one.network))) is not None and earlier.epoch > one.epoch
        else one
        for one in abroad.instances
    )


def ways(
    mesh: Mesh, foreigners: Iterable[Foreigner], ends: Mapping[Id, float], *, closed: IPv4Network, now: float
) -> Ways:
    """What there is to other clouds. What contradicts something is left out, so that it costs nobody else
    anything. `closed`: no other cloud's network is in it."""
    networks = {network.id: network for network in mesh.networks}
    live = _live(mesh.abroad.passages, networks, ends, closed, now)
    cidrs = {one.other: one.cidr for one in live}
    reach = dict[tuple[Cidr, Cidr], float]()
    for one in live:
        ours = networks[one.network].cidr
        pair = (one.cidr, ours) if one.inward else (ours, one.cidr)
        reach[pair] = max(ends[one.relation], reach.get(pair, 0.0))
    return Ways(
        speakers=tuple(_speakers(mesh, foreigners, cidrs)), routes=frozenset(cidrs.values()), reach=reach
    )


def of_mesh(peer: Peer) -> Speaker:
    """A blanket of the own cloud is heard from its address in the mesh."""
    return Speaker(
        blanket=peer.blanket,
        endpoint=peer.endpoint,
        keys=peer.keys,
        addresses=frozenset({f"{peer.address}/32"}),
    )


def _live(
    passages: Iterable[Passage],
    networks: Mapping[Id, Network],
    ends: Mapping[Id, float],
    closed: IPv4Network,
    now: float,
) -> list[Passage]:
    taken: dict[Id, IPv4Network] = {one.id: IPv4Network(one.cidr) for one in networks.values()}
    found = []
    for one in sorted(passages, key=lambda one: one.relation):
        ours = networks.get(one.network)
        if ours is None or not ours.outward or one.other in networks or ends.get(one.relation, 0.0) <= now:
            continue
        try:
            theirs = IPv4Network(one.cidr)
        except ValueError:
            continue
        others = (cidr for network, cidr in taken.items() if network != one.other)
        if taken.get(one.other, theirs) != theirs or any(
            theirs.overlaps(other) for other in (closed, *others)
        ):
            continue
        taken[one.other] = theirs
        found.append(one)
    return found


def _speakers(mesh: Mesh, foreigners: Iterable[Foreigner], cidrs: Mapping[Id, Cidr]) -> Iterable[Speaker]:
    addresses = dict[Id, set[Cidr]]()
    said = set[str]()
    for one in foreigners:
        if (cidr := cidrs.get(one.network)) is not None and _is_host(one.ip, cidr) and one.ip not in said:
            said.add(one.ip)
            addresses.setdefault(one.blanket, set()).add(f"{one.ip}/32")
    blankets = {peer.blanket for peer in mesh.peers}
    keys = {key for peer in mesh.peers for key in peer.keys}
    for peer in mesh.abroad.peers:
        # A key that somebody else has would take the addresses from there.
        if peer.blanket in blankets or keys & set(peer.keys) or peer.blanket not in addresses:
            continue
        blankets.add(peer.blanket)
        keys |= set(peer.keys)
        yield Speaker(
            blanket=peer.blanket,
            endpoint=peer.endpoint,
            keys=peer.keys,
            addresses=frozenset(addresses[peer.blanket]),
        )


def _is_host(ip: str, cidr: Cidr) -> bool:
    network = IPv4Network(cidr)
    return IPv4Address(ip) in network and IPv4Address(ip) not in {
        network.network_address,
        network.broadcast_address,
    }
