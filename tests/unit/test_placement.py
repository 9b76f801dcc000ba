"""Where an instance may be: what is chosen fulfils all that is asked, and what is not says why."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.model.errors import InvalidInput, Refused
from supercloud.model.placement import (
    ANYWHERE,
    Apart,
    Confidentiality,
    Cost,
    Neighbour,
    Placement,
    Price,
    Site,
    Subject,
    choose,
    is_within,
    objection,
    ranked,
)

pytestmark = pytest.mark.unit
ENFORCED, PROCEDURAL = Confidentiality.ENFORCED, Confidentiality.PROCEDURAL
EURO = Price(currency="EUR", vcpu_hour="0.01", gib_hour="0.002")
WEB = Subject(name="web", vcpus=2, memory_mib=1024)
HERE = Site(id="1", name="n1", domain="north", location="de-by", price=EURO)

_domains = st.sampled_from(["north", "south", "east"])
_locations = st.sampled_from(["de", "de-by", "de-b", "fr"])
_amounts = st.sampled_from(["0", "0.01", "0.03", "1.5"])
_currencies = st.sampled_from(["EUR", "USD"])
_names = st.lists(st.sampled_from(["db", "cache", "shop"]), unique=True, max_size=2).map(tuple)
placements = st.builds(
    Placement,
    domains=st.lists(_domains, unique=True, max_size=2).map(tuple),
    not_domains=st.lists(_domains, unique=True, max_size=1).map(tuple),
    locations=st.lists(_locations, unique=True, max_size=2).map(tuple),
    max_cost=st.none() | st.builds(Cost, amount=_amounts, currency=_currencies),
    confidentiality=st.sampled_from([None, *Confidentiality]),
    apart_from=_names,
    apart_by=st.sampled_from(Apart),
)
subjects = st.builds(
    Subject,
    name=st.just("web"),
    vcpus=st.integers(1, 4),
    memory_mib=st.sampled_from([512, 2048]),
    placement=placements,
    group=st.sampled_from([None, "shop"]),
)
sites = st.lists(
    st.builds(
        Site,
        id=st.sampled_from("123456"),
        name=st.just(""),
        domain=_domains,
        location=st.none() | _locations,
        price=st.none() | st.builds(Price, currency=_currencies, vcpu_hour=_amounts, gib_hour=_amounts),
        confidentiality=st.sampled_from(Confidentiality),
        closed=st.sampled_from(["", "", "it is failed"]),
        connected=st.booleans(),
        free_mib=st.none() | st.sampled_from([0, 1024, 4096]),
        instances=st.integers(0, 3),
    ),
    unique_by=lambda one: one.id,
    max_size=6,
).map(lambda found: [replace(one, name=f"b{one.id}") for one in found])


@st.composite
def neighbours(draw: st.DrawFn, at: list[Site]) -> list[Neighbour]:
    found = []
    for name in draw(st.lists(st.sampled_from(["db", "cache"]), unique=True)):
        there = draw(st.lists(st.sampled_from(at), unique_by=lambda one: one.id, max_size=2)) if at else []
        found.append(
            Neighbour(
                name=name,
                group=draw(st.sampled_from([None, "shop"])),
                placement=draw(
                    placements.map(lambda one: replace(one, apart_from=()))
                    | st.just(Placement(apart_from=("web",)))
                    | st.just(Placement(apart_from=("shop",)))
                ),
                blankets=frozenset(one.id for one in there),
                domains=frozenset(one.domain for one in there),
            )
        )
    return found


@given(subjects, sites, st.data())
def test_what_is_chosen_fulfils_what_is_asked_and_nothing_better_is_passed_over(
    subject: Subject, there: list[Site], data: st.DataObject
) -> None:
    others = data.draw(neighbours(there))
    found, refused = ranked(subject, there, others)
    by_id = {one.id: one for one in there}
    assert {one.name for one in found}.isdisjoint(refused)
    assert len(found) + len(refused) == len(there) and all(refused.values())
    asked = subject.placement
    for choice in found:
        site = by_id[choice.blanket]
        assert choice.reason and not site.closed and site.domain not in asked.not_domains
        assert not asked.domains or site.domain in asked.domains
        assert not asked.locations or any(is_within(site.location or "", one) for one in asked.locations)
        assert asked.confidentiality is not ENFORCED or site.confidentiality is ENFORCED
        if asked.max_cost is not None:
            assert site.price is not None and site.price.currency == asked.max_cost.currency
            cost = site.price.of(subject.vcpus, subject.memory_mib)
            assert cost <= Decimal(asked.max_cost.amount)
        assert site.free_mib is None or site.free_mib >= subject.memory_mib
        for one in others:
            near = site.id in one.blankets
            mine = {one.name, one.group} & set(asked.apart_from)
            theirs = {subject.name, subject.group} & set(one.placement.apart_from)
            assert not (near and (mine or theirs))
            if mine and asked.apart_by is Apart.DOMAIN:
                assert site.domain not in one.domains
    order = [(not by_id[one.blanket].connected, by_id[one.blanket].instances) for one in found]
    assert order == sorted(order)
    if found:
        assert choose(subject, there, others) == found[0]
    else:
        with pytest.raises(Refused) as caught:
            choose(subject, there, others)
        assert all(f"{name}: {why}" in caught.value.message for name, why in refused.items())


@given(subjects, sites, st.data())
def test_asking_for_more_never_finds_more(subject: Subject, there: list[Site], data: st.DataObject) -> None:
    others = data.draw(neighbours(there))
    less = replace(subject, placement=replace(ANYWHERE, apart_from=subject.placement.apart_from[:1]))
    more = replace(subject, placement=replace(subject.placement, apart_by=Apart.BLANKET))
    strict = {one.name for one in ranked(more, there, others)[0]}
    assert strict <= {one.name for one in ranked(less, there, others)[0]}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Placement(domains=("south", "east")), "domain north is not among south, east"),
        (Placement(not_domains=("north",)), "domain north is denied"),
        (Placement(locations=("fr", "de-b")), "domain north is in de-by, not in fr or de-b"),
        (Placement(max_cost=Cost(amount="0.021", currency="EUR")), "costs 0.022 EUR, more than 0.021 EUR"),
        (Placement(max_cost=Cost(amount="9", currency="USD")), "paid in EUR, the limit is in USD"),
        (Placement(confidentiality=ENFORCED), "does not enforce confidentiality"),
        (Placement(apart_from=("db",)), "db, which it is kept apart from, is there"),
        (
            Placement(apart_from=("shop",), apart_by=Apart.DOMAIN),
            "db, which it is kept apart from, is in domain",
        ),
    ],
)
def test_each_demand_says_why_it_is_not_fulfilled(asked: Placement, why: str) -> None:
    others = [Neighbour(name="db", group="shop", blankets=frozenset("1"), domains=frozenset({"north"}))]
    said = objection(replace(WEB, placement=asked), HERE, others)
    assert said is not None and why in said


def test_what_a_provider_does_not_say_fulfils_no_demand() -> None:
    silent = Site(id="1", name="n1", domain="north")
    for asked in (Placement(locations=("de",)), Placement(max_cost=Cost(amount="9", currency="EUR"))):
        said = objection(replace(WEB, placement=asked), silent)
        assert said is not None and "does not say" in said


def test_costs_are_exact() -> None:
    tenth = replace(HERE, price=Price(currency="EUR", vcpu_hour="0.1"))
    asked = Placement(max_cost=Cost(amount="0.3", currency="EUR"))
    assert objection(replace(WEB, vcpus=3, placement=asked), tenth) is None, "3 times 0.1 is 0.3"


def test_the_fewest_instances_then_the_lowest_price() -> None:
    dear = replace(HERE, id="2", name="a1", price=replace(EURO, vcpu_hour="0.02"))
    full = replace(HERE, id="3", name="c1", instances=2)
    chosen = choose(WEB, [full, dear, HERE])
    assert (chosen.name, chosen.reason) == ("n1", "it has no instance, the fewest of 3 blankets")
    chosen = choose(
        replace(WEB, placement=Placement(domains=("south",))), [HERE, replace(full, domain="south")]
    )
    assert (chosen.name, chosen.reason) == ("c1", "the only blanket that fits, 1 does not")


def test_what_nothing_could_fulfil_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match="both allowed and denied"):
        Placement(domains=("north",), not_domains=("north",)).check("web")
    with pytest.raises(InvalidInput, match="apart from itself"):
        Placement(apart_from=("web",)).check("web")
