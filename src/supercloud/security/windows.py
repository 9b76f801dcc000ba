"""Correlations over a stream: what came within a time, counted in bounded memory.

Each correlation has groups, one for each value of its `group_by`. A group's room is bounded, and so is how
many groups the events about one object can make: who floods pushes out what it made itself, never another's.
Times are the events' own, so that a recorded stream is decided as it was.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from supercloud.model.names import Id
from supercloud.security.events import Event
from supercloud.security.match import Fields
from supercloud.security.terms import Correlation, Counting

#: Groups of one correlation that the events about one object may have made.
GROUPS = 1024
#: Of one rule in a group: what is remembered where one would do is the newest.
_TEMPORAL = 64
#: Events whose ids a match names.
NAMED = 32

_Key = tuple[object, ...]


@dataclass(slots=True)
class _Group:
    """`seen`: (moment, rule, value, event's uid), the oldest first."""

    owner: Id
    seen: deque[tuple[float, str, object, str]] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlated:
    """`uids` of some of the events that it is made of; `fields` that they agree in."""

    correlation: Correlation
    event: Event  # the last one
    fields: Fields
    uids: tuple[str, ...]
    many: int


class Windows:
    """Of one correlation."""

    def __init__(self, correlation: Correlation) -> None:
        self._of = correlation
        self._groups: OrderedDict[_Key, _Group] = OrderedDict()
        self._made: defaultdict[Id, OrderedDict[_Key, None]] = defaultdict(OrderedDict)
        #: Groups that were pushed out, by the object whose events did.
        self.dropped: defaultdict[Id, int] = defaultdict(int)

    def __len__(self) -> int:
        """Entries in memory."""
        return sum(len(group.seen) for group in self._groups.values())

    def see(self, rule: str, event: Event, fields: Fields) -> Correlated | None:
        """A match of one of its rules; what follows, if it is enough now. It begins anew after that."""
        key = self._key(rule, fields)
        if key is None:
            return None
        value = self._value(rule, fields)
        if self._of.counting is Counting.VALUE_COUNT and value is None:
            return None
        group = self._group(key, event.about.id)
        self._keep(group, (event.at, rule, value, event.uid))
        if not self._enough(group):
            return None
        uids = tuple(uid for *_, uid in group.seen)
        self._forget(key)
        agreed = dict(zip(self._of.group_by, key, strict=True))
        return Correlated(
            correlation=self._of,
            event=event,
            fields={**{name: fields[name] for name in ("object", "layer") if name in fields}, **agreed},  # type: ignore[dict-item]
            uids=uids[-NAMED:],
            many=len(uids),
        )

    def _key(self, rule: str, fields: Fields) -> _Key | None:
        """None: it lacks a field that events are grouped by, so that it is in no group."""
        key = tuple(fields.get(self._name(rule, name)) for name in self._of.group_by)
        return None if any(one is None for one in key) else key

    def _name(self, rule: str, name: str) -> str:
        aliases: Mapping[str, str] = self._of.aliases.get(name, {})
        return aliases.get(rule, name)

    def _value(self, rule: str, fields: Fields) -> object:
        if self._of.values_of is None:
            return None
        return fields.get(self._name(rule, self._of.values_of))

    def _group(self, key: _Key, owner: Id) -> _Group:
        found = self._groups.get(key)
        if found is not None:
            self._made[found.owner].move_to_end(key)
            return found
        made = self._made[owner]
        if len(made) >= GROUPS:
            oldest = next(iter(made))
            self._forget(oldest)
            self.dropped[owner] += 1
            made = self._made[owner]
        made[key] = None
        group = self._groups[key] = _Group(owner)
        return group

    def _forget(self, key: _Key) -> None:
        group = self._groups.pop(key)
        made = self._made[group.owner]
        made.pop(key, None)
        if not made:
            del self._made[group.owner]

    def _keep(self, group: _Group, entry: tuple[float, str, object, str]) -> None:
        """In the order of moments, of the time that counts, and no more than is needed to decide."""
        seen = group.seen
        newest = max(entry[0], seen[-1][0]) if seen else entry[0]
        while seen and seen[0][0] < newest - self._of.seconds:
            seen.popleft()
        if entry[0] < newest - self._of.seconds:
            return  # it came too late to count
        if self._of.counting is Counting.VALUE_COUNT:
            for old in [one for one in seen if one[2] == entry[2]]:
                seen.remove(old)
        if not seen or seen[-1][0] <= entry[0]:
            seen.append(entry)
        else:
            index = next(i for i, one in enumerate(seen) if one[0] > entry[0])
            seen.insert(index, entry)
        while len(seen) > self._room():
            seen.popleft()

    def _room(self) -> int:
        if self._of.counting in {Counting.TEMPORAL, Counting.TEMPORAL_ORDERED}:
            return _TEMPORAL * len(self._of.rules)
        return self._of.least

    def _enough(self, group: _Group) -> bool:
        match self._of.counting:
            case Counting.TEMPORAL:
                return {rule for _, rule, *_ in group.seen} >= set(self._of.rules)
            case Counting.TEMPORAL_ORDERED:
                wanted = iter(self._of.rules)
                next_one = next(wanted, None)
                for _, rule, *_ in group.seen:
                    if rule == next_one:
                        next_one = next(wanted, None)
                return next_one is None
        return len(group.seen) >= self._of.least
