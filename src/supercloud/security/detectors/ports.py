"""What an instance does at its port, from the frames that come out of it: no agent in the guest, nor trust.

Connections that begin are events for rules (a scan is a rule's to see), and so is whom of its own network it
asks for: of an address that nobody has, no more than that is ever seen. A sender's address that is not the
port's own, more beginnings than anybody counts, and an own address that speaks from another blanket are
findings by themselves. What one port sends is counted on its own, so that a flood costs its sender's events.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from supercloud.model.findings import Severity
from supercloud.model.names import Ipv4, Mac
from supercloud.security.detectors import PORT
from supercloud.security.detectors.told import Event, Speaker, asking, connection, finding

SPOOFED, FLOOD, SECOND_COPY = "spoofed-address", "connection-flood", "second-copy"
#: Beginnings that are told of one port in a second, and different ones that are remembered: a scan is seen
#: from far fewer.
PER_SECOND, REMEMBERED = 100, 4096
#: The same beginning, and the same finding about a port, is told again after so long.
AGAIN_S, FINDING_AGAIN_S = 5.0, 10.0
#: Who speaks from elsewhere for so long is no instance that has just moved, which is told a moment later.
#: What was not heard for so long is over (seconds).
APART_S, APART_OVER_S = 5.0, 30.0
#: More beginnings than this in a second are a flood.
FLOOD_PER_SECOND = 500
_ARP, _IPV4, _TCP = 0x0806, 0x0800, 6
_SYN, _ACK, _ARP_ASKS = 0x02, 0x10, b"\0\1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A port, and who may speak there. `away`: by which device its instance is heard while this port waits
    for it to come here, or to be taken away."""

    device: str
    mac: Mac
    ip: Ipv4
    away: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    mac: str
    arp_mac: str | None = None  # of an ARP packet's sender
    source: str | None = None
    target: str | None = None
    ports: tuple[int, int] | None = None  # of a TCP connection that begins
    asks: bool = False  # by ARP, who has the target


def parsed(data: bytes) -> Frame | None:
    """None: too short to be one."""
    if len(data) < 14:
        return None
    mac, kind = _mac(data[6:12]), struct.unpack_from("!H", data, 12)[0]
    if kind == _ARP and len(data) >= 42:
        source, target = str(IPv4Address(data[28:32])), str(IPv4Address(data[38:42]))
        # Who has no address yet tries one so, and who has a new one tells it so.
        asks = data[20:22] == _ARP_ASKS and source not in {target, "0.0.0.0"}  # noqa: S104
        return Frame(mac, arp_mac=_mac(data[22:28]), source=source, target=target, asks=asks)
    if kind != _IPV4 or len(data) < 34:
        return Frame(mac)
    header = (data[14] & 0x0F) * 4
    source, target = str(IPv4Address(data[26:30])), str(IPv4Address(data[30:34]))
    at = 14 + header
    fragment = struct.unpack_from("!H", data, 20)[0] & 0x1FFF
    if data[23] != _TCP or fragment or header < 20 or len(data) < at + 14:
        return Frame(mac, source=source, target=target)
    begins = data[at + 13] & (_SYN | _ACK) == _SYN
    ports = struct.unpack_from("!HH", data, at) if begins else None
    return Frame(mac, source=source, target=target, ports=ports)


def _mac(data: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in data)


@dataclass(slots=True)
class _Port:
    own: Own
    second: int = 0
    begun: int = 0
    told: int = 0
    seen: OrderedDict[tuple[str, int], float] = field(default_factory=OrderedDict)
    last: dict[str, float] = field(default_factory=dict)
    forged: int = 0
    apart: tuple[float, float] | None = None  # since when its own address was heard elsewhere, and when last


class PortWatch:
    """One for a blanket. `boot` makes ids of events that no other process has given."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._number = 0
        self._ports: dict[str, _Port] = {}
        self._macs: Mapping[str, str] = {}

    def plugged(self, ports: Iterable[Own]) -> None:
        """Which there are now; what is known of those that stay is kept."""
        wanted = {one.device: one for one in ports}
        self._ports = {device: self._kept(own) for device, own in wanted.items()}
        self._macs = {one.mac: one.device for one in wanted.values()}

    def _kept(self, own: Own) -> _Port:
        port = self._ports.get(own.device)
        if port is None or (port.own.mac, port.own.ip) != (own.mac, own.ip):
            return _Port(own)
        if port.own.away != own.away:
            port.own, port.apart = own, None
        return port

    @property
    def devices(self) -> frozenset[str]:
        return frozenset(self._ports)

    def sent(self, device: str, data: bytes, at: float) -> list[Event]:
        """A frame that came out of an instance."""
        port, frame = self._ports.get(device), parsed(data)
        if port is None or frame is None:
            return []
        own = port.own
        claimed = {frame.mac} | ({frame.arp_mac} if frame.arp_mac else set())
        # A guest without an address yet asks for one as 0.0.0.0.
        forged_ip = frame.source is not None and frame.source not in {own.ip, "0.0.0.0"}  # noqa: S104
        if claimed != {own.mac} or forged_ip:
            return self._forged(port, frame, at)
        if frame.asks:
            return self._told_once(port, frame, at)
        return [] if frame.ports is None else self._begun(port, frame, at)

    def received(self, device: str, data: bytes, at: float) -> list[Event]:
        """A frame that came from another blanket: nobody there has an address that is plugged here, but an
        instance that moves."""
        frame = parsed(data)
        here = None if frame is None else self._macs.get(frame.mac)
        if frame is None or here is None or self._ports[here].own.away == device:
            return []
        port = self._ports[here]
        first, last = port.apart or (at, at)
        port.apart = (first if at - last < APART_OVER_S else at, at)
        if at - port.apart[0] < APART_S or not self._due(port, SECOND_COPY, at):
            return []
        return [
            self._finding(
                port,
                SECOND_COPY,
                "An address of this instance speaks from another blanket",
                Severity.CRITICAL,
                at,
                {"data": {"from": device, "mac": frame.mac, "proven": True}},
            )
        ]

    def _forged(self, port: _Port, frame: Frame, at: float) -> list[Event]:
        port.forged += 1
        if not self._due(port, SPOOFED, at):
            return []
        many, port.forged = port.forged, 0
        said = {"mac": frame.mac, "arp_mac": frame.arp_mac, "ip": frame.source, "frames": many}
        # The address is whoever's the sender wrote there: it proves nothing against them.
        evidence = {"src_endpoint": {"ip": frame.source}, "data": {**said, "proven": False}}
        title = "It speaks under another's address"
        return [self._finding(port, SPOOFED, title, Severity.HIGH, at, evidence)]

    def _begun(self, port: _Port, frame: Frame, at: float) -> list[Event]:
        self._at_second(port, at)
        port.begun += 1
        assert frame.source is not None and frame.target is not None and frame.ports is not None  # noqa: S101
        found: list[Event] = []
        if port.begun == FLOOD_PER_SECOND and self._due(port, FLOOD, at):
            evidence = {
                "src_endpoint": {"ip": frame.source},
                "dst_endpoint": {"ip": frame.target},
                "data": {"per_second": port.begun, "proven": True},
            }
            title = "It begins very many connections"
            found.append(self._finding(port, FLOOD, title, Severity.MEDIUM, at, evidence))
        return found + self._told_once(port, frame, at)

    @staticmethod
    def _at_second(port: _Port, at: float) -> None:
        if int(at) != port.second:
            port.second, port.begun, port.told = int(at), 0, 0

    def _told_once(self, port: _Port, frame: Frame, at: float) -> list[Event]:
        """Of a connection that begins, or of whom it asks for: once in a while, and not too much at once."""
        assert frame.source is not None and frame.target is not None  # noqa: S101
        self._at_second(port, at)
        key = (frame.target, 0 if frame.ports is None else frame.ports[1])
        before = port.seen.get(key)
        if port.told >= PER_SECOND or (before is not None and at - before < AGAIN_S):
            return []
        port.told += 1
        port.seen[key] = at
        port.seen.move_to_end(key)
        while len(port.seen) > REMEMBERED:
            port.seen.popitem(last=False)
        one = Speaker(PORT, uid=self._uid(), about=port.own.device, mac=frame.mac, at=at)
        if frame.ports is None:
            return [asking(one, source=frame.source, target=frame.target)]
        return [connection(one, source=(frame.source, frame.ports[0]), target=key)]

    def _due(self, port: _Port, rule: str, at: float) -> bool:
        if at - port.last.get(rule, float("-inf")) < FINDING_AGAIN_S:
            return False
        port.last[rule] = at
        return True

    def _finding(  # noqa: PLR0917 - of this class, from three places
        self,
        port: _Port,
        rule: str,
        title: str,
        severity: Severity,
        at: float,
        evidence: Mapping[str, object],
    ) -> Event:
        return finding(
            PORT,
            uid=self._uid(),
            rule=rule,
            title=title,
            severity=severity,
            about=port.own.device,
            at=at,
            evidence=evidence,
        )

    def _uid(self) -> str:
        self._number += 1
        return f"{self._boot}-{self._number}"
