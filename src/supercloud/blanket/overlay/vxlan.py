"""Links of a blanket: the mesh's interface, and per network a bridge, taps and a VXLAN device per peer.

Nothing is learnt and nothing flooded to peers. Forwarding entries are static, ports towards peers locked (a
frame whose sender is not behind that port is dropped by the bridge itself, below the packet filter), and the
bridge answers ARP for instances elsewhere from permanent neighbours. A VXLAN device is bound to the mesh's
interface: its frames can leave by no other.

Blocking; call it from one thread. Errors are pyroute2's and the system's: the driver translates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from socket import AF_BRIDGE, AF_INET
from typing import Any

from supercloud.blanket.overlay.netlink import IPRoute, NetlinkError, ndmsg
from supercloud.blanket.overlay.plan import (
    BRIDGE_PREFIX,
    INSTANCE_MTU,
    LINK_PREFIX,
    MESH_DEVICE,
    MESH_MTU,
    MESH_NET,
    Link,
    Plan,
    Segment,
)
from supercloud.model.names import Cidr, Ipv4, Mac

_OURS = re.compile(rf"{BRIDGE_PREFIX}[0-9a-f]{{8}}|{LINK_PREFIX}\d{{1,5}}-[0-9a-f]+|t[0-9a-f]{{12}}\d{{0,2}}")
_STATIC, _PERMANENT = ndmsg.NUD_NOARP, ndmsg.NUD_PERMANENT
_MASTER = ndmsg.NTF_MASTER
_TOWARDS_PEER: dict[str, int] = {
    "learning": 0,
    "unicast_flood": 0,
    "mcast_flood": 0,
    "bcast_flood": 0,
    "neigh_suppress": 1,
    "isolated": 1,
    "locked": 1,
}
_TOWARDS_INSTANCE: dict[str, int] = {"learning": 0, "unicast_flood": 0, "mcast_flood": 0}
_ESRCH_ENOENT = (2, 3)
_PROTOCOL = 92  # by which we know our routes; nobody else's number


class Wiring:
    """The kernel's links, forwarding entries and neighbours of this overlay."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def close(self) -> None:
        self._ip.close()

    def mesh(self, address: Ipv4) -> None:
        """The WireGuard interface, with `address` and no other."""
        links = self._links()
        if MESH_DEVICE not in links:
            self._ip.link("add", ifname=MESH_DEVICE, kind="wireguard")
            links = self._links()
        index = links[MESH_DEVICE]["index"]
        wanted = (address, MESH_NET.prefixlen)
        for other in self._addresses(index) - {wanted}:
            self._ip.addr("del", index=index, address=other[0], prefixlen=other[1])
        if wanted not in self._addresses(index):
            self._ip.addr("add", index=index, address=wanted[0], prefixlen=wanted[1])
        self._ip.link("set", index=index, mtu=MESH_MTU, state="up")

    def converge(self, plan: Plan) -> None:
        """Make every bridge, port, entry and neighbour of `plan`; remove whatever else has our names."""
        wanted = {
            name
            for segment in plan.segments.values()
            for name in (segment.bridge, *segment.taps, *(link.device for link in segment.links))
        }
        for name, link in self._links().items():
            if _OURS.fullmatch(name) and name not in wanted:
                self._remove(link["index"])
        for segment in plan.segments.values():
            self._segment(segment)
        self._route(plan.routes)

    def shift(self, before: Segment, after: Segment) -> None:
        """The entries that differ between two plans of one network whose links are the same."""
        links = self._links()
        bridge = links[after.bridge]["index"]
        self._forward(bridge, links, before.forwarding, after.forwarding)
        self._neighbours(bridge, before.neighbours, after.neighbours)

    def plug(self, segment: Segment, device: str) -> None:
        """A persistent tap on the network's bridge. There already: fine."""
        links = self._links()
        if device not in links:
            self._ip.link("add", ifname=device, kind="tuntap", mode="tap")
            links = self._links()
        self._port(links[device], links[segment.bridge]["index"], _TOWARDS_INSTANCE)

    def unplug(self, device: str) -> None:
        if (link := self._links().get(device)) is not None:
            self._remove(link["index"])

    def _segment(self, segment: Segment) -> None:
        links = self._links()
        if segment.bridge not in links:
            self._ip.link(
                "add",
                ifname=segment.bridge,
                kind="bridge",
                address=segment.mac,
                br_stp_state=0,
                br_mcast_snooping=0,
                br_forward_delay=0,
            )
        bridge = self._links()[segment.bridge]["index"]
        self._ip.link("set", index=bridge, mtu=INSTANCE_MTU, address=segment.mac, state="up")
        gateway = (str(segment.gateway.ip), segment.gateway.network.prefixlen)
        for other in self._addresses(bridge) - {gateway}:
            self._ip.addr("del", index=bridge, address=other[0], prefixlen=other[1])
        if gateway not in self._addresses(bridge):
            self._ip.addr("add", index=bridge, address=gateway[0], prefixlen=gateway[1])
        for link in segment.links:
            self._link(link, bridge)
        for device in segment.taps:
            self.plug(segment, device)
        links = self._links()
        self._forward(bridge, links, self._forwarding(bridge, links), segment.forwarding)
        self._neighbours(bridge, self._known_neighbours(bridge), segment.neighbours)

    def _link(self, link: Link, bridge: int) -> None:
        links = self._links()
        mesh = links[MESH_DEVICE]["index"]
        if link.device in links and not _is_so(links[link.device], link, mesh):
            self._remove(links.pop(link.device)["index"])
        if link.device not in links:
            self._ip.link(
                "add",
                ifname=link.device,
                kind="vxlan",
                vxlan_id=link.vni,
                vxlan_port=link.port,
                vxlan_local=link.local,
                vxlan_group=link.remote,
                vxlan_link=mesh,
                vxlan_learning=0,
                vxlan_udp_csum=0,  # WireGuard authenticates every byte already
            )
            links = self._links()
        self._port(links[link.device], bridge, _TOWARDS_PEER)

    def _port(self, link: Any, bridge: int, flags: Mapping[str, int]) -> None:
        """Flags before it comes up: no frame passes a port that floods or learns."""
        index = link["index"]
        if link.get_attr("IFLA_MASTER") != bridge:
            self._ip.link("set", index=index, state="down")
            self._ip.link("set", index=index, mtu=INSTANCE_MTU, master=bridge)
        self._ip.brport("set", index=index, **flags)
        self._ip.link("set", index=index, state="up")

    def _forward(
        self, bridge: int, links: Mapping[str, Any], before: Mapping[Mac, str], after: Mapping[Mac, str]
    ) -> None:
        for mac, device in before.items():
            if mac not in after and device in links:
                self._absent_is_fine(
                    "del", family=AF_BRIDGE, ifindex=links[device]["index"], lladdr=mac, flags=_MASTER
                )
        for mac, device in after.items():
            if before.get(mac) != device:
                self._ip.neigh(
                    "replace",
                    family=AF_BRIDGE,
                    ifindex=links[device]["index"],
                    lladdr=mac,
                    state=_STATIC,
                    flags=_MASTER,
                )

    def _neighbours(self, bridge: int, before: Mapping[Ipv4, Mac], after: Mapping[Ipv4, Mac]) -> None:
        for ip in before.keys() - after.keys():
            self._absent_is_fine("del", family=AF_INET, ifindex=bridge, dst=ip)
        for ip, mac in after.items():
            if before.get(ip) != mac:
                self._ip.neigh(
                    "replace", family=AF_INET, ifindex=bridge, dst=ip, lladdr=mac, state=_PERMANENT
                )

    def _route(self, wanted: frozenset[Cidr]) -> None:
        """Other clouds' networks are behind the mesh's device; it knows from and to whom."""
        links = self._links()
        if MESH_DEVICE not in links:
            return
        index = links[MESH_DEVICE]["index"]
        there = {
            f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
            for route in self._ip.get_routes(family=AF_INET, proto=_PROTOCOL)
            if route.get_attr("RTA_OIF") == index
        }
        for cidr in there - wanted:
            self._ip.route("del", dst=cidr, oif=index, proto=_PROTOCOL)
        for cidr in wanted - there:
            self._ip.route("add", dst=cidr, oif=index, proto=_PROTOCOL)

    def _absent_is_fine(self, command: str, **what: Any) -> None:
        try:
            self._ip.neigh(command, **what)
        except NetlinkError as error:
            if error.code not in _ESRCH_ENOENT:
                raise

    def _forwarding(self, bridge: int, links: Mapping[str, Any]) -> dict[Mac, str]:
        names = {link["index"]: name for name, link in links.items()}
        return {
            entry.get_attr("NDA_LLADDR"): names[entry["ifindex"]]
            for entry in self._ip.get_neighbours(family=AF_BRIDGE)
            if entry.get_attr("NDA_MASTER") == bridge and entry["state"] == _STATIC
        }

    def _known_neighbours(self, bridge: int) -> dict[Ipv4, Mac]:
        return {
            entry.get_attr("NDA_DST"): entry.get_attr("NDA_LLADDR")
            for entry in self._ip.get_neighbours(family=AF_INET)
            if entry["ifindex"] == bridge and entry["state"] == _PERMANENT
        }

    def _links(self) -> dict[str, Any]:
        return {link.get_attr("IFLA_IFNAME"): link for link in self._ip.get_links()}

    def _addresses(self, index: int) -> set[tuple[str, int]]:
        return {
            (address.get_attr("IFA_ADDRESS"), address["prefixlen"])
            for address in self._ip.get_addr(family=AF_INET, index=index)
        }

    def _remove(self, index: int) -> None:
        self._ip.link("del", index=index)


def _is_so(device: Any, link: Link, mesh: int) -> bool:
    data = device.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if data is None:
        return False
    said: Iterable[object] = (
        data.get_attr("IFLA_VXLAN_ID"),
        data.get_attr("IFLA_VXLAN_PORT"),
        data.get_attr("IFLA_VXLAN_LOCAL"),
        data.get_attr("IFLA_VXLAN_GROUP"),
        data.get_attr("IFLA_VXLAN_LINK"),
        data.get_attr("IFLA_VXLAN_LEARNING"),
        data.get_attr("IFLA_VXLAN_UDP_CSUM"),
    )
    return tuple(said) == (link.vni, link.port, link.local, link.remote, mesh, 0, 0)
