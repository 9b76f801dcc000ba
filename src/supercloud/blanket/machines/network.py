"""How machines reach the world, and who reaches them: a tap for each, routed by this blanket, hidden behind
its own address, with a filter that lets out what a blanket has to say and lets in what is for its WireGuard.

A machine's resolver and control plane are those of this blanket, under the same addresses, at every depth. It
reaches nothing of this blanket itself, of its mesh, of its instances, or of its other machines. From outside,
this blanket's UDP port 51821 leads to the WireGuard of the machine in slot 0, 51822 to that in slot 1, and so
on; what it sends from there leaves by the same port, so that it is not taken for this blanket's own.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supercloud.blanket import nft
from supercloud.blanket.overlay.filter import MACHINE_PREFIX, MACHINES, NOT_THE_WORLD, TABLE
from supercloud.blanket.overlay.netlink import IPRoute, NetlinkError
from supercloud.model.errors import Failed
from supercloud.model.names import Endpoint, Id, Ipv4, Mac, Port
from supercloud.ports.machines import FIRST_INNER_PORT

Json = dict[str, Any]
Rule = list[Json]

NAT_TABLE: Final = "supercloud-machines"
WIREGUARD: Final[Port] = 51820
_RESOLV_CONF = Path("/etc/resolv.conf")
#: Link-local addresses, which nobody routes: a /30 for each machine, and 2048 addresses for each depth, since
#: a blanket must not have its own uplink's addresses inside, too.
_LOCAL = ipaddress.IPv4Network("169.254.64.0/18")
_OF_A_DEPTH: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One machine's: its tap here, both ends' addresses, and the port that leads to it."""

    device: str
    mac: Mac
    gateway: Ipv4
    address: Ipv4
    resolver: Ipv4
    port: Port

    @property
    def argument(self) -> str:
        """What the machine's boot reads of its kernel's command line."""
        return f"supercloud.net={self.address}/30,{self.gateway},{self.resolver}"


def way_of(machine: Id, slot: int, *, own: Ipv4, resolver: Ipv4) -> Way:
    """`own`: this blanket's address at its uplink, which says how deep it is itself."""
    first = int(_LOCAL.network_address)
    if (at := ipaddress.IPv4Address(own)) in _LOCAL:
        first += ((int(at) - first) // _OF_A_DEPTH + 1) * _OF_A_DEPTH
    net = ipaddress.IPv4Address(first + 4 * slot)
    plain = machine.replace("-", "")
    return Way(
        device=f"{MACHINE_PREFIX}{plain[:12]}",
        mac=":".join(("52", "54", *(plain[at : at + 2] for at in (0, 2, 4, 6)))),
        gateway=str(net + 1),
        address=str(net + 2),
        resolver=resolver,
        port=FIRST_INNER_PORT + slot,
    )


def ruleset(ways: Iterable[Way], *, underlay: str, control: Endpoint) -> Json:
    """All that concerns machines, from whatever is there to exactly this. What is not allowed here is dropped
    by the overlay's own rules, whose chain leads here."""
    every = list(ways)
    nat = {"family": "inet", "name": NAT_TABLE}
    chain = {"family": "inet", "table": TABLE, "name": MACHINES}
    commands: list[Json] = [
        {"add": {"table": {"family": "inet", "name": TABLE}}},
        {"add": {"chain": chain}},
        {"flush": {"chain": chain}},
        {"add": {"table": nat}},
        {"delete": {"table": nat}},
    ]
    if not every:
        return {"nftables": commands}
    commands.append({"add": {"table": nat}})
    for hook, priority in (("prerouting", -100), ("postrouting", 99)):
        based = {"family": "inet", "table": NAT_TABLE, "name": hook, "type": "nat", "hook": hook}
        commands.append({"add": {"chain": {**based, "prio": priority, "policy": "accept"}}})
    for way in every:
        commands += [_rule(TABLE, MACHINES, one) for one in _allowed(way, underlay, control)]
        commands.append(_rule(NAT_TABLE, "prerouting", _inwards(way, underlay)))
        commands += [_rule(NAT_TABLE, "postrouting", one) for one in _outwards(way, underlay)]
    return {"nftables": commands}


def _allowed(way: Way, underlay: str, control: Endpoint) -> list[Rule]:
    host, _, port = control.rpartition(":")
    out = [_in(way.device), _to(underlay), _is(_field("ip", "saddr"), way.address)]
    world = {"set": [_prefix(cidr) for cidr in NOT_THE_WORLD]}
    resolver = _is(_field("ip", "daddr"), way.resolver)
    return [
        [*out, _is(_field("udp", "sport"), WIREGUARD), _ACCEPT],
        [*out, _is(_field("ip", "daddr"), host), _is(_field("tcp", "dport"), int(port)), _ACCEPT],
        [*out, resolver, _is(_field("udp", "dport"), 53), _ACCEPT],
        [*out, resolver, _is(_field("tcp", "dport"), 53), _ACCEPT],
        [*out, _match("!=", _field("ip", "daddr"), world), _ACCEPT],
        [_in(underlay), _to(way.device), _is(_field("udp", "dport"), WIREGUARD), _ACCEPT],
        [_in(underlay), _to(way.device), _is(_ct_state(), {"set": ["established", "related"]}), _ACCEPT],
    ]


def _inwards(way: Way, underlay: str) -> Rule:
    to = {"dnat": {"family": "ip", "addr": way.address, "port": WIREGUARD}}
    return [_in(underlay), _is(_field("udp", "dport"), way.port), to]


def _outwards(way: Way, underlay: str) -> list[Rule]:
    out = [_in(way.device), _to(underlay), _is(_field("ip", "saddr"), way.address)]
    return [
        # This blanket's own mesh comes from port 51820 too, untracked: it must not be given out as free.
        [*out, _is(_field("udp", "sport"), WIREGUARD), {"masquerade": {"port": way.port}}],
        [*out, {"masquerade": None}],
    ]


class MachineNetwork:
    """The kernel's side of it. `control`: the control plane, as this blanket dials it."""

    def __init__(self, *, control: Endpoint, underlay: str = "eth0", resolv: Path = _RESOLV_CONF) -> None:
        self._control = control
        self._underlay = underlay
        self._resolver = _resolver(resolv)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="machines")
        self._ways: dict[Id, Way] = {}

    async def way(self, machine: Id, slot: int) -> Way:
        own = await self._in_thread(self._own)
        return way_of(machine, slot, own=own, resolver=self._resolver)

    async def open(self, machines: Sequence[tuple[Id, int]]) -> None:
        """Exactly these have a tap, and rules.

        Raises:
            Failed.
        """
        ways = {machine: await self.way(machine, slot) for machine, slot in machines}
        # The filter comes first: until there are rules for it, a tap's traffic is dropped.
        await nft.run(ruleset(ways.values(), underlay=self._underlay, control=self._control))
        await self._in_thread(self._taps, list(ways.values()))

    async def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        except (NetlinkError, OSError, KeyError) as error:
            raise Failed(f"the machines' network: {error!r}") from error

    def _own(self) -> Ipv4:
        with IPRoute() as ip:
            (link, *_) = ip.link_lookup(ifname=self._underlay)
            for address in ip.get_addr(index=link, family=2):
                return str(address.get_attr("IFA_ADDRESS"))
        raise Failed(f"{self._underlay} has no address")

    def _taps(self, ways: list[Way]) -> None:
        wanted = {way.device: way for way in ways}
        with IPRoute() as ip:
            there = {link.get_attr("IFLA_IFNAME"): link["index"] for link in ip.get_links()}
            for name, index in there.items():
                if _ours(name) and name not in wanted:
                    ip.link("del", index=index)
            for name, way in wanted.items():
                if name in there:
                    continue
                ip.link("add", ifname=name, kind="tuntap", mode="tap")
                (index,) = ip.link_lookup(ifname=name)
                ip.addr("add", index=index, address=way.gateway, prefixlen=30)
                ip.link("set", index=index, state="up")


def _ours(name: str) -> bool:
    rest = name.removeprefix(MACHINE_PREFIX)
    return name.startswith(MACHINE_PREFIX) and len(rest) == 12 and set(rest) <= set("0123456789abcdef")


def _resolver(resolv: Path) -> Ipv4:
    """
    Raises:
        Failed: there is none.
    """
    for line in resolv.read_text(encoding="ascii").splitlines():
        if line.startswith("nameserver "):
            return line.split()[1]
    raise Failed(f"{resolv} names no resolver")


# ---------------------------------------------------------------- nft's JSON

_ACCEPT: Json = {"accept": None}


def _rule(table: str, chain: str, rule: Rule) -> Json:
    return {"add": {"rule": {"family": "inet", "table": table, "chain": chain, "expr": rule}}}


def _match(op: str, left: Json, right: object) -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _is(left: Json, right: object) -> Json:
    return _match("==", left, right)


def _in(device: str) -> Json:
    return _is({"meta": {"key": "iifname"}}, device)


def _to(device: str) -> Json:
    return _is({"meta": {"key": "oifname"}}, device)


def _field(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def _ct_state() -> Json:
    return {"ct": {"key": "state"}}


def _prefix(cidr: str) -> Json:
    address, length = cidr.split("/")
    return {"prefix": {"addr": address, "len": int(length)}}
