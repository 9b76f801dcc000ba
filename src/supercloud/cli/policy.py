"""Policies and rules as files: read with all that is wrong at its place, and tried on recorded events."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from pydantic import BaseModel, ValidationError

from supercloud.cli.declared.read import Wrong
from supercloud.cli.declared.tree import MAX_BYTES, Path, Place, Problem, parse
from supercloud.cli.declared.wrong import problems_of
from supercloud.model.errors import InvalidInput, NotFound, SupercloudError
from supercloud.model.findings import Finding, Layer, Object, ObjectKind
from supercloud.model.names import Id
from supercloud.model.reactions import POLICED, Reaction
from supercloud.security import policy as policies
from supercloud.security import replay, usual
from supercloud.security.engine import Action, Doing, Engine
from supercloud.security.events import Stand, take
from supercloud.security.policy import PolicyFile
from supercloud.security.rules import Rules
from supercloud.security.simulated import SimulatedActuator
from supercloud.security.terms import RuleSet

_NAMES = uuid.UUID("3e3d8c0e-1f7a-4b7e-8b52-8a8a1f0f3d4e")
_SECTIONS: dict[str, type[BaseModel]] = {
    "when": policies.When,
    "verify": policies.Verify,
    "bounds": policies.Bounds,
}


def load(file: File) -> PolicyFile:
    """
    Raises:
        Wrong: with every problem, each at its line; InvalidInput: it cannot be read.
    """
    try:
        content = file.read_bytes() if str(file) != "-" else sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    return read(content, str(file))


def read(content: bytes, title: str) -> PolicyFile:
    """Raises: Wrong."""
    tree = parse(content)
    problems = list(tree.problems)
    if tree.data is None and not problems:
        problems.append(
            Problem(Place(1, 1), "the file is empty", "`supercloud schema policy` says what it has")
        )
    model = None
    if tree.data is not None:
        try:
            model = PolicyFile.model_validate_json(json.dumps(tree.data))
        except ValidationError as error:
            problems += problems_of(error, tree, _part_at)
    if problems or model is None:
        raise Wrong(title, sorted(set(problems)))
    return model


def _part_at(path: Path) -> type[BaseModel] | None:
    """The model of the mapping at `path`."""
    match path:
        case ():
            return PolicyFile
        case ("policies", _):
            return policies.Policy
        case ("policies", _, "when", "relation"):
            return policies.Relation
        case ("policies", _, str(section)):
            return _SECTIONS.get(section)
        case ("policies", _, "do", int()):
            return policies.Do
    return None


# ---------------------------------------------------------------- rules


def rule_files(places: Sequence[File]) -> Iterator[tuple[str, bytes]]:
    """Every *.yml and *.yaml of the places, which are files or folders.

    Raises:
        InvalidInput: one cannot be read.
    """
    for place in places:
        if not place.exists():
            raise InvalidInput(f"there is no {place}")
        found = [place] if place.is_file() else sorted({*place.rglob("*.yml"), *place.rglob("*.yaml")})
        for one in found:
            try:
                yield str(one), one.read_bytes()
            except OSError as error:
                raise InvalidInput(f"{one} cannot be read: {error.strerror}") from error


def yara_of(places: Iterable[File]) -> str:
    """YARA's rules in these files, and in *.yar and *.yara of these folders, as one text that compiles.

    Raises:
        NotFound: one is not there. InvalidInput: what is wrong, and at which line of which file.
    """
    from supercloud.security.memoryscan import compiled
    from supercloud.security.terms import YARA_CHARS

    texts = []
    for place in places:
        inside = sorted([*place.rglob("*.yar"), *place.rglob("*.yara")]) if place.is_dir() else [place]
        for one in inside:
            try:
                text = one.read_text()
            except FileNotFoundError as error:
                raise NotFound(f"there is no {one}") from error
            except (OSError, UnicodeError) as error:
                raise InvalidInput(f"{one} cannot be read") from error
            try:
                compiled(text)
            except InvalidInput as error:
                raise InvalidInput(f"{one}: {error.message}") from error
            texts.append(text)
    whole = "\n".join(texts)
    if not whole.strip():
        raise InvalidInput("there are no YARA rules in that", hint="files end in .yar or .yara")
    if len(whole) > YARA_CHARS:
        raise InvalidInput(f"{len(whole)} characters of YARA rules are more than {YARA_CHARS}")
    compiled(whole)  # names may be in two files
    return whole


# ---------------------------------------------------------------- trying it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What would have come of the events."""

    events: int
    findings: int
    refused: tuple[str, ...]  # of events that no loop would take, each with why
    incidents: tuple[dict[str, Any], ...]

    def public(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "findings": self.findings,
            "refused": list(self.refused),
            "incidents": list(self.incidents),
        }


def tried(policy: PolicyFile, rules: RuleSet | None, lines: Iterator[tuple[int, Any]]) -> Tried:
    """What would have come of events, numbered."""
    return Trial(policy, None if rules is None else Rules(rules)).run(lines)


def replayed(policy: PolicyFile, rules: RuleSet | None, recording: Iterable[File]) -> Tried:
    """What would have come of what detectors were shown. `rules`: None: the usual ones.

    Raises:
        InvalidInput: there is no such recording, or it is none.
    """
    told = replay.events(replay.read(recording))
    return tried(policy, rules or usual.RULES, enumerate(told, 1))


class Trial:
    """The engine itself over an actuator without anything behind it. Time is the events' own."""

    def __init__(self, policy: PolicyFile, rules: Rules | None) -> None:
        self._now = 0.0
        self._rules = rules
        self._actuator = SimulatedActuator(now=lambda: self._now)
        self._engine = Engine(policy, takes=POLICED)
        self._known: set[Id] = set()
        self._events = self._findings = 0
        self._refused: list[str] = []
        self._incidents: dict[Id, Any] = {}
        self._reactions: dict[Id, Reaction] = {}

    def run(self, lines: Iterator[tuple[int, Any]]) -> Tried:
        for number, raw in lines:
            try:
                self._one(raw)
            except SupercloudError as error:
                if len(self._refused) < 1000:
                    self._refused.append(f"line {number}: {error.message}")
        self._pass(self._now + 7200.0)
        return Tried(
            events=self._events,
            findings=self._findings,
            refused=tuple(self._refused),
            incidents=tuple(self._shown(name) for name in self._incidents),
        )

    def _one(self, raw: Any) -> None:
        self._events += 1
        at = raw.get("time") if isinstance(raw, dict) else None
        if not isinstance(at, int) or isinstance(at, bool):
            raise InvalidInput("time is missing", hint="milliseconds since the epoch")
        if self._now == 0.0:
            self._now = at / 1000
        self._pass(at / 1000)
        taken = take(raw, _stand(raw), now=self._now)
        findings = [taken.finding] if taken.finding is not None else []
        for event in taken.events if self._rules is not None else ():
            assert self._rules is not None  # noqa: S101 - said a line above
            findings += [match.finding(self._now) for match in self._rules.see(event)]
        for finding in findings:
            self._take(finding)

    def _take(self, finding: Finding) -> None:
        if finding.id in self._known:
            return
        self._known.add(finding.id)
        self._findings += 1
        _, actions = self._engine.take(finding, self._now)
        self._do(actions)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if not self._engine.wanted(action):
                continue
            name, command = action.reaction.id, action.reaction.command
            match action.doing:
                case Doing.DO:
                    self._actuator.done(command)
                    self._do(self._engine.did(name, self._now, None))
                case Doing.UNDO:
                    self._actuator.take_back(command)
                    self._do(self._engine.undid(name, self._now, None))
                case Doing.LOOK:
                    self._do(self._engine.looked(name, self._now, self._actuator.seen(command)))
        self._note()

    def _pass(self, until: float) -> None:
        while (due := self._engine.next_due()) is not None and due <= until:
            self._now = max(self._now, due)
            self._do(self._engine.tick(self._now))
        self._now = max(self._now, until)
        self._note()

    def _note(self) -> None:
        changes = self._engine.changes()
        self._incidents |= changes.incidents
        self._reactions |= changes.reactions

    def _shown(self, name: Id) -> dict[str, Any]:
        incident = self._incidents[name]
        own = [one for one in self._reactions.values() if one.incident == name]
        return {
            "id": name,
            "state": incident.state,
            "severity": incident.severity,
            "title": incident.title,
            "objects": [one.id for one in incident.objects],
            "findings": incident.findings,
            "reactions": [
                {
                    "policy": one.policy,
                    "reaction": one.command.deed,
                    "about": one.command.net or one.command.about.id,
                    "state": one.state,
                    "why": one.why,
                    "command": one.command.as_openc2(one.decided_at),
                }
                for one in own
            ],
            "timeline": [
                {"at": one.at, "kind": one.kind, "says": one.says, "layer": one.layer}
                for one in incident.timeline
            ],
        }


def events_of(file: File) -> Iterator[tuple[int, Any]]:
    """One event a line, with the line's number. What is no JSON is said as such an event.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line[:MAX_BYTES])
                except (ValueError, RecursionError):
                    yield number, None
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error


def _stand(raw: dict[str, Any]) -> Stand:
    """As the recorded event says, since nobody else can: who has the file vouches for it."""
    said = raw.get("unmapped")
    said = said if isinstance(said, dict) else {}
    product = (raw.get("metadata") or {}).get("product") if isinstance(raw.get("metadata"), dict) else None
    name = product.get("name") if isinstance(product, dict) else None
    layer = said.get("layer")
    return Stand(
        detector=str(name or "events")[:63],
        layer=Layer(layer) if layer in set(Layer) else Layer.L2,
        domain=_id(said.get("domain"), "domain"),
        cloud=_id(said.get("cloud"), "cloud"),
        objects=lambda one: _object(one, said),
        proves=True,
    )


def _object(name: str | None, said: dict[str, Any]) -> Object:
    kind = said.get("object")
    known = ObjectKind(kind) if kind in set(ObjectKind) else ObjectKind.INSTANCE
    return Object(kind=known, id=_id(name, "object"))


def _id(name: object, of: str) -> Id:
    """Names are allowed here, where nothing is looked up."""
    try:
        return str(uuid.UUID(str(name)))
    except ValueError:
        return str(uuid.uuid5(_NAMES, f"{of}/{name}"))
