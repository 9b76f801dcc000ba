"""What YARA's rules found in a guest's memory, as findings. Pure: another process scans, and may lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from supercloud.model.findings import Severity
from supercloud.security.detectors import CANNOT_SCAN, MEMORY, YARA_RULE
from supercloud.security.detectors.told import Event, finding
from supercloud.security.memoryscan import Match

#: What is still so is told again after so long (seconds).
AGAIN_S: Final = 3600.0


class Scans:
    """`boot` makes ids of events that no other process has given."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._number = 0
        self._told: dict[tuple[str, str], float] = {}

    def found(self, about: str, matches: Iterable[Match], at: float) -> list[Event]:
        return [
            self._finding(
                about,
                f"{YARA_RULE}{one.rule}",
                f"YARA rule {one.rule} matches in its memory",
                one.severity,
                at,
                {
                    "rule": one.rule,
                    "many": one.many,
                    "places": [
                        {"address": hex(place.address), "string": place.string, "length": place.length}
                        for place in one.places
                    ],
                },
            )
            for one in matches
            if self._due(about, one.rule, at)
        ]

    def cannot(self, about: str, why: str, at: float) -> list[Event]:
        if not self._due(about, "", at):
            return []
        said = {"reason": why[:200]}
        title = f"Its memory could not be scanned: {why}"[:200]
        return [self._finding(about, CANNOT_SCAN, title, Severity.LOW, at, said)]

    def there(self, abouts: Iterable[str]) -> None:
        """Which guests there are; of others nothing is kept."""
        now = set(abouts)
        self._told = {key: at for key, at in self._told.items() if key[0] in now}

    def anew(self, about: str | None = None) -> None:
        """There are other rules; or somebody wants to know what is so of one guest."""
        self._told = {} if about is None else {key: at for key, at in self._told.items() if key[0] != about}

    def _due(self, about: str, rule: str, at: float) -> bool:
        if at - self._told.get((about, rule), float("-inf")) < AGAIN_S:
            return False
        self._told[(about, rule)] = at
        return True

    def _finding(  # noqa: PLR0917 - of this class, from two places
        self, about: str, rule: str, title: str, severity: Severity, at: float, said: Mapping[str, object]
    ) -> Event:
        self._number += 1
        return finding(
            MEMORY,
            uid=f"{self._boot}-{self._number}",
            rule=rule,
            title=title,
            severity=severity,
            about=about,
            at=at,
            evidence={"data": dict(said)},
        )
