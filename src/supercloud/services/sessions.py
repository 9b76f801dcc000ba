"""Browsers' sessions: a code that works once, and the session that it is exchanged for.

A browser has no key to prove. Whoever has one asks for a code with it, and the browser that shows the code
acts with the very token that asked, no more, until that token counts no more or the session is over. What a
browser is given is known here by its hash only. All of it is in this process's memory: who takes the store or
the disk finds no session, and a control plane that starts anew knows none.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from supercloud.model.errors import Unauthenticated
from supercloud.model.names import Id
from supercloud.services.doorkeeper import Bearer

CODE_S = 60.0
LASTS_S, IDLE_S = 8 * 3600.0, 1800.0
#: Of one principal at once. The oldest make room.
CODES_OF_ONE, SESSIONS_OF_ONE = 16, 32
_BYTES = 32


def _now() -> float:
    """Seconds; of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Kept:
    bearer: Bearer
    until: float
    used: float

    @property
    def principal(self) -> Id:
        return self.bearer.token.principal


_Shelf = dict[bytes, _Kept]


class Sessions:
    """Codes and sessions of one controller."""

    def __init__(self, *, now: Callable[[], float] = _now) -> None:
        self._now = now
        self._codes: _Shelf = {}
        self._sessions: _Shelf = {}

    def code(self, bearer: Bearer) -> str:
        """For whoever shows it within `CODE_S`, once."""
        return self._put(self._codes, bearer, CODE_S, CODES_OF_ONE)

    def behind(self, code: str) -> Bearer:
        """Who asked for a code, which stays good. Raises: Unauthenticated."""
        return self._known_code(code).bearer

    def begin(self, code: str) -> str:
        """The session that a code is good for; the code is used up.

        Raises:
            Unauthenticated: it is unknown, used, or too old.
        """
        kept = self._known_code(code)
        del self._codes[_hash(code)]
        return self._put(self._sessions, kept.bearer, LASTS_S, SESSIONS_OF_ONE)

    def find(self, session: str, *, acts: bool) -> Bearer:
        """Whose it is. `acts`: somebody does something, so that it is not idle.

        Raises:
            Unauthenticated: it is over, or never was.
        """
        now = self._now()
        kept = self._sessions.get(_hash(session))
        if kept is None or now > kept.until or now > kept.used + IDLE_S:
            self.end(session)
            raise Unauthenticated("you are not signed in, or no more", hint="supercloud web")
        if acts:
            kept.used = now
        return kept.bearer

    def end(self, session: str) -> None:
        """Signed out. Repeating it is harmless."""
        self._sessions.pop(_hash(session), None)

    def _known_code(self, code: str) -> _Kept:
        kept = self._codes.get(_hash(code))
        if kept is None or self._now() > kept.until:
            raise Unauthenticated("that code is unknown, was used, or is too old", hint="supercloud web")
        return kept

    def _put(self, shelf: _Shelf, bearer: Bearer, lasts_s: float, most: int) -> str:
        now = self._now()
        for key in [one for one, kept in shelf.items() if now > kept.until]:
            del shelf[key]
        same = [one for one, kept in shelf.items() if kept.principal == bearer.token.principal]
        for key in same[: max(0, len(same) - most + 1)]:
            del shelf[key]
        made = secrets.token_urlsafe(_BYTES)
        shelf[_hash(made)] = _Kept(bearer, now + lasts_s, now)
        return made


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
