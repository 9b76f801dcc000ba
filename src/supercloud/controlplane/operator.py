"""The token of the operator whose key the control plane was started with: made at its start, renewed in time.

Its file is of no use without the key, which this process never sees.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from supercloud.model.errors import Denied, NotFound, SupercloudError
from supercloud.model.names import PublicKey
from supercloud.services.facade import ControlPlane
from supercloud.services.parts import Parts
from supercloud.services.requests import MintToken
from supercloud.trust import tokens
from supercloud.trust.files import read_private, write_private

_LASTS_S = 90 * 86400.0
_LOOK_EVERY_S = 3600.0
_log = structlog.get_logger(__name__)


class OperatorToken:
    """Keeps a token for `key` in `file`."""

    def __init__(self, control: ControlPlane, parts: Parts, key: PublicKey, file: Path) -> None:
        self._control = control
        self._parts = parts
        self._key = key
        self._file = file

    async def keep(self) -> None:
        """Enroll the key, and mint a token unless the one in the file counts and has half of its time left.

        Raises:
            SupercloudError: the store or the key store does not answer.
        """
        principal = await self._control.enroll(self._key)
        if await self._counts():
            return
        minted = await self._control.mint_token(MintToken(principal=principal, lasts_s=_LASTS_S))
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._file, minted.token.encode() + b"\n")

    async def run(self) -> None:
        """Renew it at half of its time."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.keep()
            except SupercloudError as error:
                _log.warning("operator_token.not_renewed", why=error.message)

    async def _counts(self) -> bool:
        try:
            text = read_private(self._file).decode("ascii", "replace").strip()
            token = tokens.read(text, await self._parts.keys.token_root())
        except (NotFound, Denied):
            return False
        there = await self._parts.directory.look()
        known = there.principals.get(token.principal)
        if known is None or not known.key == token.holder == self._key:
            return False
        if not there.revoked.isdisjoint(token.revocation_ids):
            return False
        return token.roles == known.roles and token.until > time.time() + _LASTS_S / 2
