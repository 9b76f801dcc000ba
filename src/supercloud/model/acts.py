"""Privileged acts on user data: what a provider asks for, and the statement that a user would sign. Pure.

Nothing here grants anything. A statement is one exact act; its user's signature under it is a consent. The
signature, and what checks it on the way down, are not built yet: an act can be asked for, seen, refused,
taken back and left to expire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

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


class ActState(StrEnum):
    ASKED = "asked"
    REFUSED = "refused"  # by the user
    WITHDRAWN = "withdrawn"  # by the provider
    EXPIRED = "expired"  # nobody said anything


_A = ActState
#: A granted one will be a state of its own, with the consent; there is no way to it yet.
ACT_TRANSITIONS: Mapping[ActState, frozenset[ActState]] = {
    _A.ASKED: frozenset({_A.REFUSED, _A.WITHDRAWN, _A.EXPIRED}),
    _A.REFUSED: frozenset(),
    _A.WITHDRAWN: frozenset(),
    _A.EXPIRED: frozenset(),
}
#: Seconds: of what a statement covers, at most; and so far ahead it may begin.
LONGEST_S, AHEAD_S = 7 * 86400, 31 * 86400
#: A clock that is a little behind still asks for now.
_LATE_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One exact privileged act, without the signature that would make it a consent. Whole seconds since the
    epoch. `epoch`: the launch counter of the machine where a monitor below the platform checks it; None:
    there is none that could, so that a consent binds our own interfaces only.
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
