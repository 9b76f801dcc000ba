"""Rules at work: events in, matches out, and of each match the finding that it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Finding, Severity
from supercloud.model.names import Id
from supercloud.security.events import Event, finding_id
from supercloud.security.match import Condition, Fields, compiled
from supercloud.security.terms import Correlation, Rule, RuleSet
from supercloud.security.windows import Correlated, Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that an event, or several, fulfilled."""

    rule: str
    title: str
    severity: Severity
    event: Event
    fields: Fields
    uids: tuple[str, ...]
    many: int = 1

    def finding(self, now: float) -> Finding:
        """As if a detector had said it. The same events make the same one."""
        stand = self.event.stand
        return Finding(
            id=finding_id(stand, f"{self.rule}/{self.uids[0]}/{self.uids[-1]}"),
            layer=stand.layer,
            domain=stand.domain,
            cloud=stand.cloud,
            object=self.event.about,
            severity=self.severity,
            title=self.title,
            rule=self.rule,
            at=self.event.at,
            received_at=now,
            evidence=(self._evidence(),),
        )

    def _evidence(self) -> Mapping[str, Any]:
        """OCSF's words for what the event had, and what the match is made of."""
        fields = self.fields
        ends = {
            side: {"ip": fields.get(f"{short}_ip"), "port": fields.get(f"{short}_port")}
            for side, short in (("src_endpoint", "src"), ("dst_endpoint", "dst"))
            if fields.get(f"{short}_ip") is not None
        }
        data = {"events": self.many, "uids": list(self.uids), "proven": self.event.stand.proves}
        return {**ends, "data": data}


class Rules:
    """One rule set. `see` in the order in which events came; what it remembers is bounded (`windows.py`)."""

    def __init__(self, rules: RuleSet) -> None:
        """
        Raises:
            InvalidInput: a pattern that cannot be used, or a correlation of what is not there.
        """
        self._by_source: defaultdict[str, list[tuple[Rule, Condition]]] = defaultdict(list)
        for rule in rules.rules:
            self._by_source[rule.source].append((rule, compiled(rule.condition)))
        self._windows = {one.id: (one, Windows(one)) for one in rules.correlations}
        self._parts: defaultdict[str, list[str]] = defaultdict(list)
        known = {one.id for one in rules.rules} | set(self._windows)
        for one in rules.correlations:
            for part in dict.fromkeys(one.rules):
                if part not in known:
                    raise InvalidInput(f"correlation {one.id} is of {part}, which is no rule here")
                self._parts[part].append(one.id)

    @property
    def sources(self) -> Collection[str]:
        """Whose events any rule looks at."""
        return self._by_source.keys()

    @property
    def remembered(self) -> int:
        """Entries in the windows."""
        return sum(len(windows) for _, windows in self._windows.values())

    @property
    def dropped(self) -> Mapping[Id, int]:
        """Groups that were pushed out of the windows, by the object whose events did."""
        many: defaultdict[Id, int] = defaultdict(int)
        for _, windows in self._windows.values():
            for about, count in windows.dropped.items():
                many[about] += count
        return many

    def see(self, event: Event) -> list[Match]:
        """What is to be reported of it."""
        found: list[Match] = []
        for rule, condition in self._by_source.get(event.source, ()):
            if condition(event.fields):
                match = Match(
                    rule=rule.id,
                    title=rule.title,
                    severity=rule.severity,
                    event=event,
                    fields=event.fields,
                    uids=(event.uid,),
                )
                if rule.reports:
                    found.append(match)
                found += self._correlate(rule.id, event, event.fields)
        return found

    def _correlate(self, rule: str, event: Event, fields: Fields) -> Iterator[Match]:
        for name in self._parts.get(rule, ()):
            of, windows = self._windows[name]
            correlated = windows.see(rule, event, fields)
            if correlated is None:
                continue
            if of.reports:
                yield _match(of, correlated)
            yield from self._correlate(name, event, correlated.fields)


def _match(of: Correlation, found: Correlated) -> Match:
    return Match(
        rule=of.id,
        title=of.title,
        severity=of.severity,
        event=found.event,
        fields={**found.event.fields, **found.fields},
        uids=found.uids,
        many=found.many,
    )
