"""Policies as files: what is wrong is said at its place, and what one would do is seen on recorded events."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from supercloud.cli.declared.read import Wrong
from supercloud.cli.declared.tree import parse
from supercloud.cli.main import run
from supercloud.cli.policy import Trial, Tried, events_of, read
from supercloud.security.policy import PolicyFile, json_schema
from supercloud.security.rules import Rules
from supercloud.security.sigma import load

pytestmark = pytest.mark.unit
EXAMPLE = Path(__file__).parents[2] / "examples" / "security"
HEAD = "version: 1\npolicies:\n  one:\n"


def problems(text: str) -> list[str]:
    try:
        read(text.encode(), "p")
    except Wrong as error:
        return error.lines
    return []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p:1:1: the file is empty; `supercloud schema policy`"),
        ("policies: {}", "p:1:1: `version` is missing; add it: of this format"),
        ("version: 2", "this is version 2 of the format, and version 1 is read"),
        (HEAD + "    whem: {}", "p:4:5: there is no `whem` here; did you mean `when`?"),
        (HEAD + "    when: {layer: L9}", "p:4:19: “L9” is not known here; write 'L0', 'L1' or 'L2'"),
        (HEAD + "    when: {severity: bad}", "p:4:22: “bad” is not known here; write 'unknown'"),
        (HEAD + "    do: [{action: burn, target: device}]", "p:4:19: “burn” is not known here"),
        (HEAD + "    do: [{action: stop, target: device}]", "p:4:10: there is no stop of device"),
        (HEAD + "    do: [{action: deny, target: ipv4_net}]", "deny of ipv4_net has a net"),
        (HEAD + "    do: [{action: restart, target: component}]", "restart of component has a component"),
        (HEAD + "    do: [{action: update, target: device}]", "there is no update of device"),
        (HEAD + "    do: [{action: contain, target: device, for: 10}]", "p:4:49: '10' is no time"),
        (HEAD + "    do: [{action: contain, target: device, for: 8d}]", "too large"),
        (
            HEAD + "    do: [{action: contain, target: device, for: soon}]",
            "p:4:49: 'soon' is no time: write it as",
        ),
        (HEAD + "    bounds: {objects: 0}", "p:4:23: 0 is too small; write at least 1"),
        (HEAD + "    bounds: {never: [10.0.0.1/33]}", "is neither an id nor a network"),
        (HEAD + "    mode: perhaps", "p:4:11: “perhaps” is not known here; write 'act', 'ask' or 'dry-run'"),
        (HEAD + "    else: [panic]", "p:4:12: “panic” is not known here; write 'undo' or 'escalate'"),
        (HEAD + "    priority: 1\n    priority: 2", "p:5:5: `priority` is here twice"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(text: str, said: str) -> None:
    lines = problems(text)
    assert any(said in line for line in lines), lines


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(problems(HEAD + "    mode: perhaps\n    priority: -1\n  two: {do: 5}\nthree: 3")) == 4


def test_the_schema_takes_what_is_read_and_refuses_what_is_not() -> None:
    validator = jsonschema_rs.validator_for(json_schema())
    assert validator.is_valid(parse((EXAMPLE / "policy.yaml").read_bytes()).data)
    for text in (HEAD + "    whem: {}", HEAD + "    mode: perhaps", HEAD + "    bounds: {objects: 0}"):
        assert not validator.is_valid(parse(text.encode()).data)


def test_a_policy_travels_as_json() -> None:
    found = read((EXAMPLE / "policy.yaml").read_bytes(), "p")
    assert PolicyFile.model_validate_json(found.model_dump_json(by_alias=True)) == found


def tried(policy: str, events: list[Any], rules: str | None = None, tmp: Path | None = None) -> Tried:
    loaded = None if rules is None else Rules(load([("r", rules.encode())]).rules)
    return Trial(read(policy.encode(), "p"), loaded).run(iter(list(enumerate(events, 1))))


def scan(number: int, *, about: str = "web", at: float = 1790000000.0) -> dict[str, Any]:
    """An OCSF Detection Finding."""
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "severity_id": 4,
        "time": int(at * 1000),
        "metadata": {"uid": f"f{number}", "version": "1.3.0", "product": {"name": "port"}},
        "finding_info": {"uid": f"f{number}", "title": "A scan", "analytic": {"uid": "port-scan"}},
        "resources": [{"uid": about}],
    }


CONTAIN = HEAD + "    do: [{action: contain, target: device, for: 10m}]\n    bounds: {objects: 2}\n"


def test_the_example_contains_a_scanner() -> None:
    rules = (EXAMPLE / "rules" / "port-scan.yml").read_text()
    found = tried(
        (EXAMPLE / "policy.yaml").read_text(), [one for _, one in events_of(EXAMPLE / "scan.jsonl")], rules
    )
    assert (found.events, found.findings, found.refused) == (30, 1, ())
    (incident,) = found.incidents
    states = {(one["policy"], one["reaction"]): one["state"] for one in incident["reactions"]}
    assert states == {
        ("contain-scanner", "set:x-supercloud:rate"): "lapsed",
        ("contain-scanner", "contain:device"): "lapsed",
        ("slow-down", "set:x-supercloud:rate"): "overruled",
    }
    commands = [one["command"] for one in incident["reactions"] if one["reaction"] == "contain:device"]
    assert commands[0]["action"] == "contain"
    assert commands[0]["args"]["duration"] == 600_000


def test_bounds_are_seen_before_anything_is_done() -> None:
    found = tried(CONTAIN, [scan(number, about=f"web-{number}") for number in range(5)])
    states = [one["state"] for incident in found.incidents for one in incident["reactions"]]
    assert states == ["lapsed", "lapsed", "refused", "refused", "refused"]


def test_repeats_and_what_is_no_event_do_nothing() -> None:
    found = tried(CONTAIN, [scan(1), scan(1), None, {"time": 5}, {"class_uid": 1, "time": 1790000000000}])
    assert (found.events, found.findings, len(found.refused)) == (5, 1, 3)


def test_time_is_the_events_own() -> None:
    begun = time.perf_counter()
    text = CONTAIN.replace("objects: 2", "objects: 2, perHour: 2")
    found = tried(text, [scan(number, at=1790000000.0 + number * 1500) for number in range(10)])
    states = [one["state"] for incident in found.incidents for one in incident["reactions"]]
    assert states.count("refused") == 3, "two an hour, every 25 minutes one is asked for"
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize("form", ["json", "table"])
def test_it_is_a_command(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["policy", "test", str(EXAMPLE / "policy.yaml"), "--events", str(EXAMPLE / "scan.jsonl")]
    assert run([*arguments, "--rules", str(EXAMPLE / "rules"), "-o", form]) == 0
    said = capsys.readouterr().out
    if form == "json":
        found = json.loads(said)
        assert found["rules"] == {"served": 3}
        assert len(found["incidents"]) == 1
    else:
        assert "policy contain-scanner: contain:device, intended" in said


def test_rules_are_said_to_be_used_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "title: x\nlogsource: {product: windows}\ndetection: {s: {a: b}, condition: s}\n"
    (tmp_path / "windows.yml").write_text(rule)
    assert run(["policy", "rules", str(tmp_path), str(EXAMPLE / "rules"), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"served": 3, "log source": 1}
    assert found["unserved"][0]["why"] == "nothing here gives events of product windows"


def test_a_wrong_policy_ends_with_the_status_of_bad_input(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(HEAD + "    mode: perhaps\n")
    assert run(["policy", "test", str(tmp_path / "p.yaml"), "--events", str(EXAMPLE / "scan.jsonl")]) == 2
