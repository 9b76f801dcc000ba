"""Files of a blanket that are not as its image has them: measured against the image itself. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class Integrity:
    """`look` as often as the files are. `image`: their marks there. `own`: under these folders nothing is but
    what the image has. `boot` makes ids of events that no other process gave."""

    def __init__(self, boot: str, image: Marks, own: tuple[str, ...]) -> None:
        self._boot = boot
        self._image = image
        self._own = own
        self._number = 0
        self._told: dict[str, Mark | None] = {}

    def look(self, now: Marks, same: Callable[[str], bool], at: float) -> list[Event]:
        """`same`: whether a file's content is the image's; asked of those whose marks differ."""
        found = [(path, self._wrong(path, now.get(path), same)) for path in self._differing(now)]
        events = [
            self._finding(path, *wrong, now.get(path), at) for path, wrong in found if wrong is not None
        ]
        return events[:MOST]

    def _differing(self, now: Marks) -> list[str]:
        """And not looked at since."""
        differ = [path for path, mark in self._image.items() if now.get(path) != mark]
        differ += [path for path in now if path not in self._image and path.startswith(self._own)]
        for path in set(self._told) - set(differ):
            del self._told[path]  # it is as it was
        fresh = [path for path in differ if path not in self._told or self._told[path] != now.get(path)]
        self._told |= {path: now.get(path) for path in fresh}
        return fresh

    def _wrong(self, path: str, mark: Mark | None, same: Callable[[str], bool]) -> tuple[str, str] | None:
        known = self._image.get(path)
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
