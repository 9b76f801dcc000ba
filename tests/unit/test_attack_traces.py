"""What attacks leave to be read."""

from __future__ import annotations

import json

import pytest

from supercloud.cli.demo.attack import HORIZONTAL, VERTICAL
from supercloud.cli.demo.traces import INTRUDER_MARK, Line, Probe, done_at, is_in, merged, probes
from supercloud.security.policy import PolicyFile

pytestmark = pytest.mark.unit


def test_rounds_are_read_from_between_other_words() -> None:
    said = f'{INTRUDER_MARK} {{"began": 12.5, "tried": 42, "open": 2}}'
    log = f"login: \r\n{said}\r\n[ 3.1] noise {said}\n{said[:-4]}\n{INTRUDER_MARK} 7\n"
    assert probes(log) == [Probe(began=12.5, tried=42, open=2)] * 2
    assert probes("") == []


def test_a_timeline_is_by_moments_whoever_said_them() -> None:
    def incident(blanket: str | None, *entries: tuple[float, str]) -> dict[str, object]:
        timeline = [{"at": at, "kind": "finding", "says": says} for at, says in entries]
        return {"incident": {"blanket": blanket}, "timeline": timeline}

    found = merged(
        100.0,
        [incident("n1", (101.0, "a scan"), (104.0, "cut")), incident(None, (102.5, "met"))],
        [("intruder", 100.0, "begins")],
    )
    assert found == [
        Line(at_s=0.0, where="intruder", says="begins"),
        Line(at_s=1.0, where="n1", says="finding: a scan"),
        Line(at_s=2.5, where="cloud", says="finding: met"),
        Line(at_s=4.0, where="n1", says="finding: cut"),
    ]


def test_a_reaction_counts_in_its_state_and_from_when_it_was_done() -> None:
    found = {
        "reactions": [
            {"reaction": "contain:device", "state": "refused", "done_at": None},
            {"reaction": "contain:device", "state": "verified", "done_at": 9.0},
        ]
    }
    assert is_in(found, "contain:device", "verified") and not is_in(found, "deny:ipv4_net", "verified")
    assert done_at(found, "contain:device") == 9.0


@pytest.mark.parametrize("said", [VERTICAL, HORIZONTAL])
def test_what_the_demo_sets_is_a_policy(said: dict[str, object]) -> None:
    assert len(PolicyFile.model_validate_json(json.dumps(said)).policies) == 2
