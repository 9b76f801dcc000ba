"""What an owner's client does about acts on the memory of machines: has its key store consent, and opens what
came of it. The control plane carries both, and is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from supercloud.keystore.client import RemoteOwner
from supercloud.keystore.faces import Consent, ConsentTo, KnownTpm, Owner
from supercloud.model.acts import ActKind
from supercloud.model.errors import Failed
from supercloud.model.names import Digest
from supercloud.trust.export import Export
from supercloud.trust.keys import KEY_BYTES, from_text


def consent_request(
    act: Mapping[str, Any], challenge: Mapping[str, Any], nonce: str, *, only_vouched: bool = False
) -> ConsentTo:
    """Of the API's views of the act and of the challenge for it; `nonce` is what we sent for that."""
    statement = act["statement"]
    return ConsentTo(
        act=act["id"],
        cloud=act["cloud_id"],
        operation=ActKind(statement["operation"]),
        page=statement["page"],
        pages=statement["pages"],
        requester=statement["requester"],
        purpose=statement["purpose"],
        expires_at=statement["expires_at"],
        partition=challenge["partition"],
        launch=challenge["launch"],
        challenge=challenge["challenge"],
        clock_khz=challenge["clock_khz"],
        nonce=nonce,
        attestation=challenge["attestation"],
        only_vouched=only_vouched,
    )


async def opened(owner: Owner, export: Mapping[str, Any]) -> bytes:
    """The pages of an act in clear, one after another, of the API's view of what came of it.

    Raises:
        NotFound, Unavailable: as the key store.
        Failed: they are not what was consented to, or were changed on their way.
    """
    key = await owner.export_key(act=export["act"], header=export["header"])
    header = from_text(export["header"])
    first, count = (int.from_bytes(header[at : at + 8], "little") for at in (24, 32))
    pages = Export(first, count, from_text(key, length=KEY_BYTES))
    if [one["page"] for one in export["pages"]] != list(range(first, first + count)):
        raise Failed("pages are missing, or out of order")
    return pages.open_all([(one["version"], from_text(one["sealed"])) for one in export["pages"]])


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Owners:
    """The owner's face of the key store at `socket`, for a command: a connection for each question."""

    socket: Path

    def _ask(self, ask: Callable[[Owner], Awaitable[_T]]) -> _T:
        async def asked() -> _T:
            owner = RemoteOwner(self.socket)
            try:
                return await ask(owner)
            finally:
                await owner.close()

        return asyncio.run(asked())


class OwnersActs(_Owners):
    """Acts on the memory of machines."""

    def consent(self, to: ConsentTo) -> Consent:
        return self._ask(lambda owner: owner.consent(to=to))

    def open(self, export: Mapping[str, Any]) -> bytes:
        return self._ask(lambda owner: opened(owner, export))


class OwnersTpms(_Owners):
    """TPMs that vouch for machines."""

    def trust(self, tpm: Digest, booted: Digest) -> None:
        self._ask(lambda owner: owner.trust_tpm(tpm=tpm, booted=booted))

    def every(self) -> Sequence[KnownTpm]:
        return self._ask(lambda owner: owner.trusted_tpms())

    def forget(self, tpm: Digest) -> None:
        self._ask(lambda owner: owner.forget_tpm(tpm=tpm))
