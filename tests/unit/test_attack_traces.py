"""What attacks leave to be read."""

from __future__ import annotations

import json

import pytest

from supercloud.cli.demo.policies import HORIZONTAL, VERTICAL
from supercloud.cli.demo.traces import Hidden, Line, Scan, Sweep, done_at, is_in, marked, merged
from supercloud.security.policy import PolicyFile

pytestmark = pytest.mark.unit


def test_rounds_are_read_from_between_other_words() -> None:
    said = 'demo-scan {"began": 12.5, "nmap": "7.93", "up": 4, "open": 2}'
    log = f"login: \r\n{said}\r\n[ 3.1] noise {said}\n{said[:-4]}\ndemo-scan 7\n"
    assert marked(log, "demo-scan", Scan) == [Scan(began=12.5, nmap="7.93", up=4, open=2)] * 2
    assert marked("", "demo-scan", Scan) == []


def test_what_attackers_say_is_told_in_a_line() -> None:
    assert Scan(began=1.0, nmap="7.93", up=4, open=2).says == "nmap 7.93: 4 hosts up, 2 ports open"
    hidden = Hidden(hidden_at=1.0, at=2.0, pid=77, shown=False, worked=5, problem="")
    assert hidden.says == "ps does not show process 77, which has worked 5 times"
    assert (
        Sweep(arrived=1.0, hops=1, began=1.0, ended=1.0, taken=[]).says == "the worm is here, after 1 hosts"
    )
    swept = Sweep(arrived=1.0, hops=1, began=1.0, ended=9.0, taken=["10.77.0.4"])
    assert swept.says == "the worm went over its network: 10.77.0.4 took a copy"


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
    assert PolicyFile.model_validate_json(json.dumps(said)).policies
