"""Security levels: a higher one never allows what a lower one refuses; what is not known holds nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.cli import bounds
from supercloud.model import levels
from supercloud.model.errors import InvalidInput
from supercloud.model.levels import RULES, Demand, Fact, Level, Mechanism, Rule, Thing
from supercloud.model.placement import Neighbour, Site, Subject, objection, ranked

pytestmark = pytest.mark.unit

_known = {
    fact: sorted({value for rule in RULES for one in rule.by for value in one.takes.get(fact, ())})
    for fact in Fact
}
#: Of every fact: a value that some mechanism takes, another one, or that it is not known.
facts = st.fixed_dictionaries(
    {}, optional={fact: st.sampled_from([*_known[fact], "other", ""]) for fact in Fact}
)
things = st.sampled_from(Thing)
BEST = {
    Fact.CONFIDENTIALITY: "enforced",
    Fact.ACCELERATOR: "kvm",
    Fact.FLAVOUR: "kvm",
    Fact.SHELL: levels.ABSENT,
    Fact.TOOLS: levels.ABSENT,
    Fact.FILTER: levels.PRESENT,
    Fact.COMPANY: levels.ABSENT,
    Fact.RIGHT: levels.STRICT,
}
HERE = Site(id="1", name="n1", domain="north", facts=BEST)


def demand(level: Level, thing: Thing = Thing.INSTANCE) -> Demand:
    return Demand(thing=thing, name="web", level=level, own=levels.own_facts(hold=False))


def allowed(level: Level, thing: Thing, at: dict[Fact, str]) -> bool:
    return levels.objection([Demand(thing=thing, name="it", level=level)], at) is None


@given(facts, things)
def test_a_higher_level_never_allows_what_a_lower_one_refuses(at: dict[Fact, str], thing: Thing) -> None:
    verdicts = [allowed(level, thing, at) for level in Level]
    assert verdicts == sorted(verdicts, reverse=True)


@given(facts)
def test_what_a_place_gives_is_the_highest_level_that_everything_is_allowed_there(
    at: dict[Fact, str],
) -> None:
    alone = {**at, Fact.COMPANY: levels.ABSENT, Fact.RIGHT: levels.STRICT}
    every = [level for level in Level if all(allowed(level, thing, alone) for thing in Thing)]
    assert levels.given(at) == (every[-1] if every else None)


@given(facts, things, st.sampled_from(Level))
def test_each_rule_is_either_held_by_something_that_gives_it_or_refused_with_a_reason(
    at: dict[Fact, str], thing: Thing, level: Level
) -> None:
    """And one verdict for each rule that the level means, whatever the facts."""
    found = levels.rulings(Demand(thing=thing, name="it", level=level), at)
    assert [one.rule for one in found] == [
        rule for rule in RULES if thing in rule.of and rule.since.rank <= level.rank
    ]
    for one in found:
        givers = [
            each for each in one.rule.by if all(at.get(fact) in each.takes[fact] for fact in each.takes)
        ]
        assert one.held == bool(givers) and (one.by in {each.name for each in givers} or not givers)
        assert bool(one.why) != one.held
    assert (levels.objection([Demand(thing=thing, name="it", level=level)], at) is None) == all(
        one.held for one in found
    )


@given(facts, things, st.sampled_from(Fact))
def test_what_is_not_known_holds_nothing(at: dict[Fact, str], thing: Thing, forgotten: Fact) -> None:
    less = {fact: value for fact, value in at.items() if fact is not forgotten}
    for level in Level:
        assert not allowed(level, thing, less) or allowed(level, thing, at)


@given(st.data())
def test_the_same_of_placement_with_whoever_is_there(data: st.DataObject) -> None:
    """A higher level, of the instance or of what it has, finds no blanket that a lower one does not."""
    level = st.sampled_from(Level)
    site = st.builds(
        Site,
        id=st.sampled_from("12"),
        name=st.just("b"),
        domain=st.just("north"),
        facts=facts.map(lambda known: {**BEST, **known}) | st.just(BEST),
    )
    sites = data.draw(st.lists(site, unique_by=lambda one: one.id, max_size=2))
    others = data.draw(
        st.lists(
            st.builds(
                Neighbour,
                name=st.sampled_from(["db", "cache"]),
                level=level,
                blankets=st.frozensets(st.sampled_from("12")),
            ),
            max_size=2,
        )
    )
    subject = Subject(
        name="web",
        vcpus=1,
        memory_mib=1,
        demands=tuple(data.draw(st.lists(st.builds(demand, level, things), max_size=3))),
    )
    higher = replace(
        subject,
        demands=tuple(
            replace(one, level=data.draw(st.sampled_from([up for up in Level if up.means(one.level)])))
            for one in subject.demands
        ),
    )
    found, _ = ranked(higher, sites, others)
    assert {one.blanket for one in found} <= {one.blanket for one in ranked(subject, sites, others)[0]}
    for choice in found:
        near = [one for one in others if choice.blanket in one.blankets]
        own = [one.level for one in higher.demands if one.thing is Thing.INSTANCE]
        assert not near or not any(levels.stays_alone(one) for one in own)
        assert not any(levels.stays_alone(one.level) for one in near), "it holds both ways"


def test_every_level_can_be_had_where_everything_is_given_and_each_adds_something() -> None:
    for thing in Thing:
        assert allowed(Level.ISOLATED, thing, BEST)
        counts = [len(levels.rules_of(level, thing)) for level in Level]
        assert counts == sorted(set(counts)), f"each level of a {thing} means more than the one below"
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("fact", "value", "level", "why"),
    [
        (Fact.FLAVOUR, "xen", Level.OPEN, "the blanket's flavour is xen, not kvm or tcg"),
        (Fact.SHELL, levels.PRESENT, Level.BASELINE, "debug shell on the blanket's console is present"),
        (Fact.TOOLS, levels.PRESENT, Level.BASELINE, "access of libvirt tools to the blanket is present"),
        (Fact.FLAVOUR, "tcg", Level.HARDENED, "the blanket's flavour is tcg, not kvm"),
        (Fact.ACCELERATOR, "tcg", Level.HARDENED, "the platform's accelerator is tcg, not kvm"),
        (Fact.RIGHT, levels.HOLD, Level.HARDENED, "the mode of its run right is hold, not strict"),
        (Fact.CONFIDENTIALITY, "procedural", Level.ISOLATED, "confidentiality is procedural, not enforced"),
        (Fact.COMPANY, levels.PRESENT, Level.ISOLATED, "company in the blanket is present, not absent"),
    ],
)
def test_each_fact_decides_from_its_level_on_and_says_so(
    fact: Fact, value: str, level: Level, why: str
) -> None:
    for one in Level:
        said = levels.objection([Demand(thing=Thing.INSTANCE, name="web", level=one)], {**BEST, fact: value})
        assert (said is not None) == one.means(level)
    assert said is not None and said.startswith("instance web is isolated (") and why in said


def test_only_a_network_needs_the_filter_of_ways_out() -> None:
    older = {fact: value for fact, value in BEST.items() if fact is not Fact.FILTER}
    assert allowed(Level.ISOLATED, Thing.VOLUME, older) and not allowed(Level.ISOLATED, Thing.NETWORK, older)
    assert levels.has(Level.ISOLATED, Thing.NETWORK, levels.NO_WAY_OUT)
    assert not levels.has(Level.HARDENED, Thing.NETWORK, levels.NO_WAY_OUT)


def test_a_rule_that_nothing_gives_is_not_given_anywhere() -> None:
    found = levels.ruling(Rule(name="new", says="x", since=Level.OPEN, of=frozenset(Thing), by=()), BEST)
    assert not found.held and found.why == "nothing gives it yet"


def test_of_several_mechanisms_any_one_holds_a_rule() -> None:
    one, two = (Mechanism(name=name, takes={Fact.FLAVOUR: frozenset({name})}) for name in ("kvm", "xen"))
    rule = Rule(name="new", says="x", since=Level.OPEN, of=frozenset(Thing), by=(one, two))
    assert [levels.ruling(rule, {Fact.FLAVOUR: name}).by for name in ("kvm", "xen", "tcg")] == [
        "kvm",
        "xen",
        None,
    ]
    assert levels.ruling(rule, {Fact.FLAVOUR: "tcg"}).why.count("the blanket's flavour is tcg") == 2


def test_what_a_thing_is_itself_is_refused_before_any_place_is_looked_for() -> None:
    holds = replace(demand(Level.HARDENED), own=levels.own_facts(hold=True))
    with pytest.raises(
        InvalidInput, match=r"instance web cannot be hardened .*the mode of its run right is hold"
    ):
        levels.check_own(holds)
    levels.check_own(replace(holds, level=Level.BASELINE))
    levels.check_own(demand(Level.ISOLATED))


def test_a_refusal_of_placement_names_level_rule_and_reason() -> None:
    subject = Subject(name="web", vcpus=1, memory_mib=1, demands=(demand(Level.HARDENED, Thing.NETWORK),))
    said = objection(subject, replace(HERE, facts={**BEST, Fact.ACCELERATOR: "tcg"}))
    assert said == (
        "network web is hardened (the processor keeps the blanket apart from what else the platform runs), "
        "and the platform's accelerator is tcg, not kvm"
    )
    alone = [Neighbour(name="db", level=Level.ISOLATED, blankets=frozenset("1"))]
    said = objection(subject, HERE, alone)
    assert said == "db, which is isolated and stays alone in its blanket, is there"


def test_the_command_lines_levels_are_these() -> None:
    assert get_args(bounds.Level) == tuple(Level)
