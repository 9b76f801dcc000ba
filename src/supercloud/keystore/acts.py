"""What an owner's client does about acts on the memory of machines: has its key store consent, and opens what
came of it. The control plane carries both, and is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supercloud.keystore.client import RemoteOwner
from supercloud.keystore.faces import Consent, ConsentTo, Owner
from supercloud.model.acts import ActKind
from supercloud.model.errors import Failed
from supercloud.trust.export import Export
from supercloud.trust.keys import KEY_BYTES, from_text


def consent_request(act: Mapping[str, Any], challenge: Mapping[str, Any], nonce: str) -> ConsentTo:
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


@dataclass(frozen=True, slots=True)
class OwnersActs:
    """The same by the key store at `socket`, for a command."""

    socket: Path

    def consent(self, to: ConsentTo) -> Consent:
        async def asked() -> Consent:
            owner = RemoteOwner(self.socket)
            try:
                return await owner.consent(to=to)
            finally:
                await owner.close()

        return asyncio.run(asked())

    def open(self, export: Mapping[str, Any]) -> bytes:
        async def asked() -> bytes:
            owner = RemoteOwner(self.socket)
            try:
                return await opened(owner, export)
            finally:
                await owner.close()

        return asyncio.run(asked())
