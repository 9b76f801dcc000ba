"""Keys as they rotate, the packet filter's transactions, dnsmasq's files: what they say, without a kernel."""

from __future__ import annotations

import re
import stat
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.blanket.overlay import dhcp
from supercloud.blanket.overlay import filter as packet_filter
from supercloud.blanket.overlay.abroad import Speaker
from supercloud.blanket.overlay.plan import NOTHING, Filter, plan, told_mesh
from supercloud.blanket.overlay.wireguard import Keys, KeyState, holder_of
from supercloud.ports.overlay import Location, Mesh, Network

pytestmark = pytest.mark.unit
OLD, NEW = "o" * 43 + "=", "n" * 43 + "="
HELD = frozenset({"100.64.0.2/32"})
PEER = Speaker(blanket="b", endpoint=None, keys=(OLD, NEW), addresses=HELD)


def _states(*states: KeyState) -> dict[str, KeyState]:
    return {state.key: state for state in states}


def test_a_next_key_that_has_not_spoken_changes_nothing() -> None:
    before = _states(KeyState(key=OLD, addresses=HELD, handshake_s=100.0), KeyState(key=NEW))
    assert holder_of(PEER, before) == OLD


def test_the_address_follows_the_first_handshake_of_the_next_key() -> None:
    spoke = _states(
        KeyState(key=OLD, addresses=HELD, handshake_s=100.0), KeyState(key=NEW, handshake_s=100.5)
    )
    assert holder_of(PEER, spoke) == NEW


def test_it_stays_there_until_the_old_key_goes() -> None:
    after = _states(
        KeyState(key=OLD, handshake_s=100.0), KeyState(key=NEW, addresses=HELD, handshake_s=100.5)
    )
    assert holder_of(PEER, after) == NEW
    assert holder_of(replace(PEER, keys=(NEW,)), after) == NEW


def test_after_a_reboot_of_ours_the_oldest_key_is_tried_first() -> None:
    assert holder_of(PEER, {}) == OLD
    assert holder_of(PEER, _states(KeyState(key=OLD), KeyState(key=NEW, addresses=HELD))) == NEW
    assert holder_of(replace(PEER, keys=()), {}) is None


def test_keys_are_made_once_and_switched_once(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    first = keys.public
    keys.switch()
    assert keys.public == first, "without a next key nothing happens"
    keys.prepare()
    prepared = keys.next_public
    keys.prepare()
    assert keys.next_public == prepared != first
    keys.switch()
    keys.switch()
    assert (keys.public, keys.next_public) == (prepared, None)
    assert Keys(tmp_path / "keys").public == prepared, "a restarted agent has the same key"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == {0o600}


# ---------------------------------------------------------------- filter

_names = st.sampled_from(["t000000000001", "t000000000002", "vx-4790-1111111"])
_triples = st.frozensets(
    st.tuples(
        _names, st.sampled_from(["52:54:00:00:00:01", "52:54:00:00:00:02"]), st.sampled_from(["10.1.0.5"])
    ),
    max_size=4,
)
filters = st.builds(
    Filter,
    own=_triples,
    remote=_triples,
    links=st.frozensets(st.tuples(st.sampled_from(["100.64.0.2", "100.64.0.3"]), st.integers(4790, 4792))),
    outward=st.frozensets(st.tuples(st.sampled_from(["br-11111111", "br-22222222"]))),
)


def _apply(sets: dict[str, set[str]], commands: dict[str, Any] | None) -> None:
    """What the kernel does with element commands; a wrong deletion fails the transaction there."""
    for command in (commands or {"nftables": []})["nftables"]:
        ((verb, what),) = command.items()
        if (element := what.get("element")) is None:
            continue
        held = sets.setdefault(element["name"], set())
        values = {repr(value) for value in element["elem"]}
        if verb == "add":
            held |= values
        else:
            assert values <= held, "deletes what is not there"
            held -= values


@given(filters, filters)
def test_a_change_leads_from_one_filter_to_the_other(before: Filter, after: Filter) -> None:
    changed: dict[str, set[str]] = {}
    _apply(changed, packet_filter.change(Filter(), before))
    _apply(changed, packet_filter.change(before, after))
    _apply(changed, packet_filter.change(before, after))  # a repeat does no harm
    wanted: dict[str, set[str]] = {}
    _apply(wanted, packet_filter.change(Filter(), after))
    assert {name: held for name, held in changed.items() if held} == wanted
    assert packet_filter.change(after, after) is None


def _rules() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = packet_filter.ruleset(Filter(), underlay="eth0", listen_port=51820)[
        "nftables"
    ]
    return made


def test_every_hook_that_lets_in_drops_by_default() -> None:
    policies = {
        (chain["family"], chain["hook"]): chain["policy"]
        for command in _rules()
        if (chain := command.get("add", {}).get("chain")) and "hook" in chain
    }
    assert policies["bridge", "prerouting"] == "drop"
    assert policies["inet", "input"] == "drop"
    assert policies["inet", "forward"] == "drop"


def test_an_apply_neither_flushes_nor_fills_the_sets_with_timeouts() -> None:
    for command in _rules():
        text = repr(command)
        if packet_filter.PERMITTED in text or packet_filter.GRANTS in text:
            assert "flush" not in command
            assert "'element'" not in text


def test_the_permit_is_asked_for_before_anything_of_an_instance_is_accepted() -> None:
    first = next(
        command["add"]["rule"]["expr"]
        for command in _rules()
        if command.get("add", {}).get("rule", {}).get("chain") == "from_instance"
    )
    assert first[0]["match"] == {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "@permitted"}
    assert "drop" in first[-1]


@pytest.mark.parametrize(
    "ip", ["10.0.2.2", "10.0.2.3", "100.64.0.9", "192.168.1.1", "169.254.169.254", "127.0.0.1"]
)
def test_instances_reach_no_private_address(ip: str) -> None:
    nets = [
        IPv4Network((prefix["prefix"]["addr"], prefix["prefix"]["len"]))
        for command in _rules()
        if (rule := command.get("add", {}).get("rule")) and rule["chain"] == "forward"
        for part in rule["expr"]
        if part.get("match", {}).get("op") == "!="
        for prefix in part["match"]["right"]["set"]
    ]
    assert any(IPv4Address(ip) in net for net in nets)
    assert not any(IPv4Address("203.0.113.10") in net for net in nets)


def test_only_bridges_with_a_way_out_are_routed_and_back() -> None:
    """Whatever a connection's state: one that was made before is cut as well."""
    forwarded = [
        rule["expr"]
        for command in _rules()
        if (rule := command.get("add", {}).get("rule")) and rule["chain"] == "forward"
        if "accept" in rule["expr"][-1]
    ]
    ways = {"iifname", "oifname"}
    assert len(forwarded) == 2
    for expr in forwarded:
        (by,) = (one["match"] for one in expr if one.get("match", {}).get("right") == "@outward")
        assert by["op"] == "==" and by["left"]["meta"]["key"] in ways
        ways.remove(by["left"]["meta"]["key"])


def test_a_permit_of_no_time_only_removes() -> None:
    verbs = [next(iter(command)) for command in packet_filter.permit(["t1"], 0.4)["nftables"]]
    assert verbs == ["add", "delete"]
    assert len(packet_filter.permit(["t1", "t2"], 5)["nftables"]) == 6


# ---------------------------------------------------------------- DHCP

NETWORK = Network(
    id="11111111-0000-4000-8000-000000000000", name="red", vni=7, cidr="10.7.0.0/24", gateway="10.7.0.1"
)


def _segment(*names: str, network: Network = NETWORK) -> Any:
    located = tuple(
        Location(
            instance=f"{number:08x}-0000-4000-8000-000000000000",
            name=name,
            network=NETWORK.id,
            mac=f"52:54:00:00:00:{number:02x}",
            ip=f"10.7.0.{number + 10}",
            blanket=None,
            epoch=0,
        )
        for number, name in enumerate(names)
    )
    mesh = Mesh(address="100.64.0.1", generation=1, networks=(network,), locations=located)
    return plan(told_mesh(NOTHING, mesh), blanket="self").segments[NETWORK.id]


def test_leases_and_names_are_the_locations() -> None:
    segment = _segment("alice", "bob")
    assert dhcp.leases(segment).splitlines() == [
        "52:54:00:00:00:00,10.7.0.10,alice",
        "52:54:00:00:00:01,10.7.0.11,bob",
    ]
    assert "10.7.0.11 bob.red bob\n" in dhcp.names(segment)


def test_dnsmasq_listens_at_the_gateway_only_and_asks_one_resolver(tmp_path: Path) -> None:
    text = dhcp.configuration(_segment(), dhcp.Settings(directory=tmp_path, resolver="10.0.2.3"))
    assert re.findall(r"^listen-address=(.*)$", text, re.M) == ["10.7.0.1"]
    assert re.findall(r"^server=(.*)$", text, re.M) == ["10.0.2.3"]
    for line in ("bind-interfaces", "no-resolv", "dhcp-ignore=tag:!known", "dhcp-option=option:mtu,1370"):
        assert line in text.splitlines()


def test_a_network_without_a_way_out_is_in_no_set_of_them_and_asks_nobody_for_names(tmp_path: Path) -> None:
    closed = replace(NETWORK, outward=False)
    for network, bridges in ((NETWORK, {("br-11111111",)}), (closed, set())):
        mesh = Mesh(address="100.64.0.1", generation=1, networks=(network,))
        assert plan(told_mesh(NOTHING, mesh), blanket="self").filter.outward == bridges
    text = dhcp.configuration(_segment(network=closed), dhcp.Settings(directory=tmp_path))
    assert not re.findall(r"^server=", text, re.M) and "no-resolv" in text.splitlines()
    assert "local=/red/" in text.splitlines(), "its own names are answered for still"
