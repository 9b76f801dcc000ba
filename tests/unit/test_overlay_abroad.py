"""What a blanket lets pass between its cloud and others, whatever it is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.blanket.overlay import filter as packet_filter
from supercloud.blanket.overlay.plan import MESH_NET, NOTHING, Filter, Plan, plan, told_mesh
from supercloud.ports.overlay import Abroad, Foreigner, ForeignPeer, Location, Mesh, Network, Passage, Peer

pytestmark = pytest.mark.unit
#: What is told is drawn of much, which takes a while on a busy machine.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SELF = "00000000-0000-4000-8000-000000000000"
NOW = 1000.0


def _id(kind: int, number: int) -> str:
    return f"{number:04x}{kind:04x}-0000-4000-8000-{number:012x}"


def _key(number: int) -> str:
    return f"{number:043d}="


PEER = Peer(blanket=_id(1, 1), address="100.64.0.2", endpoint=None, keys=(_key(1), _key(2)), vxlan_port=4790)
OPEN, SHUT = (
    Network(
        id=_id(2, number),
        name=f"net{number}",
        vni=number,
        cidr=f"10.{number}.0.0/24",
        gateway=f"10.{number}.0.1",
        outward=outward,
    )
    for number, outward in ((1, True), (2, False))
)
HERE = Location(
    instance=_id(3, 1),
    name="web",
    network=OPEN.id,
    mac="52:54:00:00:00:01",
    ip="10.1.0.9",
    blanket=SELF,
    epoch=1,
)
MESH = Mesh(address="100.64.0.1", generation=1, peers=(PEER,), networks=(OPEN, SHUT), locations=(HERE,))
FOREIGN = _id(2, 9)
PASSAGE = Passage(
    relation=_id(4, 1), network=OPEN.id, other=FOREIGN, cidr="10.9.0.0/24", inward=True, left_s=60.0
)
THERE = Foreigner(instance=_id(3, 9), network=FOREIGN, ip="10.9.0.5", blanket=_id(1, 9), epoch=1)
THEIRS = ForeignPeer(blanket=_id(1, 9), cloud=_id(5, 9), endpoint=None, keys=(_key(9),))

#: Honest and not: networks that overlap with ours, with the mesh, with one another, or are none.
_cidrs = st.sampled_from(
    [
        "10.9.0.0/24",
        "10.8.0.0/24",
        "10.9.0.128/25",
        "10.1.0.0/24",
        "10.0.0.0/8",
        "100.64.0.0/16",
        "0.0.0.0/0",
        "10.9.0.1/24",
    ]
)
_networks = st.sampled_from([OPEN.id, SHUT.id, FOREIGN, _id(2, 8), _id(2, 99)])
passages = st.builds(
    Passage,
    relation=st.sampled_from([_id(4, number) for number in range(1, 5)]),
    network=_networks,
    other=_networks,
    cidr=_cidrs,
    inward=st.booleans(),
    left_s=st.floats(-10, 100),
)
foreigners = st.builds(
    Foreigner,
    instance=st.sampled_from([_id(3, number) for number in range(6, 10)]),
    network=_networks,
    ip=st.sampled_from(
        ["10.9.0.5", "10.9.0.200", "10.8.0.5", "10.1.0.9", "10.9.0.0", "10.9.0.255", "100.64.0.2", "8.8.8.8"]
    ),
    blanket=st.sampled_from([SELF, PEER.blanket, *(_id(1, number) for number in range(7, 10))]),
    epoch=st.integers(0, 3),
)
foreign_peers = st.builds(
    ForeignPeer,
    blanket=st.sampled_from([PEER.blanket, *(_id(1, number) for number in range(7, 10))]),
    cloud=st.just(_id(5, 9)),
    endpoint=st.none(),
    keys=st.lists(st.sampled_from([_key(number) for number in (1, 7, 8, 9)]), max_size=2).map(tuple),
)
abroads = st.builds(
    Abroad,
    peers=st.lists(foreign_peers, max_size=4).map(tuple),
    instances=st.lists(foreigners, max_size=6).map(tuple),
    passages=st.lists(passages, max_size=4, unique_by=lambda one: one.relation).map(tuple),
)


def _planned(abroad: Abroad, *, later: float = 0.0) -> Plan:
    known = told_mesh(NOTHING, replace(MESH, abroad=abroad), now=NOW)
    return plan(known, blanket=SELF, now=NOW + later)


def _foreign(made: Plan) -> dict[str, frozenset[str]]:
    """Each foreign speaker's addresses."""
    return {one.blanket: one.addresses for one in made.speakers if one.blanket != PEER.blanket}


@patient
@given(abroads, st.floats(0, 120))
def test_nothing_passes_that_no_relation_covers(abroad: Abroad, later: float) -> None:
    made = _planned(abroad, later=later)
    live = [
        one
        for one in abroad.passages
        if one.left_s > later and one.network == OPEN.id  # a closed network is connected with none
    ]
    for (begins, reached), end in made.filter.reach.items():
        covering = [
            one
            for one in live
            if (begins, reached) == ((one.cidr, OPEN.cidr) if one.inward else (OPEN.cidr, one.cidr))
        ]
        assert end <= NOW + max(one.left_s for one in covering)
    assert made.routes == {cidr for pair in made.filter.reach for cidr in pair} - {OPEN.cidr}
    for cidr in made.routes:
        others = [MESH_NET, *(IPv4Network(one.cidr) for one in MESH.networks)]
        others += [IPv4Network(other) for other in made.routes - {cidr}]
        assert not any(IPv4Network(cidr).overlaps(other) for other in others)


@patient
@given(abroads, st.floats(0, 120))
def test_a_foreign_blanket_is_heard_from_its_own_instances_of_connected_networks_only(
    abroad: Abroad, later: float
) -> None:
    made = _planned(abroad, later=later)
    told = {
        (one.blanket, f"{one.ip}/32")
        for one in abroad.instances
        for passage in abroad.passages
        if passage.other == one.network and passage.left_s > later and passage.network == OPEN.id
    }
    for blanket, addresses in _foreign(made).items():
        assert {(blanket, address) for address in addresses} <= told
        for address in addresses:
            assert any(IPv4Address(address.removesuffix("/32")) in IPv4Network(one) for one in made.routes)
    heard = [address for one in made.speakers for address in one.addresses]
    assert len(heard) == len(set(heard)), "one address from two blankets"
    keys = [key for one in made.speakers for key in set(one.keys)]
    assert len(keys) == len(set(keys)), "one key of two blankets"


@patient
@given(abroads)
def test_the_own_mesh_is_as_without(abroad: Abroad) -> None:
    made, alone = _planned(abroad), _planned(Abroad())
    assert made.speakers[:1] == alone.speakers and made.segments == alone.segments
    assert replace(made.filter, reach={}) == alone.filter
    assert alone.filter.reach == {} and alone.routes == frozenset()


def test_a_live_relation_lets_through_what_it_is_about() -> None:
    honest = Abroad(peers=(THEIRS,), instances=(THERE,), passages=(PASSAGE,))
    made = _planned(honest)
    assert made.filter.reach == {("10.9.0.0/24", "10.1.0.0/24"): NOW + 60}
    assert _foreign(made) == {THEIRS.blanket: {"10.9.0.5/32"}} and made.routes == {"10.9.0.0/24"}
    outward = _planned(replace(honest, passages=(replace(PASSAGE, inward=False),)))
    assert outward.filter.reach == {("10.1.0.0/24", "10.9.0.0/24"): NOW + 60}
    over = _planned(honest, later=60.0)
    assert over.filter.reach == {} and _foreign(over) == {} and over.routes == frozenset()
    shut = _planned(replace(honest, passages=(replace(PASSAGE, network=SHUT.id),)))
    assert shut.filter.reach == {} and _foreign(shut) == {}


def test_a_key_of_somebody_else_takes_no_address_from_there() -> None:
    thief = replace(THEIRS, keys=(_key(1),))
    made = _planned(Abroad(peers=(thief,), instances=(THERE,), passages=(PASSAGE,)))
    assert [one.blanket for one in made.speakers] == [PEER.blanket]


@patient
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=6))
def test_told_again_it_ends_no_later(told: list[tuple[float, float]]) -> None:
    """(seconds since the one before, how long it is said to last)."""
    known, now, ends = NOTHING, NOW, []
    for number, (passed, left_s) in enumerate(told):
        now += passed
        abroad = Abroad(passages=(replace(PASSAGE, left_s=left_s),))
        known = told_mesh(known, replace(MESH, generation=number + 1, abroad=abroad), now=now)
        ends.append(now + left_s)
        assert known.ends == {PASSAGE.relation: min(ends)}
    known = told_mesh(known, replace(MESH, generation=99), now=now)
    assert known.ends == {}


def test_an_instance_abroad_goes_back_to_no_lower_epoch() -> None:
    abroad = Abroad(peers=(THEIRS,), instances=(replace(THERE, epoch=3),), passages=(PASSAGE,))
    known = told_mesh(NOTHING, replace(MESH, abroad=abroad), now=NOW)
    late = replace(abroad, instances=(replace(THERE, blanket=_id(1, 8), epoch=2),))
    assert told_mesh(known, replace(MESH, abroad=late), now=NOW).foreigners == abroad.instances


# ---------------------------------------------------------------- in the kernel's set

_pairs = st.dictionaries(
    st.tuples(st.sampled_from(["10.9.0.0/24", "10.8.0.0/24"]), st.just("10.1.0.0/24")),
    st.floats(NOW - 5, NOW + 50),
)


def _carried_out(held: dict[str, int], commands: dict[str, Any] | None) -> dict[str, int]:
    for command in (commands or {"nftables": []})["nftables"]:
        ((verb, what),) = command.items()
        for one in what["element"]["elem"]:
            value = one.get("elem", {"val": one})
            if verb == "delete":
                del held[repr(value["val"])]  # what is not there fails the transaction
            else:
                held.setdefault(repr(value["val"]), value.get("timeout", 0))
    return held


@patient
@given(_pairs, _pairs)
def test_elements_last_no_longer_than_their_relation(before: Any, after: Any) -> None:
    held = _carried_out({}, packet_filter.change(Filter(), Filter(reach=before), now=NOW))
    changed = packet_filter.change(Filter(reach=before), Filter(reach=after), now=NOW)
    held = _carried_out(held, changed)
    anew = _carried_out({}, packet_filter.change(Filter(), Filter(reach=after), now=NOW))
    assert held == anew
    assert len(held) == sum(int(end - NOW) > 0 for end in after.values())
    lasting = sorted(timeout for timeout in held.values())
    assert all(timeout > 0 for timeout in lasting)
    assert lasting == sorted(int(end - NOW) for end in after.values() if int(end - NOW) > 0)


def test_only_what_begins_or_answers_crosses() -> None:
    """Each rule that lets a packet through between clouds asks the set for its two addresses."""
    rules = [
        rule
        for command in packet_filter.ruleset(Filter(), underlay="eth0", listen_port=51820)["nftables"]
        if (rule := command.get("add", {}).get("rule")) and rule["chain"] in {"to_abroad", "from_abroad"}
    ]
    letting = [rule["expr"] for rule in rules if "accept" in rule["expr"][-1]]
    assert len(letting) == 5
    for expr in letting:
        assert sum(one.get("match", {}).get("right") == "@reach" for one in expr) == 1
    assert "drop" in rules[-1]["expr"][-1]
