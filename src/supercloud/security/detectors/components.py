"""Components of a blanket that are down, or come and go: from what their supervisor knows of them."""

from __future__ import annotations

import struct
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from supercloud.model.findings import Severity
from supercloud.model.names import Name
from supercloud.security.detectors import COMPONENTS
from supercloud.security.detectors.told import Event, finding

CRASHED, DOWN, RESTARTING = "component-crashed", "component-down", "component-restarting"
#: It is to be up and is not for so long; or has begun anew so often within so long.
DOWN_S, OFTEN, WITHIN_S = 3.0, 5, 60.0
_STATUS_BYTES = 20
#: supervise(8): after the moment come the process, whether it is paused, and what is wanted: u(p) or d(own).
_STATUS = struct.Struct("<12xIBcBB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`asked`: the process before this one ended as one does that is told to."""

    pid: int  # 0: there is none
    wanted: bool
    asked: bool = False


def parsed(data: bytes) -> Status | None:
    """runit's `supervise/status`. None: it is not whole."""
    if len(data) != _STATUS_BYTES:
        return None
    pid, _, want, _, _ = _STATUS.unpack(data)
    return Status(pid=pid, wanted=want == b"u")


def was_asked(ended: bytes) -> bool:
    """runsv's arguments for `finish`: the exit code (-1: by a signal) and the signal. Told to end, a program
    says 0, or SIGTERM ends it, as an upgrade does and whoever lets tools in. Root in a blanket may tell it so
    as well: who does that often is found by that."""
    return ended.split() in ([b"0", b"0"], [b"-1", b"15"])


class Components:
    """`look` as often as the statuses are read. `boot` makes ids of events that no other process gave."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._number = 0
        self._pids: dict[Name, int] = {}
        self._down_since: dict[Name, float] = {}
        self._told_down: set[Name] = set()
        self._begun: defaultdict[Name, deque[float]] = defaultdict(deque)

    def look(self, statuses: Mapping[Name, Status], at: float) -> list[Event]:
        found: list[Event] = []
        for name, status in statuses.items():
            if not status.wanted:
                self._forget(name)
                continue
            found += self._gone(name, at) if status.pid == 0 else self._there(name, status, at)
        return found

    def _there(self, name: Name, status: Status, at: float) -> list[Event]:
        pid, before = status.pid, self._pids.get(name)
        self._pids[name] = pid
        self._down_since.pop(name, None)
        self._told_down.discard(name)
        if before is None or before == pid:
            return []
        begun = self._begun[name]
        begun.append(at)
        while begun[0] < at - WITHIN_S:
            begun.popleft()
        if len(begun) >= OFTEN:
            many = len(begun)
            begun.clear()
            title = f"{name} began anew {many} times in {WITHIN_S:.0f} s"
            return [self._finding(RESTARTING, name, title, Severity.HIGH, at, pid=pid, times=many)]
        if status.asked:
            return []
        title = f"{name} ended by itself and was begun anew"
        return [self._finding(CRASHED, name, title, Severity.MEDIUM, at, pid=pid, before=before)]

    def _gone(self, name: Name, at: float) -> list[Event]:
        since = self._down_since.setdefault(name, at)
        if at - since < DOWN_S or name in self._told_down:
            return []
        self._told_down.add(name)
        return [self._finding(DOWN, name, f"{name} is down", Severity.HIGH, at, seconds=round(at - since, 1))]

    def _forget(self, name: Name) -> None:
        """Nobody wants it to run."""
        for known in (self._pids, self._down_since, self._begun):
            known.pop(name, None)
        self._told_down.discard(name)

    def _finding(
        self, rule: str, name: Name, title: str, severity: Severity, at: float, **said: object
    ) -> Event:
        self._number += 1
        return finding(
            COMPONENTS,
            uid=f"{self._boot}-{self._number}",
            rule=rule,
            title=title,
            severity=severity,
            about=None,
            at=at,
            evidence={"data": {"component": name, **said}},
        )
