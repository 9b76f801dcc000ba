"""The reactions that the engine knows, found by whatever decides about them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Container, Iterator

from supercloud.model.names import Id, Name
from supercloud.model.reactions import ENDED, IN_FORCE, Aspect, Reaction, ReactionState

_HOUR_S = 3600.0
_ACTIVE = IN_FORCE | {ReactionState.ASKED}

Key = tuple[Id, Name, int, Id, str | None]


def key_of(one: Reaction) -> Key:
    """What it is another try of, if there is one of the same."""
    command = one.command
    return (one.incident, one.policy, one.step, command.about.id, command.net or command.component)


class Book:
    def __init__(self) -> None:
        self._all: dict[Id, Reaction] = {}
        self._tries: defaultdict[Key, dict[Id, None]] = defaultdict(dict)
        self._in_force: defaultdict[tuple[str, Aspect], dict[Id, None]] = defaultdict(dict)
        self._about: defaultdict[Id, dict[Id, None]] = defaultdict(dict)
        self._of_incident: defaultdict[Id, dict[Id, None]] = defaultdict(dict)
        self._active: defaultdict[Name, dict[Id, str]] = defaultdict(dict)
        self._lately: defaultdict[Name, deque[tuple[float, Id]]] = defaultdict(deque)
        self._ended: deque[tuple[float, Id]] = deque()

    def __getitem__(self, name: Id) -> Reaction:
        return self._all[name]

    def __iter__(self) -> Iterator[Reaction]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def get(self, name: Id) -> Reaction | None:
        return self._all.get(name)

    def put(self, one: Reaction) -> None:
        before = self._all.get(one.id)
        self._all[one.id] = one
        self._tries[key_of(one)][one.id] = None
        self._of_incident[one.incident][one.id] = None
        self._mark(self._in_force[one.command.subject], one, one.state in IN_FORCE)
        self._mark(self._about[one.command.about.id], one, one.state in IN_FORCE)
        if one.state in _ACTIVE:
            self._active[one.policy][one.id] = one.command.subject[0]
        else:
            self._active[one.policy].pop(one.id, None)
        if one.intended_at is not None and (before is None or before.intended_at is None):
            self._lately[one.policy].append((one.intended_at, one.id))
        if one.state in ENDED and (before is None or before.state not in ENDED):
            self._ended.append((one.ended_at or one.decided_at, one.id))

    @staticmethod
    def _mark(where: dict[Id, None], one: Reaction, there: bool) -> None:
        if there:
            where[one.id] = None
        else:
            where.pop(one.id, None)

    def tries(self, key: Key) -> list[Reaction]:
        return [self._all[name] for name in self._tries.get(key, ())]

    def in_force(self, subject: tuple[str, Aspect]) -> list[Reaction]:
        """Those that change that aspect of that thing, and are not being undone."""
        found = (self._all[name] for name in self._in_force.get(subject, ()))
        return [one for one in found if one.state is not ReactionState.UNDOING]

    def about(self, name: Id) -> list[Reaction]:
        """Those in force about an object."""
        return [self._all[one] for one in self._about.get(name, ())]

    def of_incident(self, name: Id) -> list[Reaction]:
        return [self._all[one] for one in self._of_incident.get(name, ())]

    def subjects(self, policy: Name, *, by: Id | None = None) -> set[str]:
        """What a policy has something in force for, or asked for; `by`: on this one's word."""
        active = self._active[policy]
        return {about for name, about in active.items() if by is None or self._all[name].by == by}

    def lately(self, policy: Name, now: float, *, by: Id | None = None) -> int:
        """How many a policy has intended within an hour; `by`: on this one's word."""
        line = self._lately[policy]
        while line and line[0][0] <= now - _HOUR_S:
            line.popleft()
        if by is None:
            return len(line)
        return sum(1 for _, name in line if (one := self._all.get(name)) is not None and one.by == by)

    def forget(self, now: float, kept: Container[Id]) -> None:
        """Those that ended over an hour ago, of incidents that are not `kept`."""
        for _ in range(len(self._ended)):
            if self._ended[0][0] > now - _HOUR_S:
                return
            at, name = self._ended.popleft()
            one = self._all.get(name)
            if one is None:
                continue
            if one.incident in kept:
                self._ended.append((at, name))
                continue
            del self._all[name]
            self._tries[key_of(one)].pop(name, None)
            self._of_incident[one.incident].pop(name, None)
            self._tidy(one)

    def _tidy(self, one: Reaction) -> None:
        if not self._tries.get(key_of(one)):
            self._tries.pop(key_of(one), None)
        if not self._of_incident.get(one.incident):
            self._of_incident.pop(one.incident, None)
        if not self._in_force.get(one.command.subject):
            self._in_force.pop(one.command.subject, None)
        if not self._about.get(one.command.about.id):
            self._about.pop(one.command.about.id, None)
