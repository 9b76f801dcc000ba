"""The horizontal loop's own part: who may be spoken of, where something is done, what belongs together."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.model.errors import Refused
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.model.names import Id
from supercloud.model.reactions import Command, Deed
from supercloud.security.decide import proven_source
from supercloud.security.engine import Engine
from supercloud.security.horizontal import (
    ESCALATED,
    OPEN,
    TAKES,
    ByWhatIsShared,
    Known,
    Let,
    Own,
    Place,
    sightings,
    targets,
)
from supercloud.security.policy import NOTHING

pytestmark = pytest.mark.unit


def name(number: int) -> Id:
    return str(uuid.UUID(int=number))


MINE, THEIRS = name(1), name(2)
HERE, THERE, FAR = (Place(blanket=name(10 + n), cloud=MINE, domain=name(20 + n)) for n in range(3))
ABROAD = Place(blanket=name(15), cloud=THEIRS, domain=name(25))
WORM, OTHER = name(100), name(101)
ADDRESS = "10.20.0.5"


def incident(*seen: Seen, state: IncidentState = IncidentState.OPEN) -> Incident:
    return Incident(
        id=name(500),
        domain=HERE.blanket,
        cloud=MINE,
        state=state,
        severity=Severity.HIGH,
        title="a scan",
        opened_at=1.0,
        last_at=2.0,
        objects=tuple(one.object for one in seen),
        seen=seen,
        findings=1,
    )


def saw(instance: Id = WORM, *, many: int = 1, rule: str = "scan", source: str | None = ADDRESS) -> Seen:
    about = Object(kind=ObjectKind.INSTANCE, id=instance)
    return Seen(rule=rule, layer=Layer.L2, object=about, first=1.0, last=2.0, many=many, source=source)


def test_only_what_is_new_is_told_and_each_time_as_another_finding() -> None:
    held = {WORM: [ADDRESS]}
    first = sightings(incident(saw()), None, HERE, held)
    assert [(one.rule, one.by, one.domain) for one in first] == [("scan", HERE.blanket, HERE.domain)]
    assert proven_source(first[0]) == ADDRESS
    assert sightings(incident(saw()), incident(saw()), HERE, held) == []
    again = sightings(incident(saw(many=2)), incident(saw()), HERE, held)
    assert len(again) == 1 and again[0].id != first[0].id
    assert sightings(incident(saw()), None, HERE, held) == first, "the same is the same"


def test_a_blanket_speaks_of_what_it_holds_and_of_itself() -> None:
    itself = replace(saw(source=None), object=Object(kind=ObjectKind.MACHINE, id=HERE.blanket))
    another = replace(itself, object=Object(kind=ObjectKind.MACHINE, id=THERE.blanket))
    domain = replace(itself, object=Object(kind=ObjectKind.DOMAIN, id=HERE.domain))
    said = incident(itself, another, domain, saw(), saw(OTHER))
    found = sightings(said, None, HERE, {WORM: ()})
    assert [one.object.id for one in found] == [HERE.blanket, WORM]
    assert all(proven_source(one) is None for one in found), "no address of its own was told"


def test_what_it_cannot_settle_is_told_once() -> None:
    stuck = incident(saw(), state=IncidentState.ESCALATED)
    assert [one.rule for one in sightings(stuck, None, HERE, {WORM: ()})] == ["scan", ESCALATED]
    assert [one.rule for one in sightings(stuck, incident(saw()), HERE, {WORM: ()})] == [ESCALATED]
    assert sightings(stuck, stuck, HERE, {WORM: ()}) == []


# ---------------------------------------------------------------- where


def deny(about: Id = WORM, net: str = ADDRESS) -> Command:
    return Command(
        id=name(900),
        deed=Deed.DENY,
        about=Object(kind=ObjectKind.INSTANCE, id=about),
        until=100.0,
        net=net,
    )


def contain(about: Id = WORM) -> Command:
    return replace(deny(about), deed=Deed.CONTAIN, net=None)


def known(**more: Any) -> Known:
    values: dict[str, Any] = {
        "cloud": MINE,
        "places": [HERE, THERE, FAR],
        "nets": ["10.20.0.0/24"],
        "named": [Own(instance=WORM, cloud=MINE, holder=HERE.blanket)],
    }
    return Known(**values | more)


def let(*reactions: str, nets: tuple[str, ...] = (), until: float = 50.0) -> Let:
    return Let(place=ABROAD, relation=name(70), until=until, reactions=frozenset(reactions), nets=nets)


def blankets(command: Command, about: Known) -> list[Id]:
    return [one.place.blanket for one in targets(command, about)]


def test_an_address_is_denied_everywhere_but_where_it_is() -> None:
    assert blankets(deny(), known()) == [THERE.blanket, FAR.blanket]
    ids = [one.command.id for one in targets(deny(), known())]
    assert len(set(ids)) == 2 and deny().id not in ids
    assert ids == [one.command.id for one in targets(deny(), known())], "asked again, it is the same order"
    other = targets(deny(), known(cloud=THEIRS, nets=(), named=[Own(instance=WORM, cloud=MINE, holder=None)]))
    assert not {one.command.id for one in other} & set(ids), "another cloud's order is another"


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (known(named=[*known().named, Own(instance=OTHER, cloud=MINE, holder=None)]), "another instance"),
        (known(named=[Own(instance=WORM, cloud=THEIRS, holder=None)]), "in a network of this cloud's"),
        (known(named=[]), "in a network of this cloud's"),
        (known(places=[HERE]), "no blanket"),
    ],
    ids=["two", "anothers", "nobodys", "nowhere"],
)
def test_an_address_that_may_be_somebody_elses_is_left_alone(about: Known, why: str) -> None:
    with pytest.raises(Refused, match=why):
        targets(deny(), about)


def test_at_another_cloud_only_what_it_lets_be_ordered_and_no_longer() -> None:
    assert ABROAD.blanket not in blankets(deny(), known(let=[let("contain:device")]))
    found = targets(deny(), known(let=[let("deny:ipv4_net"), let("deny:ipv4_net", until=40.0)]))
    (theirs,) = [one for one in found if one.place is ABROAD]
    assert (theirs.relation, theirs.command.until) == (name(70), 50.0)
    own_there = known(let=[let("deny:ipv4_net", nets=("10.20.0.0/16",))])
    assert ABROAD.blanket not in blankets(deny(), own_there), "there that address is another's"
    same = known(
        named=[*known().named, Own(instance=OTHER, cloud=THEIRS, holder=ABROAD.blanket)],
        let=[let("deny:ipv4_net")],
    )
    assert ABROAD.blanket not in blankets(deny(), same)


def test_an_instance_is_contained_where_it_is() -> None:
    assert blankets(contain(), known()) == [HERE.blanket]
    moved = known(named=[Own(instance=WORM, cloud=MINE, holder=FAR.blanket)])
    assert blankets(contain(), moved) == [FAR.blanket]
    theirs = [Own(instance=WORM, cloud=THEIRS, holder=ABROAD.blanket)]
    assert blankets(contain(), known(named=theirs, let=[let("contain:device")])) == [ABROAD.blanket]
    for about, why in (
        (known(named=[]), "no instance"),
        (known(named=[Own(instance=WORM, cloud=MINE, holder=None)]), "runs nowhere"),
        (known(named=theirs), "does not let"),
        (known(named=theirs, let=[let("deny:ipv4_net")]), "does not let"),
        # Not its own blanket, whatever the books say: a cloud's relation is about its own machines only.
        (known(named=[Own(instance=WORM, cloud=name(3), holder=ABROAD.blanket)], let=[let("contain:device")]),
         "does not let"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=why):
            targets(contain(), about)


@given(
    st.lists(st.sampled_from([WORM, OTHER]), unique=True),
    st.sampled_from([MINE, THEIRS]),
    st.sampled_from([None, HERE.blanket, ABROAD.blanket]),
    st.sampled_from(["10.20.0.5", "10.30.0.5", "198.51.100.7"]),
    st.booleans(),
)
def test_nobody_is_denied_where_its_address_is_anothers(
    named: list[Id], cloud: Id, holder: Id | None, net: str, trusted: bool
) -> None:
    about = known(
        named=[Own(instance=one, cloud=cloud, holder=holder) for one in named],
        let=[let("deny:ipv4_net", nets=("10.30.0.0/24",))] if trusted else [],
    )
    try:
        found = targets(deny(net=net), about)
    except Refused:
        return
    for one in found:
        inside = {MINE: "10.20.", THEIRS: "10.30."}[one.place.cloud]
        if net.startswith(inside):
            assert WORM in named and cloud == one.place.cloud
        assert not (OTHER in named and cloud == one.place.cloud)


# ---------------------------------------------------------------- what belongs together


def test_the_same_object_address_or_rule_is_one_incident() -> None:
    engine = Engine(NOTHING, takes=TAKES, joining=ByWhatIsShared(), most=OPEN)
    (one,) = sightings(incident(saw()), None, HERE, {WORM: [ADDRESS]})
    (two,) = sightings(incident(saw(OTHER, source="10.20.0.6")), None, THERE, {OTHER: ["10.20.0.6"]})
    (three,) = sightings(incident(saw(rule="flood")), None, FAR, {WORM: [ADDRESS]})
    (four,) = sightings(incident(saw(name(102), rule="odd", source=None)), None, FAR, {name(102): ()})
    joined = {engine.take(found, 2.0)[0].id for found in (one, two, three)}
    assert len(joined) == 1
    assert engine.take(four, 2.0)[0].id not in joined
    engine.close(next(iter(joined)), by="me", undo=False, now=3.0)
    assert engine.take(two, 4.0)[0].id not in engine.incidents or len(engine.incidents) == 2


def test_open_incidents_are_bounded() -> None:
    engine = Engine(NOTHING, takes=TAKES, joining=ByWhatIsShared(), most=3)
    for number in range(9):
        instance = name(200 + number)
        (found,) = sightings(incident(saw(instance, rule=f"r{number}")), None, HERE, {instance: ()})
        engine.take(found, 2.0)
    assert len(engine.incidents) == 3
