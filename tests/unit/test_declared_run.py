"""Carrying a plan out: what begins when, how much at once, and what is left when it ends early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from supercloud.cli.declared.run import Outcome, Run
from supercloud.cli.declared.show import print_results
from supercloud.cli.declared.steps import Act, Call, Kind, Plan, Step
from supercloud.cli.output import board
from supercloud.model.errors import Conflict, Failed, NotFound, Refused, Unavailable

pytestmark = pytest.mark.unit


def step(name: str, *needs: str, act: Act = Act.CREATE) -> Step:
    return Step(
        act=act,
        kind=Kind.INSTANCE,
        name=name,
        what="",
        call=Call(method="POST", path=f"/{name}"),
        needs=frozenset(f"create instance {one}" for one in needs),
    )


class Control:
    """Every client of it. `works` do what an operation takes; one that was cancelled is refused."""

    def __init__(self, works: Mapping[str, Callable[[], None]] | None = None) -> None:
        self.works = works or {}
        self.begun: list[str] = []
        self.bodies: dict[str, object] = {}
        self.cancelled: dict[str, threading.Event] = {}
        self.under_way = 0
        self.most = 0
        self._lock = threading.Lock()

    def get(self, path: str, **query: object) -> Any:
        return []

    def post(self, path: str, body: object = None, **query: object) -> Any:
        words = path.strip("/").split("/")
        if words[0] == "operations":
            self.cancelled[words[1]].set()
            return {"id": words[1], "kind": "k"}
        with self._lock:
            self.begun.append(words[0])
            self.bodies[words[0]] = body
            self.cancelled[words[0]] = threading.Event()
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        return {"id": words[0], "kind": "k"}

    def wait(self, operation: Mapping[str, Any], watch: Callable[..., None]) -> None:
        try:
            self.works.get(operation["id"], lambda: None)()
        finally:
            with self._lock:
                self.under_way -= 1


def sealed(user_data: str, instance: str) -> dict[str, Any]:
    if user_data == "unsealable":
        raise Unavailable("the key store does not run")
    return {"digest": instance, "ciphertext": user_data[::-1]}


def run(control: Control, *steps: Step, at_once: int = 8) -> Run:
    plan = Plan(cloud="mine", steps=steps, refusals=(), extras=())
    with board(quiet=True) as shown:
        return Run(plan, lambda: control, sealed, shown, at_once=at_once)  # type: ignore[arg-type,return-value]


def outcomes(done: Run) -> dict[str, Outcome]:
    return {key.removeprefix("create instance "): one.outcome for key, one in done.results.items()}


def test_each_step_begins_once_what_it_needs_is_done() -> None:
    control = Control()
    done = run(control, step("a"), step("b", "a"), step("c", "b"), step("d"))
    done.all()
    assert set(outcomes(done).values()) == {Outcome.DONE}
    assert control.begun.index("a") < control.begun.index("b") < control.begun.index("c")


def test_user_data_is_sealed_as_it_is_asked_for() -> None:
    def secret(name: str, text: str) -> Step:
        made = step(name)
        return replace(made, call=replace(made.call, body={"vcpus": 1}, user_data=text))

    control = Control()
    done = run(control, secret("a", "clear"), secret("b", "unsealable"), step("c"))
    done.all()
    assert control.bodies["a"] == {"vcpus": 1, "user_data": {"digest": "a", "ciphertext": "raelc"}}
    assert outcomes(done) == {"a": Outcome.DONE, "b": Outcome.FAILED, "c": Outcome.DONE}
    assert "b" not in control.begun, "nothing is asked for without its user data"


def test_several_at_once_and_no_more() -> None:
    """Each waits until as many are there as there may be."""
    both = threading.Barrier(2, timeout=20)
    control = Control(dict.fromkeys("abcd", lambda: both.wait() and None))
    done = run(control, *(step(name) for name in "abcd"), at_once=2)
    done.all()
    assert control.most == 2 and set(outcomes(done).values()) == {Outcome.DONE}


def test_after_a_failure_nothing_is_taken_away() -> None:
    def fails() -> None:
        raise Conflict("there is one already", hint="look")

    control = Control({"a": fails})
    done = run(control, step("a"), step("b", "a"), step("c"), step("old", "c", act=Act.REMOVE), at_once=1)
    done.all()
    assert outcomes(done) == {
        "a": Outcome.FAILED,
        "b": Outcome.NOT_BEGUN,
        "c": Outcome.DONE,
        "remove instance old": Outcome.NOT_BEGUN,
    }
    error = done.results["create instance a"].error
    assert error is not None and error.hint == "look" and control.begun == ["a", "c"]


def test_what_is_not_there_any_more_is_taken_away() -> None:
    """Whoever did that, and however often it is asked for; but nothing that is not there is made with."""

    def gone() -> None:
        raise NotFound("there is no such thing")

    control = Control({"old": gone, "a": gone})
    done = run(control, step("old", act=Act.REMOVE), step("a"), step("b", "a"), at_once=1)
    done.all()
    assert outcomes(done) == {
        "remove instance old": Outcome.DONE,
        "a": Outcome.FAILED,
        "b": Outcome.NOT_BEGUN,
    }


def test_what_is_left_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise Unavailable("its blanket is away")

    old, new = step("old", act=Act.REMOVE), step("new", act=Act.REMOVE)
    needing = replace(step("more", act=Act.REMOVE), needs=frozenset({old.key}))
    done = run(Control({"old": fails}), old, new, needing, at_once=1)
    done.all()
    print_results(Plan(cloud="mine", steps=(old, new, needing), refusals=(), extras=()), done.results)
    said = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in said] == [
        "remove instance old failed: its blanket is away",
        "remove instance new not begun: nothing is taken away after a failure",
        "remove instance more not begun: needs remove instance old",
    ]


def test_a_bug_in_a_step_does_not_hang_the_others() -> None:
    def breaks() -> None:
        raise KeyError("x")

    done = run(Control({"a": breaks}), step("a"), step("b"))
    done.all()
    error = done.results["create instance a"].error
    assert isinstance(error, Failed) and "a bug: KeyError" in error.message
    assert outcomes(done)["b"] is Outcome.DONE


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_cancels_and_begins_nothing_more() -> None:
    control = Control()

    def until_cancelled() -> None:
        interrupt()
        assert control.cancelled["a"].wait(20)
        raise Refused("cancelled")

    control.works = {"a": until_cancelled}
    done = run(control, step("a"), step("b", "a"))
    with pytest.raises(KeyboardInterrupt):
        done.all()
    assert outcomes(done) == {"a": Outcome.CANCELLED, "b": Outcome.NOT_BEGUN}


def test_a_second_ctrl_c_leaves_what_is_under_way() -> None:
    control, end = Control(), threading.Event()

    def goes_on() -> None:
        interrupt()
        assert control.cancelled["a"].wait(20)
        interrupt()
        end.wait(20)

    control.works = {"a": goes_on}
    done = run(control, step("a"), step("b", "a"))
    try:
        with pytest.raises(KeyboardInterrupt):
            done.all()
        assert outcomes(done) == {"a": Outcome.LEFT, "b": Outcome.NOT_BEGUN}
        assert done.results["create instance a"].operation == "a"
    finally:
        end.set()
