"""Findings, orders and acts as values: bounds of others' JSON, OCSF and OpenC2, what may follow what."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from supercloud.model import ocsf
from supercloud.model.acts import ACT_TRANSITIONS, OPEN_ACTS, ActKind, ActState, Statement
from supercloud.model.bounded import Bounds
from supercloud.model.errors import Conflict, InvalidInput
from supercloud.model.findings import AHEAD_S, BEHIND_S, Severity, check_moment
from supercloud.model.names import new_id
from supercloud.model.ocsf import DetectionFinding, one_line
from supercloud.model.orders import (
    LASTING,
    MEANINGS,
    OPEN,
    ORDER_TRANSITIONS,
    STATUSES,
    Args,
    Command,
    Connection,
    Device,
    OrderState,
    Protocol,
    Reaction,
    Target,
    answered,
)
from supercloud.model.states import move

pytestmark = pytest.mark.unit
NOW = 1_790_000_000.0
MACHINE, DOMAIN = new_id(), new_id()
_SMALL = Bounds(bytes_=200, depth=4, values=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4),
    max_leaves=30,
)  # fmt: skip


# ---------------------------------------------------------------- others' JSON


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(one) for one in inner), default=0)


@given(_JSON)
@settings(max_examples=300, deadline=None)
def test_what_is_within_bounds_is_taken_and_nothing_else(value: Any) -> None:
    size = len(json.dumps(value, separators=(",", ":")))
    exact = Bounds(bytes_=size, depth=_depth(value), values=10_000)
    exact.check(value, "it")
    for less in (
        Bounds(bytes_=size - 1, depth=99, values=10_000),
        Bounds(bytes_=size, depth=_depth(value) - 1, values=10_000),
        Bounds(bytes_=size, depth=99, values=0),
    ):
        with pytest.raises(InvalidInput, match="it "):
            less.check(value, "it")


@pytest.mark.parametrize(
    "value",
    ["a\x00", {"\x00": 1}, "\ud800", ["\udfff"], float("nan"), float("inf"), -(1 << 63) - 1, 1 << 64],
)
def test_what_no_database_or_program_takes_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        _SMALL.check(value, "it")
    with pytest.raises(InvalidInput):
        _SMALL.check({"a": [value]}, "it")


def test_a_walk_stops_at_the_bound() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="deeper than 4"):
        _SMALL.check(deep, "it")
    with pytest.raises(InvalidInput, match="more than 20 values"):
        _SMALL.check([0] * 10_000_000, "it")


# ---------------------------------------------------------------- findings


def test_severities_are_ocsfs_by_their_numbers() -> None:
    assert [one.rank for one in Severity] == [0, 1, 2, 3, 4, 5, 6]
    assert all(Severity.ranked(one.rank) is one for one in Severity)
    assert Severity.ranked(99) is Severity.ranked(-1) is Severity.UNKNOWN


@pytest.mark.parametrize(
    ("ago_s", "good"),
    [(0.0, True), (-AHEAD_S, True), (BEHIND_S, True), (-AHEAD_S - 1, False), (BEHIND_S + 1, False)],
)
def test_a_finding_is_of_about_now(ago_s: float, good: bool) -> None:
    if good:
        check_moment(NOW - ago_s, NOW)
    else:
        with pytest.raises(InvalidInput, match=r"in the future|older than"):
            check_moment(NOW - ago_s, NOW)


_LEAST: dict[str, Any] = {
    "activity_id": 1,
    "category_uid": 2,
    "class_uid": 2004,
    "type_uid": 200401,
    "severity_id": 4,
    "time": 1_790_000_000_000,
    "metadata": {"uid": "e", "version": "1.7.0-dev", "product": {}},
    "finding_info": {"uid": "f", "title": "t"},
}


@given(st.dictionaries(st.sampled_from(["message", "count", "actor", "x_ours"]), _JSON), _JSON)
@settings(max_examples=200, deadline=None)
def test_what_we_do_not_know_of_an_event_stays_as_it_came(more: dict[str, Any], inner: Any) -> None:
    info = {**_LEAST["finding_info"], "desc": inner}
    event = {**_LEAST, **more, "finding_info": info}
    try:
        kept = DetectionFinding.model_validate(event).as_it_came()
    except InvalidInput:
        with pytest.raises(InvalidInput):
            ocsf.EVENT.check(event, "it")
        return
    assert json.dumps(kept, sort_keys=True) == json.dumps(event, sort_keys=True)


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.dictionaries(
    st.sampled_from([*_LEAST, "uid", "title", "version"]), inner, max_size=9) | st.lists(inner, max_size=3)
))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_anything_else_is_an_error_and_no_other(value: Any) -> None:
    with pytest.raises(ValidationError):
        DetectionFinding.model_validate(value)


def test_a_rule_is_its_name_or_its_id_in_one_line() -> None:
    for analytic, rule in (
        ({"name": "a\nb", "uid": "c"}, "a b"),
        ({"uid": "c"}, "c"),
        ({"name": "\x1b"}, None),
        ({}, None),
    ):
        info = {"uid": "f", "title": "t", "analytic": analytic}
        assert DetectionFinding.model_validate({**_LEAST, "finding_info": info}).rule == rule
    assert one_line("\x1b[2Ja\r\n b\u2028c") == "[2Ja  b c"


# ---------------------------------------------------------------- orders


def test_each_order_is_a_pair_of_openc2s_and_says_what_it_means() -> None:
    assert set(MEANINGS) == set(Reaction) and set(Reaction) > LASTING
    assert {one.action for one in Reaction} <= {"allow", "contain", "deny", "restart", "start", "stop"}
    assert {one.target for one in Reaction} == {"device", "ipv4_net", "ipv4_connection"}


def test_an_order_goes_on_and_never_back() -> None:
    ends = set(OrderState) - OPEN
    for was, to in itertools.product(OrderState, OrderState):
        allowed = was is to or to in ORDER_TRANSITIONS[was]
        if was in ends:
            assert allowed == (was is to)
        assert not (to is OrderState.ASKED and allowed and was is not to)
        if allowed:
            assert move(ORDER_TRANSITIONS, was, to) is to
        else:
            with pytest.raises(Conflict):
                move(ORDER_TRANSITIONS, was, to)
    assert OrderState.CANCELLED not in ORDER_TRANSITIONS[OrderState.TAKEN], "its provider is at it"


@pytest.mark.parametrize(
    ("status", "state"),
    [(102, "taken"), (200, "done"), (400, "refused"), (403, "refused"), (501, "refused"), (500, "failed")],
)
def test_a_response_leads_to_one_state_however_often(status: int, state: str) -> None:
    to = OrderState(state)
    assert answered(OrderState.ASKED, status) is answered(OrderState.TAKEN, status) is to
    assert answered(to, status) is to
    for ended in (OrderState.EXPIRED, OrderState.CANCELLED):
        with pytest.raises(Conflict):
            answered(ended, status)


@given(st.integers(0, 1000).filter(lambda one: one not in STATUSES))
def test_what_is_no_status_of_openc2s_is_none_here(status: int) -> None:
    with pytest.raises(InvalidInput, match="no status"):
        answered(OrderState.ASKED, status)


def _command(reaction: Reaction, **args: Any) -> Command:
    targets = {
        "device": Target(device=Device()),
        "ipv4_net": Target(ipv4_net="198.51.100.0/24"),
        "ipv4_connection": Target(
            ipv4_connection=Connection(protocol=Protocol.TCP, dst_addr="198.51.100.7", dst_port=443)
        ),
    }
    return Command(action=reaction.action, target=targets[reaction.target], args=Args(**args))


@pytest.mark.parametrize("reaction", Reaction)
def test_a_command_is_complete_and_holds_nothing_but_what_openc2_has(reaction: Reaction) -> None:
    order = new_id()
    command = _command(reaction)
    assert command.check(MACHINE, now=NOW, deadline=NOW + 60) is reaction
    said = command.as_openc2(order=order, domain=DOMAIN, machine=MACHINE)
    assert said["action"] == reaction.action and list(said["target"]) == [reaction.target]
    assert said["actuator"] == {"x-supercloud": {"domain": DOMAIN, "machine": MACHINE}}
    assert (said["command_id"], said["args"]) == (order, {"response_requested": "complete"})
    assert "null" not in json.dumps(said)
    if reaction.target == "device":
        assert said["target"] == {"device": {"device_id": MACHINE}}
    lasting = _command(reaction, duration=1000)
    if reaction in LASTING:
        lasting.check(MACHINE, now=NOW, deadline=NOW + 60)
    else:
        with pytest.raises(InvalidInput, match="no duration"):
            lasting.check(MACHINE, now=NOW, deadline=NOW + 60)


@pytest.mark.parametrize(
    ("action", "target", "args", "why"),
    [
        ("deny", Target(), Args(), "one target"),
        ("deny", Target(ipv4_net="10.0.0.0/8", device=Device()), Args(), "one target"),
        ("scan", Target(device=Device()), Args(), "no order scan:device"),
        ("restart", Target(ipv4_net="10.0.0.0/8"), Args(), "no order"),
        ("deny", Target(ipv4_net="0.0.0.0/0"), Args(), "wider"),
        ("deny", Target(ipv4_net="10.1.2.3/8"), Args(), "not a network"),
        ("deny", Target(ipv4_net="300.1.2.3"), Args(), "not a network"),
        ("deny", Target(ipv4_connection=Connection()), Args(), "at least one address"),
        ("deny", Target(ipv4_connection=Connection(src_addr="999.0.0.1")), Args(), "not a network"),
        ("deny", Target(ipv4_connection=Connection(src_addr="10.0.0.1", src_port=1)), Args(), "a protocol"),
        ("stop", Target(device=Device(device_id=DOMAIN)), Args(), "another device"),
        ("stop", Target(device=Device()), Args(start_time=int((NOW + 61) * 1000)), "after its deadline"),
        ("stop", Target(device=Device()), Args(start_time=int(NOW)), "in milliseconds"),
    ],
)  # fmt: skip
def test_what_no_provider_could_do_is_refused(action: str, target: Target, args: Args, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Command(action=action, target=target, args=args).check(MACHINE, now=NOW, deadline=NOW + 60)
    assert why in f"{refused.value.message} {refused.value.hint}"


# ---------------------------------------------------------------- privileged acts


def _statement(not_before: float, expires_at: float) -> Statement:
    return Statement(
        operation=ActKind.DUMP,
        object=MACHINE,
        arguments="sha256:" + "0" * 64,
        requester=DOMAIN,
        purpose="a crash",
        not_before=int(NOW + not_before),
        expires_at=int(NOW + expires_at),
        nonce="0" * 32,
    )


@pytest.mark.parametrize(
    ("not_before", "expires_at", "good"),
    [
        (0, 60, True),
        (-200, 60, True),
        (30 * 86400, 31 * 86400, True),
        (-200, 0, False),
        (-400, 60, False),
        (60, 60, False),
        (0, 8 * 86400, False),
        (32 * 86400, 33 * 86400, False),
    ],
)
def test_a_statement_that_could_hold(not_before: float, expires_at: float, good: bool) -> None:
    if good:
        _statement(not_before, expires_at).check(NOW)
    else:
        with pytest.raises(InvalidInput):
            _statement(not_before, expires_at).check(NOW)


def test_an_act_goes_on_and_never_back() -> None:
    order = ["asked", "granted", "taken"]
    ends = {one for one in ActState if one not in OPEN_ACTS}
    assert set(OPEN_ACTS) == set(order) and ends == set(ActState) - set(order)
    ways = {
        ActState.ASKED: {ActState.GRANTED, ActState.REFUSED, ActState.WITHDRAWN, ActState.EXPIRED},
        ActState.GRANTED: {ActState.TAKEN, ActState.REFUSED, ActState.WITHDRAWN, ActState.EXPIRED},
        ActState.TAKEN: {ActState.DONE, ActState.FAILED, ActState.REFUSED},
    }
    for was, to in itertools.product(ActState, ActState):
        if was is to or to in ways.get(was, set()):
            assert move(ACT_TRANSITIONS, was, to) is to
        else:
            with pytest.raises(Conflict):
                move(ACT_TRANSITIONS, was, to)
