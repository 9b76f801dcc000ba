"""Files of a blanket that are not as its image has them: measured against the image itself. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from supercloud.model.findings import Severity
from supercloud.security.detectors import INTEGRITY
from supercloud.security.detectors.told import Event, finding

CHANGED, MISSING, UNKNOWN = "changed-measured-file", "missing-measured-file", "unknown-program"
#: Findings of one look, at most: whoever changes everything is found as well.
MOST = 20


@dataclass(frozen=True, slots=True)
class Mark:
    """Of a file, what changes with it. `changed_ns`: the kernel's own moment of its last change, which nobody
    can set: what was written to has another one than the image, whatever else is as it was."""

    mode: int
    owner: int
    group: int
    size: int
    changed_ns: int


Marks = Mapping[str, Mark]
#: By its path: a file as the image has it, and as it is. None: it is not there.
Differences = Mapping[str, tuple[Mark | None, Mark | None]]


def differences(image: Marks, now: Marks, own: Sequence[str]) -> Differences:
    """`own`: under these folders nothing is but what the image has."""
    differ = {path: (mark, now.get(path)) for path, mark in image.items() if now.get(path) != mark}
    return differ | {
        path: (None, mark) for path, mark in now.items() if path not in image and path.startswith(tuple(own))
    }


class Integrity:
    """`look` as often as the files are. `boot` makes ids of events that no other process gave."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._number = 0
        self._told: dict[str, Mark | None] = {}

    def look(self, differ: Differences, same: Callable[[str], bool], at: float) -> list[Event]:
        """`same`: whether a file's content is the image's; asked of those whose marks differ."""
        found = [(path, self._wrong(path, *differ[path], same)) for path in self._fresh(differ)]
        events = [
            self._finding(path, *wrong, differ[path][1], at) for path, wrong in found if wrong is not None
        ]
        return events[:MOST]

    def _fresh(self, differ: Differences) -> list[str]:
        """Those that were not looked at since."""
        for path in set(self._told) - set(differ):
            del self._told[path]  # it is as it was
        fresh = [
            path for path, (_, mark) in differ.items() if path not in self._told or self._told[path] != mark
        ]
        self._told |= {path: differ[path][1] for path in fresh}
        return fresh

    @staticmethod
    def _wrong(
        path: str, known: Mark | None, mark: Mark | None, same: Callable[[str], bool]
    ) -> tuple[str, str] | None:
        if known is None:
            return UNKNOWN, f"{path} is not in the image"
        if mark is None:
            return MISSING, f"{path} of the image is gone"
        rights = (mark.mode, mark.owner, mark.group) == (known.mode, known.owner, known.group)
        if rights and mark.size == known.size and same(path):
            return None  # it was touched, and is the same
        return CHANGED, f"{path} is not as in the image" if rights else f"{path} has other rights"

    def _finding(self, path: str, rule: str, title: str, mark: Mark | None, at: float) -> Event:
        self._number += 1
        data = {"path": path} | ({} if mark is None else {"size": mark.size, "mode": oct(mark.mode)})
        return finding(
            INTEGRITY,
            uid=f"{self._boot}-{self._number}",
            rule=rule,
            title=title[:200],
            severity=Severity.HIGH if rule == UNKNOWN else Severity.CRITICAL,
            about=None,
            at=at,
            evidence={"data": data},
        )
