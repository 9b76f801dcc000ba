"""The packet filter of a blanket: two nftables tables, made here as JSON and handed to the kernel whole.

`bridge supercloud` looks at frames as they enter a bridge. From an instance's port: only its own MAC and IP,
in Ethernet, ARP and IP alike, and only while the port is in the set `permitted`, whose elements the kernel
ends by itself. From a peer's VXLAN device: only MAC and IP of the instances that are at that peer. Everything
else is dropped.

`inet supercloud` guards the blanket itself (DHCP and DNS for instances; VXLAN from known peers and granted
TCP ports on the mesh; WireGuard on the underlay) and routes nothing but instances' connections to the world,
of those networks that have a way out: a packet of another one is dropped, whatever it belongs to. Between
clouds it routes what is in `reach`, whose elements end by the kernel's clock. That is asked for each packet,
not each connection: what was begun in time is cut like anything else, and its ends are told (a TCP reset) by
their own blankets. Who may not begin may answer: with connection tracking's word where a packet comes in from
another cloud, and for what leaves to one also by not being a beginning, so that whoever moved here goes on.
What carries instances' frames between blankets, WireGuard and VXLAN, is not tracked: two look-ups less for
each packet, and no entry for each of their flows.

What passes to and from blankets inside this one is decided in the chain `machines`, which is another's to
fill (blanket.machines) and is never flushed here; what that does not accept is dropped here, as all else.

`isolated`, `denied` and `limited` are the loop's (`reactions.py`): what is in them cuts a port or an address,
or all but so many bytes a second, before anything else is asked.

`permitted`, `grants` and the loop's have timeouts and are never flushed: an apply or a restarted agent cannot
prolong or end them. Those of `reach` follow from moments that are known, and are what is left until then. A
change of the other sets and all rules is one transaction: no packet sees a state between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from supercloud.blanket.overlay.plan import (
    BRIDGE_PREFIX,
    LINK_PREFIX,
    MESH_DEVICE,
    MESH_NET,
    TAP_PREFIX,
    Filter,
)
from supercloud.model.names import Cidr, Ipv4, Port

Json = dict[str, Any]
Element = tuple[str | int, ...]

TABLE = "supercloud"
PERMITTED, GRANTS, REACH = "permitted", "grants", "reach"
#: What of blankets inside this one may pass: made here, filled by blanket.machines.
MACHINES, MACHINE_PREFIX = "machines", "m"
ISOLATED, DENIED, LIMITED = "isolated", "denied", "limited"
_SETS: dict[str, tuple[str, str | list[str]]] = {
    "own": ("bridge", ["ifname", "ether_addr", "ipv4_addr"]),
    "own_macs": ("bridge", ["ifname", "ether_addr"]),
    "remote": ("bridge", ["ifname", "ether_addr", "ipv4_addr"]),
    "links": ("inet", ["ipv4_addr", "inet_service"]),
    "gateways": ("inet", ["ifname", "ipv4_addr"]),
    "outward": ("inet", "ifname"),
}
#: Where no instance may go: private, shared, local and multicast addresses. The provider's own network, the
#: mesh and the control plane are among them.
NOT_THE_WORLD = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
)


def ruleset(wanted: Filter, *, underlay: str, listen_port: Port, now: float = 0.0) -> Json:
    """Everything, from whatever is there to exactly this. `now`: by the clock of `Filter.reach`."""
    commands: list[Json] = []
    for family in ("bridge", "inet"):
        commands.append({"add": {"table": {"family": family, "name": TABLE}}})
    commands += [_timed_set("bridge", PERMITTED, "ifname")]
    commands += [_timed_set("inet", GRANTS, ["ipv4_addr", "inet_service"])]
    commands += reaction_sets()
    commands += [
        _timed_set("inet", REACH, ["ipv4_addr", "ipv4_addr"], "interval"),
        {"flush": {"set": {"family": "inet", "table": TABLE, "name": REACH}}},
    ]
    for name, (family, kind) in _SETS.items():
        one = {"family": family, "table": TABLE, "name": name}
        commands += [{"add": {"set": {**one, "type": kind}}}, {"flush": {"set": one}}]
    commands.append({"add": {"chain": {"family": "inet", "table": TABLE, "name": MACHINES}}})
    for family, chain, hook, priority, policy in _CHAINS:
        one = {"family": family, "table": TABLE, "name": chain}
        based: Json = {**one}
        if hook:
            does = "nat" if chain == "postrouting" else "filter"
            based |= {"type": does, "hook": hook, "prio": priority, "policy": policy}
        commands += [{"add": {"chain": based}}, {"flush": {"chain": one}}]
    for family, chain, rules in (*_bridge_rules(), *_inet_rules(underlay, listen_port)):
        for rule in rules:
            commands.append(
                {"add": {"rule": {"family": family, "table": TABLE, "chain": chain, "expr": rule}}}
            )
    return {"nftables": [*commands, *_differences(Filter(), wanted), *_reaches(Filter(), wanted, now)]}


def reaction_sets() -> list[Json]:
    """What reactions are put in; there already, they stay as they are."""
    limits = {"family": "bridge", "table": TABLE, "name": LIMITED, "type": "ifname", "map": "limit"}
    return [
        _timed_set("bridge", ISOLATED, "ifname"),
        _timed_set("bridge", DENIED, "ipv4_addr"),
        {"add": {"map": {**limits, "flags": ["timeout"]}}},
    ]


def change(before: Filter, after: Filter, *, now: float = 0.0) -> Json | None:
    """Only what differs between two filters; None if nothing does."""
    commands = [*_differences(before, after), *_reaches(before, after, now)]
    return {"nftables": commands} if commands else None


def timed(family: str, name: str, element: Element, seconds: int) -> Json:
    """`element` for `seconds` from now, or gone at 0. Adding before deleting makes deletion always valid."""
    value = _value(element)
    commands = [_element("add", family, name, [value]), _element("delete", family, name, [value])]
    if seconds > 0:
        lasting = {"elem": {"val": value, "timeout": seconds}}
        commands.append(_element("add", family, name, [lasting]))
    return {"nftables": commands}


def permit(devices: Iterable[str], seconds: float) -> Json:
    """Let the traffic of these ports in for whole `seconds` from now; 0: no longer."""
    return _together(timed("bridge", PERMITTED, (device,), int(seconds)) for device in devices)


def grant(peer: Ipv4, ports: Iterable[Port], seconds: float) -> Json:
    """Let `peer` (a mesh address) connect to these TCP ports of the blanket; 0: no longer."""
    return _together(timed("inet", GRANTS, (peer, port), int(seconds)) for port in ports)


def _together(transactions: Iterable[Json]) -> Json:
    return {"nftables": [command for one in transactions for command in one["nftables"]]}


# ---------------------------------------------------------------- rules

_CHAINS = (
    # family, chain, hook, priority, policy
    ("bridge", "entering", "prerouting", -200, "drop"),
    ("bridge", "from_instance", None, None, None),
    ("bridge", "from_peer", None, None, None),
    ("bridge", "crossing", "forward", 0, "accept"),
    ("bridge", "upwards", "input", 0, "accept"),
    ("bridge", "downwards", "output", 0, "accept"),
    ("inet", "arriving", "prerouting", -300, "accept"),
    ("inet", "leaving", "output", -300, "accept"),
    ("inet", "input", "input", 0, "drop"),
    ("inet", "from_mesh", None, None, None),
    ("inet", "from_bridge", None, None, None),
    ("inet", "forward", "forward", 0, "drop"),
    ("inet", "to_abroad", None, None, None),
    ("inet", "from_abroad", None, None, None),
    ("inet", "output", "output", 0, "accept"),
    ("inet", "postrouting", "postrouting", 100, "accept"),
)

Rule = list[Json]
Rules = tuple[str, str, list[Rule]]

_ACCEPT: Json = {"accept": None}
_DROP: Json = {"drop": None}
_NOTRACK: Json = {"notrack": None}
_COUNTED_DROP: Rule = [{"counter": None}, _DROP]
_LIMIT: Json = {"limit": {"map": {"key": {"meta": {"key": "iifname"}}, "data": f"@{LIMITED}"}}}


def _bridge_rules() -> list[Rules]:
    taps, links = _in(f"{TAP_PREFIX}*"), _in(f"{LINK_PREFIX}*")
    dhcp = [_is(_field("udp", "sport"), 68), _is(_field("udp", "dport"), 67)]
    unpermitted = _match("!=", _meta("iifname"), f"@{PERMITTED}")
    return [
        (
            "bridge",
            "entering",
            [
                [_is(_meta("iifname"), f"@{ISOLATED}"), *_COUNTED_DROP],
                *_denied(),
                [_LIMIT, *_COUNTED_DROP],
                [taps, _jump("from_instance")],
                [links, _jump("from_peer")],
            ],
        ),
        (
            "bridge",
            "from_instance",
            [
                [unpermitted, *_COUNTED_DROP],
                [_is(_field("udp", "sport"), 67), *_COUNTED_DROP],
                [_is(_concat(_meta("iifname"), _ETHER), "@own_macs"), _is(_IP, "0.0.0.0"), *dhcp, _ACCEPT],  # noqa: S104
                *_genuine("own"),
                _COUNTED_DROP,
            ],
        ),
        ("bridge", "from_peer", [*_genuine("remote"), _COUNTED_DROP]),
        (
            "bridge",
            "crossing",
            [
                # Peers reach one another directly, never through a third.
                [links, _is(_meta("oifname"), f"{LINK_PREFIX}*"), *_COUNTED_DROP],
                [_is(_field("udp", "dport"), {"set": [67, 68]}), *_COUNTED_DROP],
                [_is(_meta("oifname"), f"@{ISOLATED}"), *_COUNTED_DROP],
            ],
        ),
        # What the blanket itself sends to an instance, or forwards to one from outside the bridge.
        ("bridge", "downwards", [[_is(_meta("oifname"), f"@{ISOLATED}"), *_COUNTED_DROP], *_denied()]),
        # The gateway serves the instances of its own blanket only.
        ("bridge", "upwards", [[links, *_COUNTED_DROP]]),
    ]


def _denied() -> list[Rule]:
    return [[_is(_field("ip", end), f"@{DENIED}"), *_COUNTED_DROP] for end in ("saddr", "daddr")]


def _genuine(name: str) -> list[Rule]:
    """Sender's MAC and IP belong together and to this port, in all three places where a frame states them."""
    arp_sender = _concat(_meta("iifname"), _field("arp", "saddr ether"), _field("arp", "saddr ip"))
    frame_sender = _concat(_meta("iifname"), _ETHER, _field("arp", "saddr ip"))
    return [
        [_is(_concat(_meta("iifname"), _ETHER, _IP), f"@{name}"), _ACCEPT],
        [_is(frame_sender, f"@{name}"), _is(arp_sender, f"@{name}"), _ACCEPT],
    ]


def _inet_rules(underlay: str, listen_port: Port) -> list[Rules]:
    return [
        *_untracked(underlay, listen_port),
        *_to_the_blanket(underlay, listen_port),
        *_to_the_underlay(underlay, listen_port),
        *_between_clouds(),
    ]


def _untracked(underlay: str, listen_port: Port) -> list[Rules]:
    """What carries the mesh needs no connection tracking."""
    below, out = _in(underlay), _is(_meta("oifname"), underlay)
    return [
        (
            "inet",
            "arriving",
            [
                [_in(MESH_DEVICE), _is(_IP, _MESH), _CARRIER, _NOTRACK],
                [below, _is(_field("udp", "dport"), listen_port), _NOTRACK],
            ],
        ),
        (
            "inet",
            "leaving",
            [
                [_is(_meta("oifname"), MESH_DEVICE), _CARRIER, _NOTRACK],
                [out, _is(_field("udp", "sport"), listen_port), _NOTRACK],
            ],
        ),
    ]


def _to_the_blanket(underlay: str, listen_port: Port) -> list[Rules]:
    bridges, below = _in(f"{BRIDGE_PREFIX}*"), _in(underlay)
    from_peer = _concat(_IP, _field("udp", "dport"))
    granted = _concat(_IP, _field("tcp", "dport"))
    to_gateway = _is(_concat(_meta("iifname"), _field("ip", "daddr")), "@gateways")
    return [
        (
            "inet",
            "input",
            [
                [_in("lo"), _ACCEPT],
                [_is(_ct_state(), "invalid"), *_COUNTED_DROP],
                [_in(MESH_DEVICE), _jump("from_mesh")],
                [bridges, _jump("from_bridge")],
                [below, _is(_field("udp", "dport"), listen_port), _ACCEPT],
                [below, _KNOWN, _ACCEPT],
                _COUNTED_DROP,
            ],
        ),
        (
            "inet",
            "from_mesh",
            [
                # Not by connection tracking: a peer that left is silent at once.
                [_is(from_peer, "@links"), _ACCEPT],
                [_CARRIER, *_COUNTED_DROP],
                [_is(granted, f"@{GRANTS}"), _ACCEPT],
                [_KNOWN, _ACCEPT],
                _COUNTED_DROP,
            ],
        ),
        (
            "inet",
            "from_bridge",
            [
                [_KNOWN, _ACCEPT],
                [_is(_field("udp", "sport"), 68), _is(_field("udp", "dport"), 67), _ACCEPT],
                [to_gateway, _is(_field("udp", "dport"), 53), _ACCEPT],
                [to_gateway, _is(_field("tcp", "dport"), 53), _ACCEPT],
                _COUNTED_DROP,
            ],
        ),
    ]


def _to_the_underlay(underlay: str, listen_port: Port) -> list[Rules]:
    """What instances send to the world, and what the blanket itself sends."""
    bridges, below, out = _in(f"{BRIDGE_PREFIX}*"), _in(underlay), _is(_meta("oifname"), underlay)
    outward = _is(_meta("iifname"), "@outward")
    return [
        (
            "inet",
            "forward",
            [
                [_is(_ct_state(), "invalid"), *_COUNTED_DROP],
                [_in(f"{MACHINE_PREFIX}*"), _jump(MACHINES)],
                [_is(_meta("oifname"), f"{MACHINE_PREFIX}*"), _jump(MACHINES)],
                [bridges, _is(_meta("oifname"), MESH_DEVICE), _jump("to_abroad")],
                [_in(MESH_DEVICE), _is(_meta("oifname"), f"{BRIDGE_PREFIX}*"), _jump("from_abroad")],
                [
                    outward,
                    out,
                    _match("!=", _field("ip", "daddr"), {"set": [_prefix(cidr) for cidr in NOT_THE_WORLD]}),
                    _ACCEPT,
                ],
                [below, _is(_meta("oifname"), "@outward"), _KNOWN, _ACCEPT],
                # What was allowed once: its end learns now that it is not any more.
                [bridges, _is(_ct_state(), "established"), *_RESET],
                _COUNTED_DROP,
            ],
        ),
        (
            # Whatever happens to the mesh's device, nothing of the mesh leaves in clear.
            "inet",
            "output",
            [
                [
                    out,
                    _is(_field("ip", "daddr"), _MESH),
                    _match("!=", _field("udp", "sport"), listen_port),
                    *_COUNTED_DROP,
                ],
                [out, _is(_IP, _MESH), *_COUNTED_DROP],
            ],
        ),
        ("inet", "postrouting", [[bridges, out, {"masquerade": None}]]),
    ]


def _between_clouds() -> list[Rules]:
    begins = _is(_concat(_IP, _field("ip", "daddr")), f"@{REACH}")
    answers = _is(_concat(_field("ip", "daddr"), _IP), f"@{REACH}")
    tracked: Rule = [answers, _KNOWN, _is({"ct": {"key": "direction"}}, "reply"), _ACCEPT]
    flags = {"&": [_field("tcp", "flags"), {"|": ["syn", "ack"]}]}
    return [
        (
            "inet",
            "to_abroad",
            [
                [begins, _ACCEPT],
                tracked,
                [answers, _match("!=", flags, "syn"), _ACCEPT],
                [answers, *_COUNTED_DROP],
                [*_RESET],
                [{"counter": None}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}],
            ],
        ),
        ("inet", "from_abroad", [[begins, _ACCEPT], tracked, _COUNTED_DROP]),
    ]


# ---------------------------------------------------------------- nft's JSON


def _reaches(before: Filter, after: Filter, now: float) -> list[Json]:
    """Each for whole seconds, so that it ends up to one too early."""
    gone = {pair for pair in before.reach if after.reach.get(pair) != before.reach[pair]}
    commands = []
    for pair in sorted(gone):
        element = [_cidrs(pair)]
        commands += [_element("add", "inet", REACH, element), _element("delete", "inet", REACH, element)]
    for pair, end in sorted(after.reach.items()):
        if (pair in gone or pair not in before.reach) and (seconds := int(end - now)) > 0:
            lasting = {"elem": {"val": _cidrs(pair), "timeout": seconds}}
            commands.append(_element("add", "inet", REACH, [lasting]))
    return commands


def _cidrs(pair: tuple[Cidr, Cidr]) -> Json:
    return _concat(*(_prefix(cidr) for cidr in pair))


def _differences(before: Filter, after: Filter) -> list[Json]:
    gone: list[Json] = []
    new: list[Json] = []
    old_sets, new_sets = _elements(before), _elements(after)
    for name, (family, _) in _SETS.items():
        if lost := [_value(element) for element in sorted(old_sets[name] - new_sets[name])]:
            gone += [_element("add", family, name, lost), _element("delete", family, name, lost)]
        if found := [_value(element) for element in sorted(new_sets[name] - old_sets[name])]:
            new.append(_element("add", family, name, found))
    return gone + new


def _elements(wanted: Filter) -> dict[str, frozenset[Element]]:
    return {
        "own": frozenset(wanted.own),
        "own_macs": frozenset((device, mac) for device, mac, _ in wanted.own),
        "remote": frozenset(wanted.remote),
        "links": frozenset(wanted.links),
        "gateways": frozenset(wanted.gateways),
        "outward": frozenset(wanted.outward),
    }


def _timed_set(family: str, name: str, kind: str | list[str], *flags: str) -> Json:
    one = {"family": family, "table": TABLE, "name": name, "type": kind, "flags": ["timeout", *flags]}
    return {"add": {"set": one}}


def _element(verb: str, family: str, name: str, elements: Sequence[object]) -> Json:
    return {verb: {"element": {"family": family, "table": TABLE, "name": name, "elem": list(elements)}}}


def _value(element: Element) -> object:
    return element[0] if len(element) == 1 else {"concat": list(element)}


def _match(op: str, left: Json, right: object) -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _is(left: Json, right: object) -> Json:
    return _match("==", left, right)


def _in(device: str) -> Json:
    return _is(_meta("iifname"), device)


def _jump(chain: str) -> Json:
    return {"jump": {"target": chain}}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _field(protocol: str, name: str) -> Json:
    return {"payload": {"protocol": protocol, "field": name}}


def _ct_state() -> Json:
    return {"ct": {"key": "state"}}


def _concat(*parts: Json) -> Json:
    return {"concat": list(parts)}


def _prefix(cidr: str) -> Json:
    address, length = cidr.split("/")
    return {"prefix": {"addr": address, "len": int(length)}}


_ETHER = _field("ether", "saddr")
_IP = _field("ip", "saddr")
_CARRIER = _is(_meta("l4proto"), "udp")
_KNOWN = _is(_ct_state(), {"set": ["established", "related"]})
_MESH: Json = {"prefix": {"addr": str(MESH_NET.network_address), "len": MESH_NET.prefixlen}}
_RESET: Rule = [_is(_meta("l4proto"), "tcp"), {"counter": None}, {"reject": {"type": "tcp reset"}}]
