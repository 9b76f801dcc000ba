"""User data made secret where its owner is: what every client calls before it asks for an instance."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from supercloud.keystore.client import RemoteOwner
from supercloud.keystore.faces import Owner
from supercloud.model.names import Name
from supercloud.ports.agent import UserData
from supercloud.trust.keys import to_text
from supercloud.trust.userdata import encrypt
from supercloud.wire.codec import to_json


async def keep_user_data(owner: Owner, clear: bytes, *, instance: Name) -> UserData:
    """Encrypt it for the instance that is to have this name, and leave its key with the key store.

    Raises:
        InvalidInput: it is longer than 64 KiB.
        Unavailable: the key store does not run.
    """
    made, key = encrypt(clear, instance=instance)
    await owner.keep_user_data_key(digest=made.digest, key=to_text(key))
    return made


def seal_user_data(socket: Path, clear: bytes, *, instance: Name) -> dict[str, Any]:
    """The same by the key store at `socket`, as what `user_data` of `POST /v1/instances` takes.

    Raises: as `keep_user_data`.
    """

    async def sealed() -> UserData:
        owner = RemoteOwner(socket)
        try:
            return await keep_user_data(owner, clear, instance=instance)
        finally:
            await owner.close()

    made: dict[str, Any] = to_json(UserData, asyncio.run(sealed()))
    return made
