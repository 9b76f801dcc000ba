"""A plan and what became of it, for people and as JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from supercloud.cli.declared.read import Document
from supercloud.cli.declared.run import Outcome, Result
from supercloud.cli.declared.steps import Act, Key, Plan, Step
from supercloud.cli.output import printable

_SIGNS = {Act.CREATE: "+", Act.REMOVE: "-", Act.CLEAR: "-", Act.DETACH: "-", Act.STOP: "-"}


def print_plan(plan: Plan, document: Document) -> None:
    """A line for each step (`+` makes, `~` changes, `-` takes away), for each refusal (`!`), and a sum."""
    lines = [(_SIGNS.get(step.act, "~"), step.key, step.what) for step in plan.steps]
    lines += [
        ("!", f"{one.kind} {one.name}", f"{document.where(one.path)}: {one.why}; {one.hint}")
        for one in plan.refusals
    ]
    width = max((len(name) for _, name, _ in lines), default=0)
    for sign, name, what in lines:
        _line(f"{sign} {name.ljust(width)}  {what}")
    for extra in plan.extras:
        where = f" {extra.what}" if extra.what else ""
        _line(f"  {extra.kind} {extra.name}{where} is not in the file: left alone (--prune takes it away)")
    if lines:
        _line(_sum(plan))


def _sum(plan: Plan) -> str:
    signs = Counter(_SIGNS.get(step.act, "~") for step in plan.steps)
    counts = (
        (signs["+"], "to make"),
        (signs["~"], "to change"),
        (signs["-"], "to take away"),
        (len(plan.refusals), "that cannot be"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def plan_json(plan: Plan, document: Document, results: Mapping[Key, Result] | None = None) -> dict[str, Any]:
    return {
        "cloud": plan.cloud,
        "differs": plan.differs,
        "steps": [_step_json(step, (results or {}).get(step.key)) for step in plan.steps],
        "refused": [
            {
                "kind": one.kind,
                "name": one.name,
                "at": document.where(one.path),
                "why": one.why,
                "hint": one.hint,
            }
            for one in plan.refusals
        ],
        "extra": [{"kind": one.kind, "name": one.name} for one in plan.extras],
    }


def _step_json(step: Step, result: Result | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "step": step.key,
        "act": step.act,
        "kind": step.kind,
        "name": step.name,
        "what": step.what,
        "needs": sorted(step.needs),
    }
    if result is not None:
        error = result.error
        said |= {
            "outcome": result.outcome,
            "operation": result.operation,
            "error": {"code": error.code, "message": error.message, "hint": error.hint} if error else None,
        }
    return said


def print_results(plan: Plan, results: Mapping[Key, Result]) -> None:
    """What was done and what was not."""
    width = max((len(step.key) for step in plan.steps), default=0)
    for step in plan.steps:
        result = results[step.key]
        said = result.error.message if result.error else ""
        if result.outcome is Outcome.LEFT and result.operation:
            said = f"supercloud operation wait {result.operation} follows it"
        if result.outcome is Outcome.NOT_BEGUN:
            waits = sorted(need for need in step.needs if results[need].outcome is not Outcome.DONE)
            said = f"needs {', '.join(waits)}" if waits else _kept(step)
        _line(f"{step.key.ljust(width)}  {result.outcome}" + (f": {said}" if said else ""))


def _kept(step: Step) -> str:
    """Why a step did not begin that waited for nothing."""
    return "nothing is taken away after a failure" if step.act.takes_away else ""


def _line(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
