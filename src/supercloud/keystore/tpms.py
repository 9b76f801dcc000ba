"""TPMs whose word on a provider's machine the owner takes: each with what its machine has booted."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from supercloud.keystore.faces import KnownTpm
from supercloud.keystore.records import TpmRecord
from supercloud.keystore.vault import Vault
from supercloud.model.errors import Denied, NotFound
from supercloud.model.names import Digest
from supercloud.trust.quote import Quote

_log = structlog.get_logger(__name__)


class Tpms:
    """Callers hold a transaction."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def trust(self, tpm: Digest, booted: Digest) -> None:
        """From now on, with this and nothing else booted."""
        self._vault.put(TpmRecord(tpm=tpm, booted=booted))
        _log.info("keystore.tpm_trusted", tpm=tpm, booted=booted)

    def every(self) -> Sequence[KnownTpm]:
        return [KnownTpm(tpm=one.tpm, booted=one.booted) for one in self._vault.every(TpmRecord)]

    def forget(self, tpm: Digest) -> None:
        """
        Raises:
            NotFound.
        """
        record = self._vault.get(TpmRecord, tpm)
        if record is None:
            raise NotFound(f"no TPM {tpm} is known here")
        self._vault.delete(record)
        _log.info("keystore.tpm_forgotten", tpm=tpm)

    def vouches(self, quote: Quote | None) -> bool:
        """Whether the owner takes this quote for the machine's.

        Raises:
            Denied: its TPM is known, and the machine has booted something else.
        """
        record = None if quote is None else self._vault.get(TpmRecord, quote.tpm)
        if record is None or quote is None:
            return False
        if record.booted != quote.booted:
            raise Denied(
                f"the machine of TPM {quote.tpm} has booted something else than you know: {quote.booted}",
                hint=f"if you expected that: supercloud tpm trust {quote.tpm} --booted {quote.booted}",
            )
        return True
