"""Consents to acts on the memory of a cloud's machines: signed here, at the owner's word only.

The control plane is told the public half of a cloud's consent key, which becomes a part of each measured
launch. It can neither sign with it nor open what leaves a machine by it.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from supercloud.keystore.faces import Consent, ConsentTo
from supercloud.keystore.records import ConsentKeyRecord, ConsentRecord
from supercloud.keystore.tpms import Tpms
from supercloud.keystore.vault import Vault
from supercloud.model.acts import AHEAD_S, LONGEST_S, NO_ARGUMENTS, OF_MEMORY
from supercloud.model.errors import Denied, InvalidInput, NotFound
from supercloud.model.names import Id
from supercloud.trust import attestation
from supercloud.trust.attestation import Attestation
from supercloud.trust.consent import Statement, consent, hash_of, read
from supercloud.trust.export import accepted
from supercloud.trust.keys import IdentityKey, ed25519_public, from_text, to_text

#: What was opened may be opened again for so long after the act's time.
_KEPT_S = 31 * 86400
_HASH = 32
_log = structlog.get_logger(__name__)


class Consents:
    """Callers hold a transaction."""

    def __init__(self, vault: Vault, tpms: Tpms, now: Callable[[], float]) -> None:
        self._vault = vault
        self._tpms = tpms
        self._now = now

    def key(self, cloud: Id) -> IdentityKey:
        """A cloud's; made at first asking."""
        record = self._vault.get(ConsentKeyRecord, cloud)
        if record is None:
            record = ConsentKeyRecord(cloud=cloud, key_pem=IdentityKey.new().to_pem())
            self._vault.put(record)
        return IdentityKey.from_pem(record.key_pem)

    def consent(self, to: ConsentTo) -> Consent:
        """
        Raises:
            Denied: the machine's monitor did not sign for this nonce that the machine is this cloud's; or its
                TPM says that it has booted something else than the owner knows; or nobody that the owner
                knows vouches for it, and somebody should.
            InvalidInput: no such act could be.
        """
        key = self.key(to.cloud)
        launched = _launched(to, key.private.public_key())
        vouched = self._tpms.vouches(launched.quote)
        if to.only_vouched and not vouched:
            raise Denied(
                "no TPM that you trust vouches for the machine", hint="supercloud tpm ls shows which you do"
            )
        now = self._now()
        if not now < to.expires_at <= now + AHEAD_S + LONGEST_S:
            raise InvalidInput("the act's time is over, or too far away")
        signed = consent(_statement(to, to.expires_at - now), key.private)
        self._forget(now)
        self._vault.put(
            ConsentRecord(
                act=to.act,
                cloud=to.cloud,
                consent=to_text(signed),
                machine=to_text(launched.machine),
                expires_at=to.expires_at,
            )
        )
        _log.info("keystore.consented", act=to.act, cloud=to.cloud, page=to.page, pages=to.pages)
        return Consent(
            consent=to_text(signed),
            machine=launched.machine.hex(),
            digest=launched.digest.hex(),
            vouched=vouched,
            tpm=None if launched.quote is None else launched.quote.tpm,
            booted=None if launched.quote is None else launched.quote.booted,
        )

    def export_key(self, act: Id, header: bytes) -> str:
        """What opens the pages of this one export.

        Raises:
            NotFound: nothing was consented to under this act, or long ago.
            Failed: the header is not of what was.
        """
        record = self._vault.get(ConsentRecord, act)
        if record is None:
            raise NotFound(f"this key store consented to no act {act}, or has forgotten it")
        key = self.key(record.cloud).private
        statement = read(from_text(record.consent), key.public_key())
        machine = ed25519_public(from_text(record.machine))
        _log.info("keystore.export_opened", act=act, cloud=record.cloud)
        return to_text(accepted(header, statement, key, machine).key)

    def _forget(self, now: float) -> None:
        for old in self._vault.every(ConsentRecord):
            if old.expires_at + _KEPT_S <= now:
                self._vault.delete(old)


def _launched(to: ConsentTo, key: Ed25519PublicKey) -> Attestation:
    """What the monitor says of the launch: it is what the consent will be checked against, so that a consent
    for another's machine is not given even by mistake."""
    found = attestation.verified(from_text(to.attestation), to.partition, bytes.fromhex(to.nonce))
    if found.tenant != key.public_bytes_raw():
        raise Denied(
            "the machine was not launched with this cloud's consent key",
            hint="one that was added before its provider could enforce consents is to be added anew",
        )
    if found.launches != to.launch:
        raise Denied("the challenge is for another launch than the one that is signed for")
    return found


def _statement(to: ConsentTo, lasts_s: float) -> Statement:
    """
    Raises:
        InvalidInput: it is out of bounds.
    """
    operation = OF_MEMORY.get(to.operation)
    if operation is None:
        raise InvalidInput(f"{to.operation} is no act on memory")
    try:
        return Statement(
            operation=operation,
            partition=to.partition,
            page=to.page,
            pages=to.pages,
            launch=to.launch,
            challenge=from_text(to.challenge, length=_HASH),
            ticks=int(lasts_s * 1000 * to.clock_khz),
            requester=hash_of(to.requester),
            purpose=hash_of(to.purpose),
            arguments=bytes.fromhex(NO_ARGUMENTS.removeprefix("sha256:")),
        )
    except ValueError as error:
        raise InvalidInput(f"no such act could be consented to: {error}") from error
