"""What a blanket's overlay shall look like, computed from what it was told. Pure: no I/O.

`Knowledge` is what the blanket was told: its mesh, where instances are, which ports are plugged here.
`Plan` is what follows from it: links, forwarding entries, neighbours and the packet filter's sets. The
drivers of this package make the kernel equal to a plan; a change is the difference between two plans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from supercloud.blanket.overlay.abroad import Reach, Speaker, of_mesh, told_ends, told_foreigners, ways
from supercloud.model.errors import InvalidInput
from supercloud.model.names import Cidr, Id, Ipv4, Mac
from supercloud.model.names import Port as UdpPort
from supercloud.ports.overlay import Foreigner, Location, Mesh, Network, Peer

MESH_DEVICE = "wg-sc"
MESH_NET = IPv4Network("100.64.0.0/10")
MESH_MTU = 1420
#: What VXLAN over IPv4 leaves of the mesh's MTU: 14 + 20 + 8 + 8 bytes go to its headers.
INSTANCE_MTU = MESH_MTU - 50
BRIDGE_PREFIX, LINK_PREFIX, TAP_PREFIX = "br-", "vx-", "t"
_VNI_BITS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePort:
    """A plugged port of an instance: the tap `device` speaks with exactly this MAC and IP."""

    instance: Id
    device: str
    network: Id
    mac: Mac
    ip: Ipv4


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One VXLAN device: one network's frames to and from one peer."""

    device: str
    peer: Id
    vni: int
    port: UdpPort
    local: Ipv4
    remote: Ipv4


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One network in this blanket: its bridge, the bridge's ports, and who is behind which port."""

    network: Network
    bridge: str
    mac: Mac
    links: tuple[Link, ...]
    taps: tuple[str, ...]
    forwarding: Mapping[Mac, str]
    neighbours: Mapping[Ipv4, Mac]
    locations: tuple[Location, ...]

    @property
    def gateway(self) -> IPv4Interface:
        return IPv4Interface(f"{self.network.gateway}/{IPv4Network(self.network.cidr).prefixlen}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Elements of the packet filter's sets. Whatever is not in them is dropped."""

    own: frozenset[tuple[str, Mac, Ipv4]] = frozenset()
    remote: frozenset[tuple[str, Mac, Ipv4]] = frozenset()
    links: frozenset[tuple[Ipv4, UdpPort]] = frozenset()
    gateways: frozenset[tuple[str, Ipv4]] = frozenset()
    outward: frozenset[tuple[str]] = frozenset()  # bridges whose instances reach the world
    reach: Reach = field(default_factory=dict)  # between clouds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`routes`: other clouds' networks, which are behind the mesh's device."""

    address: Ipv4
    speakers: tuple[Speaker, ...]
    routes: frozenset[Cidr]
    segments: Mapping[Id, Segment]
    filter: Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """All that a blanket was told. Locations: those it holds true, one for each (instance, network).

    `ends`: of each trust relation that connects a network, by CLOCK_BOOTTIME.
    """

    mesh: Mesh
    locations: tuple[Location, ...] = ()
    ports: tuple[InstancePort, ...] = ()
    foreigners: tuple[Foreigner, ...] = ()
    ends: Mapping[Id, float] = field(default_factory=dict)


NOTHING = Knowledge(mesh=Mesh(address="0.0.0.0", generation=0))  # noqa: S104 - no address yet, not a listener


def told_mesh(known: Knowledge, mesh: Mesh, *, now: float = 0.0) -> Knowledge:
    """After `mesh` arrived. An older generation changes nothing; no location goes back to a lower epoch."""
    if mesh.generation < known.mesh.generation:
        return known
    before = _by_key(known.locations)
    kept = tuple(
        earlier if (earlier := before.get(key)) is not None and earlier.epoch > location.epoch else location
        for key, location in _by_key(mesh.locations).items()
    )
    return replace(
        known,
        mesh=mesh,
        locations=kept,
        foreigners=told_foreigners(known.foreigners, mesh.abroad),
        ends=told_ends(known.ends, mesh.abroad, now=now),
    )


def told_location(known: Knowledge, location: Location) -> Knowledge:
    """After `location` arrived by itself: a higher epoch replaces; the same epoch may only withdraw."""
    locations = _by_key(known.locations)
    key = (location.instance, location.network)
    if (earlier := locations.get(key)) is not None and (
        location.epoch < earlier.epoch
        or (location.epoch == earlier.epoch and location.blanket not in (None, earlier.blanket))
    ):
        return known
    locations[key] = location
    # Addresses are given again once an instance is gone; of two that claim one, the later was told the truth.
    others = (
        other
        for other in locations.values()
        if other is location
        or other.network != location.network
        or (other.mac != location.mac and other.ip != location.ip)
    )
    return replace(known, locations=tuple(others))


def plugged(known: Knowledge, port: InstancePort) -> Knowledge:
    """After `port` was plugged. Raises: InvalidInput (an address outside its network, or the gateway's)."""
    for network in known.mesh.networks:
        if network.id == port.network:
            _check_inside(network, port.ip)
    others = tuple(other for other in known.ports if other.device != port.device)
    return replace(known, ports=(*others, port))


def unplugged(known: Knowledge, instance: Id) -> Knowledge:
    return replace(known, ports=tuple(port for port in known.ports if port.instance != instance))


def plan(known: Knowledge, *, blanket: Id, now: float = 0.0) -> Plan:
    """What `known` means for the blanket with that id, at a moment.

    Raises:
        InvalidInput: networks that overlap, a peer or a location that contradicts another.
    """
    mesh = known.mesh
    _check(mesh, blanket)
    peers = {peer.blanket: peer for peer in mesh.peers}
    segments = {
        network.id: _segment(network, known, peers, blanket)
        for network in sorted(mesh.networks, key=lambda network: network.id)
    }
    abroad = ways(mesh, known.foreigners, known.ends, closed=MESH_NET, now=now)
    return Plan(
        address=mesh.address,
        speakers=(*map(of_mesh, mesh.peers), *abroad.speakers),
        routes=abroad.routes,
        segments=segments,
        filter=Filter(
            own=frozenset(
                (port.device, port.mac, port.ip) for port in known.ports if port.network in segments
            ),
            remote=frozenset(_remote(segments.values(), peers)),
            links=frozenset((peer.address, peer.vxlan_port) for peer in mesh.peers),
            gateways=frozenset((segment.bridge, segment.network.gateway) for segment in segments.values()),
            outward=frozenset((segment.bridge,) for segment in segments.values() if segment.network.outward),
            reach=abroad.reach,
        ),
    )


def link_device(port: UdpPort, network: Id) -> str:
    """At most 15 characters, as the kernel allows."""
    return f"{LINK_PREFIX}{port}-{network.replace('-', '')[: 11 - len(str(port))]}"


def bridge_device(network: Id) -> str:
    return f"{BRIDGE_PREFIX}{network[:8]}"


def gateway_mac(network: Id) -> Mac:
    """The same in every blanket, so that an instance's neighbour entry stays true as it moves."""
    digest = hashlib.sha256(f"supercloud gateway {network}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def _segment(network: Network, known: Knowledge, peers: Mapping[Id, Peer], blanket: Id) -> Segment:
    links = {
        peer.blanket: Link(
            device=link_device(peer.vxlan_port, network.id),
            peer=peer.blanket,
            vni=network.vni,
            port=peer.vxlan_port,
            local=known.mesh.address,
            remote=peer.address,
        )
        for peer in peers.values()
    }
    ports = [port for port in known.ports if port.network == network.id]
    locations = tuple(location for location in known.locations if location.network == network.id)
    forwarding = {port.mac: port.device for port in ports}
    neighbours = {port.ip: port.mac for port in ports}
    for location in locations:
        neighbours[location.ip] = location.mac
        # A port that waits for its instance must not draw the frames of the copy that still runs elsewhere.
        if location.blanket is not None and location.blanket != blanket:
            forwarding.pop(location.mac, None)
            if (link := links.get(location.blanket)) is not None:
                forwarding[location.mac] = link.device
    return Segment(
        network=network,
        bridge=bridge_device(network.id),
        mac=gateway_mac(network.id),
        links=tuple(links.values()),
        taps=tuple(sorted(port.device for port in ports)),
        forwarding=forwarding,
        neighbours=neighbours,
        locations=locations,
    )


def _remote(segments: Iterable[Segment], peers: Mapping[Id, Peer]) -> Iterable[tuple[str, Mac, Ipv4]]:
    for segment in segments:
        for location in segment.locations:
            if location.blanket is not None and (peer := peers.get(location.blanket)) is not None:
                yield link_device(peer.vxlan_port, segment.network.id), location.mac, location.ip


def _by_key(locations: Iterable[Location]) -> dict[tuple[Id, Id], Location]:
    """By (instance, network); of two for one key, the one of the higher epoch."""
    found: dict[tuple[Id, Id], Location] = {}
    for location in locations:
        key = (location.instance, location.network)
        if key not in found or found[key].epoch <= location.epoch:
            found[key] = location
    return found


def _check(mesh: Mesh, blanket: Id) -> None:
    addresses = [mesh.address, *(peer.address for peer in mesh.peers)]
    if mesh.generation and any(IPv4Address(address) not in MESH_NET for address in addresses):
        raise InvalidInput(f"a mesh address outside {MESH_NET}")
    _check_distinct("mesh address", addresses)
    _check_distinct("blanket", [blanket, *(peer.blanket for peer in mesh.peers)])
    _check_distinct("VXLAN port", [peer.vxlan_port for peer in mesh.peers])
    _check_distinct("WireGuard key", [key for peer in mesh.peers for key in dict.fromkeys(peer.keys)])
    _check_distinct("VNI", [network.vni for network in mesh.networks])
    _check_distinct("network", [bridge_device(network.id) for network in mesh.networks])
    for index, network in enumerate(mesh.networks):
        if not 0 < network.vni < 1 << _VNI_BITS:
            raise InvalidInput(f"network {network.name}: VNI {network.vni}")
        _check_inside(network, network.gateway, gateway=True)
        if any(_cidr(network).overlaps(_cidr(other)) for other in mesh.networks[:index]):
            raise InvalidInput(f"network {network.name} overlaps another of this cloud")
        here = [location for location in mesh.locations if location.network == network.id]
        for location in here:
            _check_inside(network, location.ip)
        _check_distinct(f"MAC in network {network.name}", [location.mac for location in here])
        _check_distinct(f"IP in network {network.name}", [location.ip for location in here])


def _check_inside(network: Network, ip: Ipv4, *, gateway: bool = False) -> None:
    cidr = _cidr(network)
    ends = (cidr.network_address, cidr.broadcast_address)
    if IPv4Address(ip) not in cidr or IPv4Address(ip) in ends or (ip == network.gateway and not gateway):
        raise InvalidInput(f"network {network.name} ({network.cidr}) has no place for {ip}")


def _cidr(network: Network) -> IPv4Network:
    try:
        return IPv4Network(network.cidr)
    except ValueError as error:
        raise InvalidInput(f"network {network.name}: {error}") from error


def _check_distinct(what: str, values: Iterable[object]) -> None:
    seen = list(values)
    if len(set(seen)) != len(seen):
        raise InvalidInput(f"the same {what} twice in one mesh")
