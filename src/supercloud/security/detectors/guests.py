"""What was seen inside a guest from outside, as findings. Pure: another process looks, and may lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from supercloud.model.findings import Severity
from supercloud.security.detectors import GUEST
from supercloud.security.detectors.told import Event, finding
from supercloud.security.introspection.look import Seen

HIDDEN_PROCESS, HIDDEN_MODULE = "hidden-process", "hidden-module"
HOOKED_CALL, CHANGED_TEXT = "hooked-system-call", "changed-kernel-text"
CANNOT_LOOK, LOOK_FAILED = "cannot-look", "look-failed"
#: What is still so is told again after so long (seconds).
AGAIN_S: Final = 60.0
#: A guest that boots anew cannot be looked at for a while; after so long it is told, once (seconds). The
#: first boot has more time: no kernel was seen there yet, and in an emulated blanket it takes minutes.
CANNOT_S, NEVER_S = 180.0, 900.0
#: Of one kind that are told of one guest at once, and of lists that are evidence only.
_MOST, _MOST_LISTED = 20, 40
_NOT_SHOWN: Final = re.compile(r"[^\x20-\x7e]")


class Guests:
    """`seen`, `cannot` and `failed` after each look. `about`: what the loop knows the guest by. `boot` makes
    ids of events that no other process has given."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._number = 0
        self._told: dict[tuple[str, str, str], float] = {}
        self._blind: dict[str, float] = {}  # since when
        self._looked: set[str] = set()

    def seen(self, about: str, seen: Seen, at: float) -> list[Event]:
        self._blind.pop(about, None)
        self._looked.add(about)
        found: list[Event] = []
        for process in seen.hidden[:_MOST]:
            title = f"A process is hidden from {process.missing}: {process.name}"
            found += self._told_once(
                about, HIDDEN_PROCESS, str(process.pid), title, at, seen, asdict(process)
            )
        for module in seen.hidden_modules[:_MOST]:
            title = f"A module is hidden from the kernel's list: {module}"
            found += self._told_once(about, HIDDEN_MODULE, module, title, at, seen, {"name": module})
        for call in seen.hooked[:_MOST]:
            title = f"System call {call.number} leads to {call.leads.symbol}"
            said = {
                "system_call": call.number,
                "symbol": call.leads.symbol,
                "address": hex(call.leads.address),
            }
            found += self._told_once(about, HOOKED_CALL, str(call.number), title, at, seen, said)
        if seen.changed:
            first = seen.changed[0]
            title = f"The kernel's code is changed at {first.symbol}"
            pages = [
                {"address": hex(one.address), "symbol": _clean(one.symbol)} for one in seen.changed[:_MOST]
            ]
            said = {"pages": pages, "changed": len(seen.changed), "of": seen.pages, "symbol": first.symbol}
            found += self._told_once(about, CHANGED_TEXT, hex(first.address), title, at, seen, said)
        return found

    def cannot(self, about: str, why: str, at: float) -> list[Event]:
        """It has been looked at, or not, and cannot be now."""
        since = self._blind.setdefault(about, at)
        before = about in self._looked
        told_s = CANNOT_S if before else NEVER_S
        if at - since < told_s or not self._due(about, CANNOT_LOOK, "", at, again_s=float("inf")):
            return []
        severity = Severity.MEDIUM if before else Severity.INFORMATIONAL
        said = {"reason": _clean(why), "looked_before": before}
        return [self._finding(about, CANNOT_LOOK, f"It cannot be looked at: {why}", severity, at, said)]

    def failed(self, about: str, why: str, at: float) -> list[Event]:
        """Whoever looked did not come to an end with it: a kernel that is what it says does no such thing."""
        if not self._due(about, LOOK_FAILED, "", at):
            return []
        return [
            self._finding(
                about,
                LOOK_FAILED,
                f"A look at it failed: {why}",
                Severity.MEDIUM,
                at,
                {"reason": _clean(why)},
            )
        ]

    def there(self, abouts: Iterable[str]) -> None:
        """Which guests there are; of others nothing is kept."""
        now = set(abouts)
        self._told = {key: at for key, at in self._told.items() if key[0] in now}
        self._blind = {about: at for about, at in self._blind.items() if about in now}
        self._looked &= now

    def _told_once(  # noqa: PLR0917 - of this class, from one place
        self, about: str, rule: str, what: str, title: str, at: float, seen: Seen, said: Mapping[str, Any]
    ) -> list[Event]:
        if not self._due(about, rule, what, at):
            return []
        processes = [f"{one.pid} {_clean(one.name)}" for one in seen.processes if one.parent != _KTHREADD]
        listens = [f"{one.protocol} {one.address}:{one.port}" for one in seen.sockets or () if not one.peer]
        evidence = {
            **{key: _clean(value) if isinstance(value, str) else value for key, value in said.items()},
            "release": _clean(seen.release),
            "processes": processes[-_MOST_LISTED:],
            "listens": [_clean(one) for one in listens[:_MOST_LISTED]],
        }
        return [self._finding(about, rule, title, Severity.CRITICAL, at, evidence)]

    def _due(self, about: str, rule: str, what: str, at: float, *, again_s: float = AGAIN_S) -> bool:
        key = (about, rule, what)
        if at - self._told.get(key, float("-inf")) < again_s:
            return False
        self._told[key] = at
        return True

    def _finding(  # noqa: PLR0917 - of this class, from three places
        self, about: str, rule: str, title: str, severity: Severity, at: float, said: Mapping[str, Any]
    ) -> Event:
        self._number += 1
        return finding(
            GUEST,
            uid=f"{self._boot}-{self._number}",
            rule=rule,
            title=_clean(title),
            severity=severity,
            about=about,
            at=at,
            evidence={"data": dict(said)},
        )


#: The parent of a kernel's own threads, which are no news.
_KTHREADD: Final = 2


def _clean(said: str) -> str:
    """A line of what a guest wrote somewhere."""
    return _NOT_SHOWN.sub("?", said)[:200]
