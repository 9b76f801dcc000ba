"""STIX in and out, and OCSF out."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.model.incidents import Incident, IncidentState, Seen
from supercloud.security import exports, stix

pytestmark = pytest.mark.unit
NOW = 1_800_000_000.0
CLOUD = str(uuid.UUID(int=2))


def indicator(pattern: str = "[ipv4-addr:value = '198.51.100.7']", **more: Any) -> dict[str, Any]:
    return {
        "type": "indicator",
        "spec_version": "2.1",
        "id": f"indicator--{uuid.UUID(int=9)}",
        "created": "2026-01-01T00:00:00.000Z",
        "modified": "2026-01-01T00:00:00.000Z",
        "name": "a scanner",
        "pattern": pattern,
        "pattern_type": "stix",
        "valid_from": "2026-01-01T00:00:00Z",
        **more,
    }


def bundle(*objects: Any) -> str:
    return json.dumps({"type": "bundle", "id": f"bundle--{uuid.UUID(int=8)}", "objects": list(objects)})


def addresses(pattern: str) -> list[str]:
    found, unused = stix.read(bundle(indicator(pattern)), now=NOW)
    assert bool(found) != bool(unused)
    return [one.address for one in found]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("[ipv4-addr:value = '198.51.100.7']", ["198.51.100.7"]),
        ("[ipv4-addr:value='198.51.100.7/32']", ["198.51.100.7"]),
        (
            "[ipv4-addr:value = '198.51.100.7' OR ipv4-addr:value = '198.51.100.8']",
            ["198.51.100.7", "198.51.100.8"],
        ),
        (
            " [ipv4-addr:value = '198.51.100.7'] OR [ ipv4-addr:value = '198.51.100.8' ] ",
            ["198.51.100.7", "198.51.100.8"],
        ),
        ("[ipv4-addr:value = '198.51.100.7' AND ipv4-addr:value = '198.51.100.8']", []),
        ("[ipv4-addr:value = '198.51.100.0/24']", []),
        ("[ipv4-addr:value = '198.51.100.300']", []),
        ("[ipv4-addr:value = '127.0.0.1']", []),
        ("[ipv4-addr:value = '169.254.169.254']", []),
        ("[ipv4-addr:value = '0.0.0.0']", []),
        ("[ipv4-addr:value = '255.255.255.255']", []),
        ("[ipv4-addr:value = '198.51.100.7'", []),
        ("ipv4-addr:value = '198.51.100.7'", []),
        ("[ipv4-addr:value = '198.51.100.7'] [ipv4-addr:value = '198.51.100.8']", []),
        ("[ipv4-addr:value = '198.51.100.7'] OR", []),
        ("[]", []),
        ("[file:name = 'a']", []),
        ("[ipv4-addr:value = '198.51.100.7'] FOLLOWEDBY [file:name = 'a']", []),
    ],
)
def test_of_a_pattern_addresses_are_used_and_of_anything_else_nothing(pattern: str, found: list[str]) -> None:
    assert addresses(pattern) == found


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (indicator(revoked=True), "revoked"),
        (indicator(pattern_type="sigma"), "of type sigma"),
        (indicator(valid_until="2026-06-01T00:00:00Z"), "no more"),
        (indicator(valid_from="2996-06-01T00:00:00Z"), "not valid yet"),
        (indicator(valid_from="yesterday"), "no time"),
        (indicator(valid_from="2026-13-01T00:00:00Z"), "no time"),
        (indicator(spec_version="2.0"), "spec_version"),
        (indicator(pattern=7), "pattern"),
        (indicator(id="indicator--x\x1b[2J"), "id"),
        ({"type": "malware", "id": "malware--1"}, "malware is not looked at"),
        ({"type": ["x"]}, "no type"),
        (7, "no type"),
    ],
)
def test_what_is_not_used_is_said_and_why(what: Any, why: str) -> None:
    found, unused = stix.read(bundle(what, indicator()), now=NOW)
    assert [one.address for one in found] == ["198.51.100.7"], "the others are"
    (one,) = unused
    assert why in one.why
    assert "\x1b" not in one.id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"type": "bundle", "objects": {}}',
        '{"type": "bundle", "objects": [NaN]}',
        '{"type": "bundle", "objects": ["\\ud800"]}',
        '{"type": "bundle", "objects": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"type": "bundle", "objects": [' + "{}," * stix.OBJECTS + "{}]}",
        " " * (stix.BYTES + 1),
    ],
    ids=["empty", "list", "object", "mapping", "nan", "surrogate", "deep", "many", "large"],
)
def test_what_is_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        stix.read(text, now=NOW)


def test_so_many_addresses_and_no_more() -> None:
    many = [
        indicator("[" + " OR ".join(f"ipv4-addr:value = '198.51.{high}.{low}'" for low in range(1, 61)) + "]")
        for high in range(10)
    ]
    found, unused = stix.read(bundle(*many), now=NOW)
    assert len(found) == stix.MOST
    assert len(unused) == 2 and all("500" in one.why for one in unused)


def test_a_long_pattern_takes_no_time() -> None:
    hostile = "[" + " " * 4000 + "ipv4-addr:value" + " " * 4000
    began = time.process_time()
    for pattern in (hostile, "[ipv4-addr:value = '" * 400, "(" * 8000, "OR " * 2700):
        for _ in range(20):
            assert addresses(pattern) == []
    assert time.process_time() - began < 2.0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_KEYS = [
    "type",
    "spec_version",
    "id",
    "pattern",
    "pattern_type",
    "valid_from",
    "valid_until",
    "name",
    "revoked",
]


_ODD = st.dictionaries(st.sampled_from(_KEYS), _JSON).map(lambda odd: indicator() | odd)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(_JSON, _ODD), max_size=5))
def test_whatever_comes_is_sorted_out_or_refused(objects: list[Any]) -> None:
    try:
        found, unused = stix.read(bundle(*objects), now=NOW)
    except InvalidInput:
        return
    assert len(found) + len(unused) <= len(objects) + stix.ADDRESSES
    for one in found:
        assert stix._address(one.address) == one.address
    for other in unused:
        assert other.why and "\n" not in other.id


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="[]'OR ipv4-addr:value=0123456789./\n", max_size=120))
def test_no_pattern_is_more_than_addresses(pattern: str) -> None:
    found, _ = stix.read(bundle(indicator(pattern or " ")), now=NOW)
    for one in found:
        assert f"'{one.address}" in pattern


# ---------------------------------------------------------------- out


def incident() -> Incident:
    def saw(number: int, source: str | None, many: int = 2) -> Seen:
        about = Object(kind=ObjectKind.INSTANCE, id=str(uuid.UUID(int=100 + number)))
        return Seen(
            rule=f"r{number}\n\x1b[2J",
            layer=Layer.L2,
            object=about,
            first=NOW,
            last=NOW + 5,
            many=many,
            source=source,
        )

    return Incident(
        id=str(uuid.UUID(int=500)),
        domain=CLOUD,
        cloud=CLOUD,
        state=IncidentState.ESCALATED,
        severity=Severity.HIGH,
        title="a\nscan",
        opened_at=NOW,
        last_at=NOW + 9,
        objects=(saw(1, None).object,),
        seen=(saw(1, "10.20.0.5"), saw(2, "10.20.0.5"), saw(3, "10.20.0.6"), saw(4, None)),
        findings=8,
    )


def test_an_incident_is_a_bundle_that_is_read_again() -> None:
    made = exports.stix(incident(), cloud=CLOUD)
    assert made == exports.stix(incident(), cloud=CLOUD), "the same is the same"
    kinds = [one["type"] for one in made["objects"]]
    assert kinds.count("indicator") == kinds.count("sighting") == kinds.count("observed-data") == 2
    names = {one["id"] for one in made["objects"]}
    assert len(names) == len(kinds)
    for one in made["objects"]:
        assert one["id"].startswith(f"{one['type']}--")
        for key, value in one.items():
            if key.endswith("_ref"):
                assert value in names
            if key.endswith("_refs"):
                assert set(value) <= names
    sighting = next(one for one in made["objects"] if one["type"] == "sighting")
    assert sighting["count"] == 4
    found, unused = stix.read(json.dumps(made), now=NOW + 60)
    assert [one.address for one in found] == ["10.20.0.5", "10.20.0.6"]
    assert {one.why for one in unused} >= {"incident is not looked at", "sighting is not looked at"}
    later, _ = stix.read(json.dumps(made), now=NOW + 30 * 86400)
    assert later == [], "an instance's address is another's some time"
    assert "\\n" not in json.dumps(made) and "\\u001b" not in json.dumps(made)


def test_an_incident_is_an_event() -> None:
    made = exports.ocsf(incident(), ())
    assert (made["class_uid"], made["type_uid"], made["status_id"], made["severity_id"]) == (
        2005,
        200501,
        3,
        4,
    )
    assert len(made["finding_info_list"]) == 4
    closed = replace(incident(), state=IncidentState.CLOSED, closed_at=NOW + 20, version=4)
    assert exports.ocsf(closed, ())["type_uid"] == 200503
    json.dumps(made, allow_nan=False)
