"""What the detector of guests makes of what was seen in one."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from supercloud.model.findings import Layer, Object, ObjectKind, Severity
from supercloud.security import usual
from supercloud.security.detectors import GUEST
from supercloud.security.detectors.guests import AGAIN_S, CANNOT_S, NEVER_S, Guests
from supercloud.security.events import Stand, take
from supercloud.security.introspection.look import HiddenProcess, HookedCall, Place, Seen
from supercloud.security.introspection.sockets import Socket
from supercloud.security.introspection.tasks import Task
from supercloud.security.rules import Rules

pytestmark = pytest.mark.unit
PLACE = Place(address=0xFFFF_FFFF_8123_4000, symbol="evil_read+0x4")
NASTY = "\x1b[31m\u202eroot\n<script>" * 40


def seen(**differs: Any) -> Seen:
    usual_: dict[str, Any] = {
        "release": "6.1.0",
        "first": False,
        "ms": 20.0,
        "processes": (Task(1, "init", 0, 5, 4096), Task(2, "kthreadd", 0, 5, 5), Task(9, "kworker", 2, 5, 6)),
        "sockets": (Socket("tcp", "0.0.0.0", 22), Socket("tcp", "10.0.0.1", 22, "10.0.0.2", 4000)),  # noqa: S104
        "modules": (),
        "pages": 3000,
    }
    return Seen(**usual_ | differs)


WRONG = {
    "hidden-process": seen(hidden=(HiddenProcess(pid=9, name="evil", parent=1, missing="a", seen="b"),)),
    "hidden-module": seen(hidden_modules=("evil",)),
    "hooked-system-call": seen(hooked=(HookedCall(number=0, leads=PLACE),)),
    "changed-kernel-text": seen(changed=(PLACE, PLACE)),
}


def stand() -> Stand:
    one = Object(kind=ObjectKind.INSTANCE, id=str(uuid.UUID(int=1)))
    return Stand(
        detector=GUEST,
        layer=Layer.L2,
        domain=str(uuid.UUID(int=2)),
        cloud=None,
        objects=lambda said: one if said == "tone" else None,
    )


@pytest.mark.parametrize("rule", WRONG)
def test_what_is_wrong_is_a_grave_finding_with_what_it_was_seen_beside(rule: str) -> None:
    (event,) = Guests("boot").seen("tone", WRONG[rule], time.time())
    taken = take(event, stand(), now=time.time())
    assert taken.finding is not None
    assert (taken.finding.rule, taken.finding.severity) == (rule, Severity.CRITICAL)
    data = event["evidences"][0]["data"]
    assert data["processes"] == ["1 init", "2 kthreadd"] and data["listens"] == ["tcp 0.0.0.0:22"]
    assert data["release"] == "6.1.0"


@pytest.mark.parametrize("rule", WRONG)
def test_the_usual_rules_say_what_all_of_it_means(rule: str) -> None:
    (event,) = Guests("boot").seen("tone", WRONG[rule], time.time())
    rules = Rules(usual.RULES)
    matches = [match for one in take(event, stand(), now=time.time()).events for match in rules.see(one)]
    assert [match.rule for match in matches] == ["compromised-kernel"]


def test_nothing_wrong_is_no_finding() -> None:
    assert Guests("boot").seen("tone", seen(), 0) == []


def test_what_stays_so_is_told_again_after_a_while_and_what_is_new_at_once() -> None:
    watch = Guests("boot")
    assert len(watch.seen("tone", WRONG["hidden-process"], 0)) == 1
    assert watch.seen("tone", WRONG["hidden-process"], AGAIN_S - 1) == []
    assert len(watch.seen("tone", WRONG["hidden-module"], AGAIN_S - 1)) == 1
    assert len(watch.seen("ttwo", WRONG["hidden-process"], AGAIN_S - 1)) == 1
    again = watch.seen("tone", WRONG["hidden-process"], AGAIN_S)
    assert len(again) == 1 and again[0]["metadata"]["uid"] == "boot-4"


def test_a_guest_that_boots_is_no_finding_and_one_that_stays_dark_is_told_once() -> None:
    watch = Guests("boot")
    assert watch.cannot("tone", "no kernel", 0) == [] == watch.cannot("tone", "no kernel", NEVER_S - 1)
    (event,) = watch.cannot("tone", "no kernel", NEVER_S)
    assert (event["severity_id"], event["finding_info"]["analytic"]["uid"]) == (1, "cannot-look")
    assert watch.cannot("tone", "no kernel", 10 * NEVER_S) == []


def test_one_that_grows_dark_after_it_was_seen_is_graver() -> None:
    watch = Guests("boot")
    watch.seen("tone", seen(), 0)
    watch.cannot("tone", "no kernel", 10)
    (event,) = watch.cannot("tone", "no kernel", 10 + CANNOT_S)
    assert event["severity_id"] == Severity.MEDIUM.rank
    watch.there(["ttwo"])  # it is gone
    assert watch.cannot("tone", "no kernel", 20 + CANNOT_S) == []


def test_a_look_that_fails_is_told() -> None:
    watch = Guests("boot")
    (event,) = watch.failed("tone", "it ended", 0)
    assert event["finding_info"]["analytic"]["uid"] == "look-failed"
    assert watch.failed("tone", "it ended", AGAIN_S - 1) == []


def test_whatever_a_guest_calls_its_things_is_a_line_of_bounded_text() -> None:
    hidden = tuple(
        HiddenProcess(pid=pid, name=NASTY, parent=1, missing=NASTY, seen=NASTY) for pid in range(10, 500)
    )
    place = Place(address=1, symbol=NASTY)
    worst = seen(
        release=NASTY,
        hidden=hidden,
        hidden_modules=tuple(f"{NASTY}{at}" for at in range(500)),
        hooked=tuple(HookedCall(number=at, leads=place) for at in range(500)),
        changed=(place,) * 5000,
        processes=tuple(Task(pid, NASTY, 1, 0, 0) for pid in range(500)),
        sockets=tuple(Socket(NASTY, NASTY, at) for at in range(500)),
    )
    events = Guests("boot").seen("tone", worst, time.time())
    assert 4 <= len(events) <= 61
    for event in events:
        assert take(event, stand(), now=time.time()).finding is not None  # small enough, and a line
        said = repr(event)
        assert "\\x1b" not in said and "\\u202e" not in said and "\\n" not in said
