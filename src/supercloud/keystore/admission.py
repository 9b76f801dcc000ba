"""Blankets: invited, admitted, renewed, revoked."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace

import structlog

from supercloud.keystore.authorities import Authorities
from supercloud.keystore.records import BlanketRecord, EvidenceKeyRecord, Policy, Settings, Standing
from supercloud.keystore.vault import Vault
from supercloud.model.errors import Conflict, Denied, InvalidInput, NotFound
from supercloud.model.names import Id
from supercloud.ports.keystore import JoinAnswer, JoinRequest, JoinToken
from supercloud.trust.authority import LIFETIME_S
from supercloud.trust.canonical import canonical
from supercloud.trust.join import check_join
from supercloud.trust.keys import SealingKey, key_of_csr, sealing_public, to_text

_SECRET_BYTES = 32
MAX_INVITATION_S = 24 * 3600.0
_log = structlog.get_logger(__name__)


class Admission:
    """Decides who is a blanket of which cloud, and with which keys. Callers hold a transaction."""

    def __init__(self, vault: Vault, authorities: Authorities, now: Callable[[], float]) -> None:
        self._vault = vault
        self._authorities = authorities
        self._now = now

    def invite(self, cloud: Id, blanket: Id, lifetime_s: float) -> JoinToken:
        """A repeat for one that has not joined gives the same secret, so that a retried start is harmless."""
        if not 0 < lifetime_s <= MAX_INVITATION_S:
            raise InvalidInput(f"an invitation lasts at most {MAX_INVITATION_S:g} s")
        known = self._vault.get(BlanketRecord, blanket)
        if known is not None:
            if known.standing is Standing.REVOKED:
                raise Denied(f"blanket {blanket} is revoked")
            if known.cloud != cloud:
                raise Conflict(f"blanket {blanket} belongs to another cloud")
            if known.standing is Standing.ADMITTED:
                raise Conflict(f"blanket {blanket} has joined already")
        expires_at = self._now() + lifetime_s
        alive = known is not None and known.secret is not None and known.expires_at > self._now()
        secret = known.secret if known is not None and alive else None
        invited = BlanketRecord(
            blanket=blanket,
            cloud=cloud,
            standing=Standing.INVITED,
            secret=secret or secrets.token_urlsafe(_SECRET_BYTES),
            expires_at=expires_at,
        )
        self._vault.put(invited)
        _log.info("keystore.invited", blanket=blanket, cloud=cloud)
        return JoinToken(
            blanket=blanket,
            cloud=cloud,
            secret=invited.secret or "",
            authority_pem=self._authorities.pem(),
            expires_at=expires_at,
        )

    def admit(self, request: JoinRequest) -> JoinAnswer:
        """The identical request again gets a certificate of the same keys.

        So a lost answer does not cost a blanket, and one that slept longer than its certificate comes back.
        """
        known = self._vault.get(BlanketRecord, request.blanket)
        if known is None:
            raise NotFound(f"blanket {request.blanket} was never invited")
        if known.standing is Standing.REVOKED:
            raise Denied(f"blanket {known.blanket} is revoked")
        digest = _digest(request)
        if known.standing is Standing.ADMITTED:
            if not secrets.compare_digest(digest, known.join_digest or ""):
                raise Conflict(f"the invitation of blanket {known.blanket} was used already")
            return self._certify(known, request.csr_pem)
        if known.secret is None or known.expires_at <= self._now():
            raise Denied(f"the invitation of blanket {known.blanket} has expired")
        check_join(request, known.secret)
        key = key_of_csr(request.csr_pem)
        sealing_public(request.sealing_key)
        admitted = replace(
            known,
            standing=Standing.ADMITTED,
            secret=None,
            join_digest=digest,
            public_key=to_text(key.public_bytes_raw()),
            sealing_key=request.sealing_key,
        )
        _log.info("keystore.admitted", blanket=known.blanket, cloud=known.cloud)
        return self._certify(admitted, request.csr_pem)

    def renew(self, blanket: Id, csr_pem: str) -> JoinAnswer:
        """Only for the key that joined: whoever relays the request cannot have its own key certified."""
        known = self.admitted(blanket)
        if to_text(key_of_csr(csr_pem).public_bytes_raw()) != known.public_key:
            raise Denied(f"blanket {blanket} joined with another key")
        return self._certify(known, csr_pem)

    def revoke(self, blanket: Id) -> None:
        """For ever, whether it was ever invited or not."""
        known = self._vault.get(BlanketRecord, blanket)
        gone = BlanketRecord(
            blanket=blanket,
            cloud=None if known is None else known.cloud,
            standing=Standing.REVOKED,
            # What it signed before can be looked at still.
            public_key=None if known is None else known.public_key,
        )
        self._vault.put(gone)
        _log.info("keystore.revoked", blanket=blanket)

    def revoked(self) -> tuple[Id, ...]:
        every = self._vault.every(BlanketRecord)
        return tuple(record.blanket for record in every if record.standing is Standing.REVOKED)

    def approve(self, blanket: Id) -> None:
        """Once it has joined: what is approved is the keys that it joined with."""
        self._vault.put(replace(self.admitted(blanket), approved=True))

    def admitted(self, blanket: Id) -> BlanketRecord:
        """Raises: Denied."""
        known = self._vault.get(BlanketRecord, blanket)
        if known is None or known.standing is not Standing.ADMITTED:
            standing = "unknown" if known is None else known.standing
            raise Denied(f"blanket {blanket} is {standing}, not admitted")
        return known

    def entitled(self, blanket: Id, cloud: Id) -> BlanketRecord:
        """The blanket, if the owner's policy lets it have keys of `cloud`. Raises: Denied."""
        known = self.admitted(blanket)
        if known.cloud != cloud:
            raise Denied(f"blanket {blanket} is not of cloud {cloud}")
        settings = self._vault.get(Settings, "") or Settings()
        if settings.policy is Policy.APPROVED and not known.approved:
            raise Denied(f"the owner has not approved blanket {blanket}", hint="approve it at the key store")
        return known

    def evidence_key(self, cloud: Id) -> SealingKey:
        """The owner's, to which blankets of a cloud seal evidence; made at first asking."""
        record = self._vault.get(EvidenceKeyRecord, cloud)
        if record is None:
            record = EvidenceKeyRecord(cloud=cloud, key=SealingKey.new().to_text())
            self._vault.put(record)
        return SealingKey.from_text(record.key)

    def signing_key(self, blanket: Id, cloud: Id) -> str | None:
        """The key that a blanket of a cloud joined with, whatever became of it; None: it joined never, or
        before the authority was made anew."""
        known = self._vault.get(BlanketRecord, blanket)
        return None if known is None or known.cloud != cloud else known.public_key

    def _certify(self, record: BlanketRecord, csr_pem: str) -> JoinAnswer:
        certificate_pem = self._authorities.current.blanket(
            key_of_csr(csr_pem),
            cloud=record.cloud or "",
            blanket=record.blanket,
            sealing_key=record.sealing_key or "",
            owner_key=self.evidence_key(record.cloud or "").public,
            at=self._now(),
            lifetime_s=LIFETIME_S,
        )
        certified = replace(
            record,
            issued_by=self._authorities.number,
            trusts=self._authorities.newest,
        )
        self._vault.put(certified)
        return JoinAnswer(certificate_pem=certificate_pem, authority_pem=self._authorities.pem())


def _digest(request: JoinRequest) -> str:
    fields = (request.blanket, request.csr_pem, request.sealing_key, request.proof)
    return hashlib.sha256(canonical("supercloud join request", *fields)).hexdigest()
