"""A plan while it is made: steps and refusals, by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any, Protocol, TypeVar

from supercloud.cli.declared.steps import Act, Call, Extra, Key, Kind, Plan, Refusal, Step
from supercloud.cli.declared.there import There
from supercloud.model.names import Name


class Named(Protocol):
    @property
    def name(self) -> Name: ...


N = TypeVar("N", bound=Named)
_MAKING = frozenset({"blanket.add", "instance.run", "instance.start"})


def named(things: Iterable[N]) -> dict[Name, N]:
    return {one.name: one for one in things}


def key(act: Act, kind: Kind, name: Name) -> Key:
    return f"{act} {kind} {name}"


class Draft:
    """What touches one instance is done in the order in which it was added, one after another, as the control
    plane does it. What is under way for a thing already is waited for; whatever would be done to it then is
    postponed, with all that needs it, until its state can be looked at again.
    """

    def __init__(self, cloud: Name, there: There) -> None:
        self.cloud = cloud
        self.there = there
        self._steps: dict[Key, Step] = {}
        self._postponed: dict[Key, Step] = {}
        self._refusals: list[Refusal] = []
        self._extras: list[Extra] = []
        self._last: dict[Name, Key] = {}

    def step(
        self,
        act: Act,
        kind: Kind,
        name: Name,
        what: str,
        call: Call,
        *,
        needs: Iterable[Key] = (),
        instances: Iterable[Name] = (),
    ) -> Key:
        """`needs` that turn out to be no steps count as done. `instances` are those that it touches."""
        before = {self._last[one] for one in instances if one in self._last}
        step = Step(act=act, kind=kind, name=name, what=what, call=call, needs=frozenset(before.union(needs)))
        touched = {(kind, name), *((Kind.INSTANCE, one) for one in instances)}
        busy = sorted(touched & self.there.under_way.keys())
        for one in busy:
            self._wait(*one)
        (self._postponed if busy else self._steps)[step.key] = step
        self._last.update(dict.fromkeys(instances, step.key))
        return step.key

    def comes_to_be(self, kind: Kind, name: Name) -> bool:
        """Whether it is being made at this moment."""
        found = self.there.under_way.get((kind, name))
        if found is None or found.kind not in _MAKING:
            return False
        instances = [name] if kind is Kind.INSTANCE else []
        self.step(Act.CREATE, kind, name, "", Call(method="GET", path=""), instances=instances)
        return True

    def is_busy(self, instance: Name) -> bool:
        """Whether its state is about to change."""
        return (Kind.INSTANCE, instance) in self.there.under_way

    def _wait(self, kind: Kind, name: Name) -> None:
        found = self.there.under_way[kind, name]
        call = Call(method="GET", path=f"/operations/{found.operation}")
        what = f"{found.kind} is under way"
        step = Step(act=Act.WAIT, kind=kind, name=name, what=what, call=call)
        self._steps[step.key] = step

    def post(self, kind: Kind, name: Name, verb: str, body: dict[str, Any] | None = None) -> Call:
        """A request about a thing of this cloud."""
        path = f"/{kind.section}/{name}/{verb}"
        return Call(method="POST", path=path, body=body, query={"cloud": self.cloud})

    def delete(self, kind: Kind, name: Name) -> Call:
        path = f"/{kind.section}/{name}"
        return Call(method="DELETE", path=path, query={"cloud": self.cloud}, durable=kind is not Kind.NETWORK)

    def refuse(self, kind: Kind, name: Name, field: str | None, why: str, hint: str) -> None:
        """`field` is the key in the file whose value differs."""
        path = (kind.section,) if kind is Kind.CLOUD else (kind.section, name)
        full = (*path, field) if field else path
        self._refusals.append(Refusal(kind=kind, name=name, path=full, why=why, hint=hint))

    def leave(self, kind: Kind, name: Name, what: str = "") -> None:
        self._extras.append(Extra(kind=kind, name=name, what=what))

    def has(self, act: Act, kind: Kind, name: Name) -> bool:
        return key(act, kind, name) in {**self._steps, **self._postponed}

    def keys(self, act: Act, kind: Kind) -> list[Key]:
        every = {**self._steps, **self._postponed}
        return [one for one, step in every.items() if (step.act, step.kind) == (act, kind)]

    def plan(self) -> Plan:
        every = {**self._steps, **self._postponed}
        graph = {one: step.needs & every.keys() for one, step in every.items()}
        postponed = set(self._postponed)
        steps = []
        for one in _in_order(graph):
            if graph[one] & postponed:
                postponed.add(one)
            if one not in postponed:
                steps.append(replace(every[one], needs=graph[one]))
        return Plan(
            cloud=self.cloud,
            steps=tuple(steps),
            refusals=tuple(self._refusals),
            extras=tuple(self._extras),
        )


def _in_order(graph: Mapping[Key, frozenset[Key]]) -> Iterable[Key]:
    """As they were added where nothing speaks against it.

    Raises:
        CycleError: steps wait for each other.
    """
    order = {one: index for index, one in enumerate(graph)}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=order.__getitem__)
        yield from ready
        sorter.done(*ready)
