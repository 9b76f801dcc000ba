"""Privileged acts on user data: what a provider asks for, and the statement that a user agrees to. Pure.

A statement is one exact act. Where the platform enforces consents, its user's signature under it, with the
challenge that the platform's monitor issues, is what the monitor takes (trust.consent). Elsewhere an answer
is a word between people: it binds our own interfaces only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Digest, Epoch, Id, Nonce


class ActKind(StrEnum):
    """Which act: each reads user data, or changes what protects it."""

    DUMP = "dump"  # the machine's memory, to a file
    INTROSPECT = "introspect"  # look into its memory while it runs
    CONSOLE = "console"
    SNAPSHOT = "snapshot"  # of its disk, or of all of it
    READ_DISK = "read-disk"
    CHANGE_KEY = "change-key"


class Operation(IntEnum):
    """The acts on memory that a platform's monitor knows, by their numbers in a consent
    (docs/spec/microhypervisor-consent.md)."""

    DUMP = 1
    INTROSPECT = 2
    MIGRATE = 3


#: What can be enforced: pages leave by the monitor alone, sealed to the user.
OF_MEMORY: Mapping[ActKind, Operation] = {
    ActKind.DUMP: Operation.DUMP,
    ActKind.INTROSPECT: Operation.INTROSPECT,
}
#: The SHA-256 of no arguments at all. An act on memory has none but its pages.
NO_ARGUMENTS = f"sha256:{hashlib.sha256().hexdigest()}"
#: Pages of 4 KiB that one act is about, at most: they leave over a serial port.
MOST_PAGES = 64
#: 2^48 bytes.
_PAGES_LIMIT = 1 << 36


class ActState(StrEnum):
    ASKED = "asked"
    GRANTED = "granted"  # by the user, who may still take it back
    TAKEN = "taken"  # the consent is before the platform's monitor, and what comes of it is not known yet
    DONE = "done"  # once: its pages are there, sealed to the user
    FAILED = "failed"  # the consent was refused below, or the platform did not answer: it is used up
    REFUSED = "refused"  # by the user
    WITHDRAWN = "withdrawn"  # by the provider
    EXPIRED = "expired"  # nobody said anything, or nobody did it in time


_A = ActState
ACT_TRANSITIONS: Mapping[ActState, frozenset[ActState]] = {
    _A.ASKED: frozenset({_A.GRANTED, _A.REFUSED, _A.WITHDRAWN, _A.EXPIRED}),
    _A.GRANTED: frozenset({_A.TAKEN, _A.REFUSED, _A.WITHDRAWN, _A.EXPIRED}),
    _A.TAKEN: frozenset({_A.DONE, _A.FAILED, _A.REFUSED}),
    _A.DONE: frozenset(),
    _A.FAILED: frozenset(),
    _A.REFUSED: frozenset(),
    _A.WITHDRAWN: frozenset(),
    _A.EXPIRED: frozenset(),
}
#: Something may still come of it.
OPEN_ACTS = frozenset(one for one, ways in ACT_TRANSITIONS.items() if ways)
#: Seconds: of what a statement covers, at most; and so far ahead it may begin.
LONGEST_S, AHEAD_S = 7 * 86400, 31 * 86400
#: A clock that is a little behind still asks for now.
_LATE_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One exact privileged act, without the signature that makes it a consent. Whole seconds since the
    epoch. `page` and `pages`, of 4 KiB in the machine's own addresses: what an act on memory is about.
    `epoch`: the launch of the machine that it was granted for, which a monitor below the platform checks;
    None: it was not, or there is no monitor, so that an answer binds our own interfaces only.
    """

    operation: ActKind
    object: Id  # the machine
    arguments: Digest  # SHA-256 of the arguments, which are not told to us
    requester: Id  # the domain
    purpose: str  # the provider's words
    not_before: int
    expires_at: int
    nonce: Nonce
    epoch: Epoch | None = None
    page: int | None = None
    pages: int | None = None

    def check(self, now: float) -> None:
        """
        Raises:
            InvalidInput: it could never hold, or for too long.
        """
        if not self.not_before < self.expires_at <= self.not_before + LONGEST_S:
            raise InvalidInput(f"an act expires after it may begin, and within {LONGEST_S // 86400} days")
        if not now - _LATE_S <= self.not_before <= now + AHEAD_S:
            raise InvalidInput(f"an act may begin within {AHEAD_S // 86400} days from now")
        if self.expires_at <= now:
            raise InvalidInput("it is over already")
        self._check_pages()

    def _check_pages(self) -> None:
        if self.page is None and self.pages is None:
            return
        if self.page is None or self.pages is None or self.operation not in OF_MEMORY:
            raise InvalidInput(f"pages are a first one and how many, of: {', '.join(OF_MEMORY)}")
        if not (1 <= self.pages <= MOST_PAGES and 0 <= self.page <= _PAGES_LIMIT - self.pages):
            raise InvalidInput(f"an act is about 1 to {MOST_PAGES} pages, below 2^48 bytes")
        if self.arguments != NO_ARGUMENTS:
            raise InvalidInput(
                "an act on pages has no other arguments", hint=f"their digest is {NO_ARGUMENTS}, or left out"
            )
