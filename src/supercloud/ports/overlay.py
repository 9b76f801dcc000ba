"""Overlay part of the agent port: what an agent is told of its blanket's overlay, and what it says of it. The
mesh of its cloud, where instances are, and what of other clouds it has to do with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from supercloud.model.names import (
    Cidr,
    Endpoint,
    Epoch,
    Generation,
    Id,
    Ipv4,
    Mac,
    Name,
    Port,
    WireguardKey,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A blanket's own word for its WireGuard keys, so that whoever relays them cannot put others in.

    Signed with the identity key of `certificate_pem`, which the cloud's authority issued.
    """

    blanket: Id
    key: WireguardKey
    next_key: WireguardKey | None = None
    generation: int  # grows with every change of the keys
    signature: str  # base64 Ed25519
    certificate_pem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another blanket of the same cloud. `keys`: the ones to accept now, newest last (see rotation)."""

    blanket: Id
    address: Ipv4  # inside the mesh
    endpoint: Endpoint | None
    keys: tuple[WireguardKey, ...]
    #: UDP port of the VXLAN link between this blanket and the peer; the same number on both sides.
    vxlan_port: Port
    #: The peer's agent made it, this blanket's agent checks `keys` against it.
    announcement: Announcement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    id: Id
    name: Name
    vni: int
    cidr: Cidr
    gateway: Ipv4  # the same address and MAC in every blanket
    outward: bool = True  # whether its instances reach the world, and names outside of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where an instance's MAC and IP are accepted from. Only a higher epoch replaces it."""

    instance: Id
    name: Name
    network: Id
    mac: Mac
    ip: Ipv4
    blanket: Id | None
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPeer:
    """A blanket of another cloud that holds instances of a network which is connected with one of ours."""

    blanket: Id
    cloud: Id  # which its certificate has to name
    endpoint: Endpoint | None
    keys: tuple[WireguardKey, ...]
    announcement: Announcement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreigner:
    """An instance of another cloud: its address is accepted from that blanket alone, as of a Location."""

    instance: Id
    network: Id
    ip: Ipv4
    blanket: Id
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A trust relation of kind `connect`: instances of one network may begin connections to another's."""

    relation: Id
    network: Id  # of this cloud
    other: Id  # the other cloud's
    cidr: Cidr  # of that
    inward: bool  # whether the other's instances begin; else ours do
    left_s: float  # until it ends, counted from when this is received


@dataclass(frozen=True, slots=True, kw_only=True)
class Abroad:
    """What of other clouds a blanket has to do with."""

    peers: tuple[ForeignPeer, ...] = ()
    instances: tuple[Foreigner, ...] = ()
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """The whole wanted state of one blanket's overlay, applied as a difference."""

    address: Ipv4
    generation: int  # grows with every change; an older one is ignored
    peers: tuple[Peer, ...] = ()
    networks: tuple[Network, ...] = ()
    locations: tuple[Location, ...] = ()
    abroad: Abroad = Abroad()
    #: Generation of this blanket's own last announcement that the store has heard. If it knows of none so
    #: late, it was rolled back since, and its peers refuse what it says until it says more.
    announced: Generation = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshReport:
    generation: int  # of the mesh that it has; later than what it was told: the store was restored since
    key: WireguardKey  # the key this blanket uses now
    next_key: WireguardKey | None = None
    #: Peers, another cloud's as well, with a handshake in the last three minutes.
    alive: tuple[Id, ...] = ()
    #: For the other blankets; the agent adds it to what its overlay driver reports.
    announcement: Announcement | None = None


class OverlayAgent(Protocol):
    async def apply(self, request: Mesh) -> MeshReport: ...

    async def locate(self, request: Location) -> None:
        """Apply one location now (the fast path of a migration); an older epoch is ignored."""
        ...

    async def prepare_key(self) -> MeshReport:
        """Make the next key, do not use it yet. Repeating returns the same next key."""
        ...

    async def switch_key(self) -> MeshReport:
        """Use the next key from now on. Without a next key: nothing happens."""
        ...

    async def report(self) -> MeshReport: ...
