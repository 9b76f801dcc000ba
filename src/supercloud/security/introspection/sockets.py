"""TCP and UDP sockets of a guest, from its kernel's tables."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from supercloud.model.errors import Unavailable
from supercloud.security.introspection.kernel import Kernel
from supercloud.security.introspection.memory import Fields, number

_MOST, _MOST_BUCKETS = 65536, 1 << 20
_LISTEN: Final = 10
_IPV4, _IPV6 = 2, 10


@dataclass(frozen=True, slots=True, order=True)
class Socket:
    """Of a listener and of UDP that is not connected, the other end is empty."""

    protocol: str
    address: str
    port: int
    peer: str = ""
    peer_port: int = 0


class Sockets:
    """
    Raises, from everything:
        Unavailable: this kernel has no such tables, or they do not end.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        types = kernel.types
        names = {
            "node": ("skc_nulls_node", "Q"),
            "family": ("skc_family", "H"),
            "state": ("skc_state", "B"),
            "port": ("skc_num", "H"),
            "peer_port": ("skc_dport", "H"),
            "to": ("skc_daddr", "4s"),
            "own": ("skc_rcv_saddr", "4s"),
            "own6": ("skc_v6_rcv_saddr", "16s"),
            "to6": ("skc_v6_daddr", "16s"),
        }
        self._sock = Fields.of(
            [(name, types.offset(f"sock_common.{path}"), kind) for name, (path, kind) in names.items()]
        )
        self._node = types.offset("sock_common.skc_nulls_node")
        self._listens = types.has("inet_listen_hashbucket.nulls_head")

    def all(self) -> frozenset[Socket]:
        return self.tcp() | self.udp()

    def tcp(self) -> frozenset[Socket]:
        kernel = self._kernel
        fields = kernel.fields("inet_hashinfo", ehash="Q", ehash_mask="I", lhash2="Q", lhash2_mask="I")
        info = fields.read(kernel.memory, kernel.symbols["tcp_hashinfo"])
        found = self._table("tcp", number(info["ehash"]), number(info["ehash_mask"]), 8, 0)
        if self._listens:
            size, head = kernel.types.size("inet_listen_hashbucket"), "inet_listen_hashbucket.nulls_head"
            mask, inside = number(info["lhash2_mask"]), kernel.types.offset(head)
            found |= self._table("tcp", number(info["lhash2"]), mask, size, inside)
        return frozenset(found)

    def udp(self) -> frozenset[Socket]:
        kernel = self._kernel
        info = kernel.fields("udp_table", hash="Q", mask="I").read(kernel.memory, kernel.symbols["udp_table"])
        size, inside = kernel.types.size("udp_hslot"), kernel.types.offset("udp_hslot.head")
        return frozenset(self._table("udp", number(info["hash"]), number(info["mask"]), size, inside))

    def _table(self, protocol: str, table: int, mask: int, size: int, inside: int) -> set[Socket]:
        if mask >= _MOST_BUCKETS or size > 64:
            raise Unavailable("the guest has more sockets than there can be")
        data = self._kernel.memory.read(table, (mask + 1) * size)
        found: set[Socket] = set()
        many = 0
        for bucket in range(mask + 1):
            at = int.from_bytes(data[bucket * size + inside : bucket * size + inside + 8], "little")
            nodes: set[int] = set()  # one may come to another bucket while we look
            while at and not at & 1:  # an odd one is the end of a bucket, not an address
                many += 1
                if at in nodes or many > _MOST:
                    raise Unavailable("the guest's sockets do not end")
                nodes.add(at)
                fields = self._sock.read(self._kernel.memory, at - self._node)
                if (one := _socket(protocol, fields)) is not None:
                    found.add(one)
                at = number(fields["node"])
        return found


def sockets(kernel: Kernel) -> frozenset[Socket] | None:
    """Nothing, where they cannot be read: they are evidence, without which there is enough to look at."""
    try:
        return Sockets(kernel).all()
    except Unavailable:
        return None


def _socket(protocol: str, fields: dict[str, int | bytes]) -> Socket | None:
    match fields["family"]:
        case 2:
            own, to = str(IPv4Address(fields["own"])), str(IPv4Address(fields["to"]))
        case 10:
            own, to = str(IPv6Address(fields["own6"])), str(IPv6Address(fields["to6"]))
        case _:
            return None
    peer_port = number(fields["peer_port"]) >> 8 | (number(fields["peer_port"]) & 0xFF) << 8  # as on the wire
    if fields["state"] == _LISTEN or peer_port == 0:
        return Socket(protocol, own, number(fields["port"]))
    return Socket(protocol, own, number(fields["port"]), to, peer_port)
