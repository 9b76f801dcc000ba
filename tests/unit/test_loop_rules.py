"""Rules: Sigma's syntax into conditions, conditions and correlations over events."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
import time
import uuid
from subprocess import run
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.names import Id
from supercloud.security import usual
from supercloud.security.detectors import told
from supercloud.security.events import SOURCES, Event, Stand, take
from supercloud.security.match import compiled, wildcard
from supercloud.security.rules import Match, Rules
from supercloud.security.sigma import Lack, Loaded, load
from supercloud.security.terms import Has, Like, RuleSet
from supercloud.security.windows import GROUPS
from supercloud.wire.codec import from_json, to_json

pytestmark = pytest.mark.unit
DOMAIN, CLOUD = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
ONE, OTHER = str(uuid.UUID(int=11)), str(uuid.UUID(int=12))
STAND = Stand(
    detector="port",
    layer=Layer.L2,
    domain=DOMAIN,
    cloud=CLOUD,
    objects=lambda _: Object(kind=ObjectKind.INSTANCE, id=ONE),
    proves=True,
)


def event(at: float = 0.0, *, about: Id = ONE, uid: str | None = None, **fields: Any) -> Event:
    return Event(
        uid=uid or f"{about}-{at}-{sorted(fields.items())}",
        source="firewall",
        at=at,
        stand=STAND,
        about=Object(kind=ObjectKind.INSTANCE, id=about),
        fields={"object": about, "layer": "L2", **fields},
    )


def rule(detection: str, *, id: str = "one", source: str = "category: firewall", more: str = "") -> str:
    return f"title: A {id}\nname: {id}\nlevel: high\nlogsource:\n  {source}\ndetection:\n{detection}\n{more}"


def sigma(*texts: str) -> Loaded:
    return load([(f"{number}.yml", text.encode()) for number, text in enumerate(texts)])


def rules(*texts: str) -> Rules:
    found = sigma(*texts)
    assert found.unserved == ()
    return Rules(found.rules)


def seen(of: Rules, *events: Event) -> list[Match]:
    return [match for one in events for match in of.see(one)]


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize(
    ("detection", "yes", "no"),
    [
        ("dst_port: 22", {"dst_port": 22}, {"dst_port": 23}),
        ("dst_port: 22", {"dst_port": "22"}, {}),
        ("dst_port|gte: 1024", {"dst_port": 1024}, {"dst_port": 1023}),
        ("dst_port|lt: 1024", {"dst_port": 22}, {"dst_port": "x"}),
        ("action: DENY", {"action": "deny"}, {"action": "denyed"}),
        ("action|cased: DENY", {"action": "DENY"}, {"action": "deny"}),
        ("action|startswith: de", {"action": "Deny"}, {"action": "xdeny"}),
        ("action|endswith: ny", {"action": "DENY"}, {"action": "denyx"}),
        ("action|contains: en", {"action": "DENY"}, {"action": "dny"}),
        ("action|contains|all: [d, y]", {"action": "deny"}, {"action": "den"}),
        ("action: d?n*", {"action": "denying"}, {"action": "dny"}),
        (r"action: a\*b", {"action": "a*b"}, {"action": "axb"}),
        ("action|re: '^d.*y$'", {"action": "deny"}, {"action": "DENY"}),
        ("action|re|i: '^d.*y$'", {"action": "DENY"}, {"action": "den"}),
        ("src_ip|cidr: 10.1.0.0/16", {"src_ip": "10.1.2.3"}, {"src_ip": "10.2.2.3"}),
        ("src_ip|cidr: 10.1.0.0/16", {"src_ip": "10.1.2.3"}, {"src_ip": "no address"}),
        ("action: null", {}, {"action": "deny"}),
        ("action: ''", {"action": ""}, {"action": "deny"}),
        ("action|exists: true", {"action": "x"}, {}),
        ("action|exists: false", {}, {"action": "x"}),
        ("src_ip|fieldref: dst_ip", {"src_ip": "1.1.1.1", "dst_ip": "1.1.1.1"}, {"src_ip": "1.1.1.1"}),
        ("dst_port: [22, 23]", {"dst_port": 23}, {"dst_port": 24}),
        ("action|windash|contains: ' -a '", {"action": "x /a y"}, {"action": "x a y"}),
        ("action|base64offset|contains: 'secret'", {"action": "xxc2VjcmV0"}, {"action": "secret"}),
    ],
)
def test_a_selection_means_what_sigma_says(detection: str, yes: dict[str, Any], no: dict[str, Any]) -> None:
    found = rules(rule(f"  s:\n    {detection}\n  condition: s"))
    assert [one.rule for one in seen(found, event(**yes))] == ["one"]
    assert seen(found, event(**no)) == []


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ("a and b", {"src_port": 1, "dst_port": 2}, {"src_port": 1}),
        ("a or b", {"dst_port": 2}, {"dst_port": 1}),
        ("a and not b", {"src_port": 1, "dst_port": 3}, {"src_port": 1, "dst_port": 2}),
        ("1 of *", {"dst_port": 2}, {}),
        ("all of them", {"src_port": 1, "dst_port": 2}, {"dst_port": 2}),
        ("not (a or b)", {}, {"src_port": 1}),
    ],
)
def test_a_condition_means_what_sigma_says(condition: str, yes: dict[str, Any], no: dict[str, Any]) -> None:
    text = f"  a:\n    src_port: 1\n  b:\n    dst_port: 2\n  condition: {condition}"
    found = rules(rule(text))
    assert len(seen(found, event(**yes))) == 1
    assert seen(found, event(**no)) == []


def test_keywords_are_looked_for_in_every_text_of_an_event() -> None:
    found = rules(rule("  keywords:\n    - mimi*katz\n    - beacon\n  condition: keywords"))
    assert len(seen(found, event(action="a Beacon it is"), event(action="xmimi-katzx"))) == 2
    assert seen(found, event(action="mimi", protocol="katz")) == []


@given(st.text("ab*?\\", max_size=8), st.text("ab*?\\", max_size=10))
def test_wildcards_are_what_fnmatch_has_where_both_have_them(pattern: str, text: str) -> None:
    """`\\` escapes here and `[` nothing there, so each is spared the other's syntax."""
    plain = pattern.replace("\\", "")
    assert wildcard(plain)(text) is (re.match(fnmatch.translate(plain), text) is not None)
    escaped = "".join(f"\\{char}" if char in "*?\\" else char for char in text)
    assert wildcard(escaped)(text)


def test_no_pattern_makes_a_hostile_text_expensive() -> None:
    nasty = "a" * 4096
    check = compiled(Has(field="action", test=Like(pattern="*a" * 40 + "*b")))
    begun = time.perf_counter()
    assert not check({"action": nasty})
    assert not rules(rule("  s:\n    action|re: '(a+)+$b'\n  condition: s")).see(event(action=nasty))
    assert time.perf_counter() - begun < 2.0


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("text", "lack", "why"),
    [
        (
            rule("  s:\n    Image: x\n  condition: s", source="category: process_creation\n  product: linux"),
            Lack.LOG_SOURCE,
            "nothing here gives events of category process_creation, product linux",
        ),
        (
            rule(
                "  s:\n    Image: x\n    DestinationPort: 4444\n  condition: s",
                source="category: network_connection",
            ),
            Lack.FIELD,
            "events of connection have no Image",
        ),
        (rule("  s:\n    action|re: '(?=x)y'\n  condition: s"), Lack.CONSTRUCT, "not matched in linear time"),
        (rule("  s:\n    action|expand: '%bad%'\n  condition: s"), Lack.CONSTRUCT, "placeholder bad"),
        (rule("  s:\n    action: x\n  condition: t"), Lack.INVALID, "t"),
        ("title: x\nlogsource: {category: firewall}", Lack.INVALID, "detection"),
        ("[1, 2]", Lack.INVALID, "a rule is a mapping"),
        ("a: &x b\nc: *x", Lack.INVALID, "aliases"),
        ("a: [", Lack.INVALID, "no YAML"),
        ("a: " + "x" * (1025 << 10), Lack.INVALID, "more than"),
    ],
)
def test_what_cannot_be_used_is_said_and_why(text: str, lack: Lack, why: str) -> None:
    found = sigma(text, rule("  s:\n    dst_port: 1\n  condition: s", id="good"))
    assert [one.id for one in found.rules.rules] == ["good"]
    assert [one.lack for one in found.unserved] == [lack]
    assert why in found.unserved[0].why
    assert found.counts() == {"served": 1, lack.value: 1}


def correlation(
    kind: str, of: str, *, more: str = "", condition: str = "gte: 3", group: str = "[src_ip]"
) -> str:
    holds = f"  condition:\n    {condition}\n" if condition else ""
    return (
        f"title: Many\nname: many\nlevel: medium\ncorrelation:\n  type: {kind}\n  rules: {of}\n"
        f"  group-by: {group}\n  timespan: 10s\n{holds}{more}"
    )


PORTS = rule("  s:\n    dst_port|gte: 1\n  condition: s", id="ports")
OTHERS = rule("  s:\n    dst_port: 9\n  condition: s", id="nines")


@pytest.mark.parametrize(
    ("text", "lack", "why"),
    [
        (correlation("event_count", "[nowhere]"), Lack.PART, "rule nowhere is not used"),
        (correlation("event_count", "[ports]", condition="lt: 3"), Lack.CONSTRUCT, "when the time is over"),
        (
            correlation("value_sum", "[ports]", condition="gte: 3\n    field: dst_port"),
            Lack.CONSTRUCT,
            "value_sum is not decided here",
        ),
        (correlation("event_count", "[many]"), Lack.INVALID, "made of itself"),
    ],
)
def test_correlations_that_cannot_be_used_are_said_and_why(text: str, lack: Lack, why: str) -> None:
    found = sigma(PORTS, text)
    assert [(one.rule, one.lack) for one in found.unserved] == [("many", lack)]
    assert why in found.unserved[0].why


# ---------------------------------------------------------------- correlations


def test_so_many_events_within_a_time_and_no_fewer() -> None:
    found = rules(PORTS, correlation("event_count", "[ports]"))
    assert seen(found, *(event(at, src_ip="a", dst_port=1) for at in (0.0, 5.0, 11.0))) == []
    matches = seen(found, event(12.0, src_ip="b", dst_port=1), event(13.0, src_ip="a", dst_port=1))
    assert [(one.rule, one.severity, one.many) for one in matches] == [("many", Severity.MEDIUM, 3)]
    assert seen(found, event(14.0, src_ip="a", dst_port=1)) == [], "it begins anew"


def test_distinct_values_count_and_repeats_do_not() -> None:
    text = correlation("value_count", "[ports]", condition="gte: 3\n    field: dst_port")
    found = rules(PORTS, text)
    assert seen(found, *(event(at, src_ip="a", dst_port=7) for at in range(9))) == []
    matches = seen(found, *(event(9.0, src_ip="a", dst_port=port) for port in (8, 9)))
    assert [one.many for one in matches] == [3]


def test_all_of_several_in_any_order() -> None:
    found = rules(PORTS, OTHERS, correlation("temporal", "[nines, ports]", condition=""))
    assert len(seen(found, event(0.0, src_ip="a", dst_port=9))) == 1, "nine is a port as well"
    assert seen(found, event(0.0, src_ip="b", dst_port=8)) == []
    assert len(seen(found, event(3.0, src_ip="b", dst_port=9))) == 1


def test_in_order_only_where_order_is_asked_for() -> None:
    first = rule("  s:\n    dst_port: 1\n  condition: s", id="first")
    then = rule("  s:\n    dst_port: 2\n  condition: s", id="then")
    found = rules(first, then, correlation("temporal_ordered", "[first, then]", condition=""))
    assert seen(found, event(1.0, src_ip="a", dst_port=2), event(2.0, src_ip="a", dst_port=1)) == []
    assert len(seen(found, event(3.0, src_ip="a", dst_port=2))) == 1
    late = (event(5.0, src_ip="c", dst_port=2), event(4.0, src_ip="c", dst_port=1))
    assert len(seen(found, *late)) == 1, "by when it happened, not by when it came"


def test_what_a_correlation_is_made_of_reports_nothing_unless_it_is_said_to() -> None:
    assert not seen(rules(PORTS, correlation("event_count", "[ports]")), event(src_ip="a", dst_port=1))
    loud = rules(PORTS, correlation("event_count", "[ports]", more="  generate: true\n"))
    assert [one.rule for one in seen(loud, event(src_ip="a", dst_port=1))] == ["ports"]


def test_a_field_may_have_another_name_in_each_rule() -> None:
    more = "  aliases:\n    who:\n      ports: src_ip\n      nines: dst_ip\n"
    text = correlation("temporal", "[ports, nines]", condition="", group="[who]", more=more)
    found = rules(rule("  s:\n    dst_port: 1\n  condition: s", id="ports"), OTHERS, text)
    assert len(seen(found, event(0, src_ip="a", dst_port=1), event(1, dst_ip="a", dst_port=9))) == 1
    assert seen(found, event(0, src_ip="b", dst_port=1), event(1, src_ip="b", dst_port=9)) == []


def test_who_floods_pushes_out_its_own_groups_only() -> None:
    found = rules(PORTS, correlation("event_count", "[ports]"))
    seen(found, *(event(0.0, about=OTHER, src_ip="victim", dst_port=1, uid=str(n)) for n in range(2)))
    seen(found, *(event(1.0, src_ip=f"forged-{n}", dst_port=1) for n in range(3 * GROUPS)))
    assert found.remembered <= GROUPS + 2
    assert dict(found.dropped) == {ONE: 2 * GROUPS}
    assert len(seen(found, event(2.0, about=OTHER, src_ip="victim", dst_port=1))) == 1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(1, 4)), max_size=40))
def test_counts_of_distinct_values_are_what_a_plain_count_says(came: list[tuple[int, int, int]]) -> None:
    """Against the obvious: all events kept, those of the last ten seconds counted anew each time."""
    text = correlation("value_count", "[ports]", condition="gte: 3\n    field: dst_port")
    found, kept = rules(PORTS, text), dict[int, list[tuple[float, int]]]()
    for at, source, port in sorted(came):
        own = kept.setdefault(source, [])
        own.append((at, port))
        enough = len({one for moment, one in own if moment >= at - 10}) >= 3
        if enough:
            own.clear()
        assert bool(found.see(event(float(at), src_ip=source, dst_port=port))) is enough


def test_the_same_events_make_the_same_finding() -> None:
    def findings(now: float) -> list[Any]:
        found = rules(PORTS, correlation("event_count", "[ports]"))
        events = [event(at, src_ip="10.0.0.9", dst_port=1) for at in (1.0, 2.0, 3.0)]
        return [one.finding(now) for one in seen(found, *events)]

    (first,), (second,) = findings(5.0), findings(9.0)
    assert first.id == second.id
    assert (first.rule, first.layer, first.domain, first.object.id) == ("many", Layer.L2, DOMAIN, ONE)
    assert first.evidence[0]["src_endpoint"] == {"ip": "10.0.0.9", "port": None}
    assert first.evidence[0]["data"]["proven"] is True


def test_rules_travel_as_json_and_need_no_parser_of_sigmas_where_they_arrive() -> None:
    loaded = sigma(PORTS, correlation("event_count", "[ports]")).rules
    said = json.dumps(to_json(RuleSet, loaded))
    assert from_json(RuleSet, json.loads(said)) == loaded
    program = (
        "import json, sys\nfrom supercloud.wire.codec import from_json\n"
        "from supercloud.security.rules import Rules\nfrom supercloud.security.terms import RuleSet\n"
        "Rules(from_json(RuleSet, json.loads(sys.stdin.read())))\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'sigma', 'yaml', 'requests'}))"
    )
    ended = run([sys.executable, "-c", program], input=said, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_reading_rules_loads_nothing_of_the_network() -> None:
    program = (
        "import sys\nimport supercloud.security.sigma\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'requests', 'urllib3', 'jq'}))"
    )
    ended = run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_who_is_asked_for_by_arp_is_no_connection_and_a_finding_is_one_whatever_it_says() -> None:
    def sources(raw: dict[str, Any]) -> set[str]:
        return {one.source for one in take(raw, STAND, now=1.0).events}

    at_port = told.Speaker("port", uid="one", about=ONE, mac="02:00:00:00:00:01", at=1.0)
    begins = told.connection(at_port, source=("10.0.0.9", 4000), target=("10.0.0.1", 80))
    asks = told.asking(at_port, source="10.0.0.9", target="10.0.0.1")
    found = told.finding(
        "port", uid="two", rule="x", title="x", severity=Severity.HIGH, about=ONE, at=1.0, evidence={}
    )
    assert sources(begins) == {"firewall", "connection"}
    assert sources(asks) == {"neighbour"}
    assert sources(found | {"connection_info": asks["connection_info"]}) == {"finding"}


def test_a_sweep_over_ones_own_network_is_seen_by_whom_is_asked_for() -> None:
    def asks(last: int) -> Event:
        about = Object(kind=ObjectKind.INSTANCE, id=ONE)
        fields = {"object": ONE, "layer": "L2", "src_ip": "10.0.0.9", "dst_ip": f"10.0.0.{last}"}
        return Event(
            uid=f"asks-{last}", source="neighbour", at=last / 10, stand=STAND, about=about, fields=fields
        )

    usual_rules = Rules(usual.RULES)
    assert seen(usual_rules, *(asks(one % 10) for one in range(100))) == []
    (match,) = seen(usual_rules, *(asks(one) for one in range(100, 140)))
    found = match.finding(now=14.0)
    assert found.rule == "neighbour-sweep"
    assert found.evidence[0]["src_endpoint"]["ip"] == "10.0.0.9"
    assert found.evidence[0]["data"]["proven"] is True


def test_every_source_says_what_it_is() -> None:
    for one in SOURCES:
        assert one.says and one.fields
        assert one.category or one.product or one.service
