"""The life of the cloud's authority: begun, replaced while everything runs, or made anew after a theft.

Replacing takes three steps, each of which waits until everybody was told of the one before (certificates are
renewed at half of their life, so that takes twelve hours):

    prepare   the next authority is trusted, the current one still issues
    switch    the next one issues, the previous one is still trusted
    retire    the previous one is trusted no more
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supercloud.keystore.records import AuthorityRecord, BlanketRecord, ControllerRecord, Role, Standing
from supercloud.keystore.vault import Vault
from supercloud.model.errors import Conflict, Refused
from supercloud.model.names import Id
from supercloud.trust.authority import Authority
from supercloud.trust.keys import IdentityKey

_ORDER = (Role.CURRENT, Role.NEXT, Role.PREVIOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStatus:
    """Who has not been told of the newest authority yet, and who still uses the previous one."""

    number: int  # of the current one
    replacing: bool
    untold: tuple[Id, ...]
    behind: tuple[Id, ...]


class Authorities:
    """Issues with the current authority, and says which ones to trust."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def begin(self, at: float) -> None:
        """Make the first authority, unless there is one."""
        if not self._vault.every(AuthorityRecord):
            self._add(1, Role.CURRENT, at)

    @property
    def current(self) -> Authority:
        record = self._record(Role.CURRENT)
        assert record is not None  # noqa: S101 - `begin` has run
        return Authority(record.certificate_pem, IdentityKey.from_pem(record.key_pem))

    @property
    def number(self) -> int:
        """Of the authority that issues."""
        record = self._record(Role.CURRENT)
        return 0 if record is None else record.number

    @property
    def newest(self) -> int:
        """Of the newest authority that is trusted."""
        return max((record.number for record in self._vault.every(AuthorityRecord)), default=0)

    def pem(self) -> str:
        """Every authority to trust now, the issuing one first."""
        records = sorted(self._vault.every(AuthorityRecord), key=lambda record: _ORDER.index(record.role))
        return "".join(record.certificate_pem for record in records)

    def status(self, at: float) -> AuthorityStatus:
        blankets = [
            record for record in self._vault.every(BlanketRecord) if record.standing is Standing.ADMITTED
        ]
        controllers = [record for record in self._vault.every(ControllerRecord) if record.expires_at > at]
        certified: list[BlanketRecord | ControllerRecord] = [*blankets, *controllers]
        newest, number = self.newest, self.number
        return AuthorityStatus(
            number=number,
            replacing=len(self._vault.every(AuthorityRecord)) > 1,
            untold=tuple(one.name for one in certified if one.trusts < newest),
            behind=tuple(one.name for one in certified if one.issued_by < number),
        )

    def prepare(self, at: float) -> None:
        """Raises: Conflict (a replacement is under way)."""
        if len(self._vault.every(AuthorityRecord)) > 1:
            raise Conflict("an authority is being replaced already", hint="switch and retire first")
        self._add(self.newest + 1, Role.NEXT, at, after=self.current)

    def switch(self, at: float, *, force: bool) -> None:
        """Raises: Conflict (nothing prepared), Refused (somebody would be cut off)."""
        following, current = self._record(Role.NEXT), self._record(Role.CURRENT)
        if following is None or current is None:
            raise Conflict("no next authority is prepared")
        _refuse("have not been told of the next authority", self.status(at).untold, force)
        self._vault.put(replace(current, role=Role.PREVIOUS))
        self._vault.put(replace(following, role=Role.CURRENT))

    def retire(self, at: float, *, force: bool) -> None:
        """Raises: Conflict (nothing to retire), Refused (somebody would be cut off)."""
        previous = self._record(Role.PREVIOUS)
        if previous is None:
            raise Conflict("no previous authority is left")
        _refuse("still use the previous authority", self.status(at).behind, force)
        self._vault.delete(previous)

    def recreate(self, at: float) -> None:
        """Trust none of the old ones from now on: for a stolen key. Every blanket has to join again."""
        number = self.newest + 1
        for authority in self._vault.every(AuthorityRecord):
            self._vault.delete(authority)
        for controller in self._vault.every(ControllerRecord):
            self._vault.delete(controller)
        for blanket in self._vault.every(BlanketRecord):
            if blanket.standing is not Standing.REVOKED:
                self._vault.put(expelled(blanket))
        self._add(number, Role.CURRENT, at)

    def _record(self, role: Role) -> AuthorityRecord | None:
        return next((one for one in self._vault.every(AuthorityRecord) if one.role is role), None)

    def _add(self, number: int, role: Role, at: float, *, after: Authority | None = None) -> None:
        authority = Authority.new(at=at, after=after)
        self._vault.put(
            AuthorityRecord(
                number=number,
                role=role,
                certificate_pem=authority.certificate_pem,
                key_pem=authority.key.to_pem(),
            )
        )


def expelled(blanket: BlanketRecord) -> BlanketRecord:
    """The same blanket, known by name only: it may be invited again, and its volume keys wait for it."""
    return BlanketRecord(
        blanket=blanket.blanket,
        cloud=blanket.cloud,
        standing=Standing.EXPELLED,
        approved=False,  # whoever joins under this name now is to be looked at again
    )


def _refuse(why: str, who: tuple[Id, ...], force: bool) -> None:
    if who and not force:
        raise Refused(
            f"{len(who)} {why}: {', '.join(who[:5])}",
            hint="wait for their next renewal (12 hours), revoke them, or force it and invite them again",
        )
