"""User data made secret where its owner is: what every client calls before it asks for an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from supercloud.keystore.client import RemoteOwner
from supercloud.keystore.faces import Owner
from supercloud.model.names import Name
from supercloud.ports.agent import UserData
from supercloud.trust.keys import from_text, to_text
from supercloud.trust.userdata import decrypt, encrypt
from supercloud.wire.codec import to_json

T = TypeVar("T")


async def keep_user_data(owner: Owner, clear: bytes, *, instance: Name) -> UserData:
    """Encrypt it for the instance that is to have this name, and leave its key with the key store.

    Raises:
        InvalidInput: it is longer than 64 KiB.
        Unavailable: the key store does not run.
    """
    made, key = encrypt(clear, instance=instance)
    await owner.keep_user_data_key(digest=made.digest, key=to_text(key))
    return made


async def read_user_data(owner: Owner, data: UserData, *, instance: Name) -> bytes:
    """What an instance was made with, for its owner to read.

    Raises:
        NotFound: its key is destroyed.
        Denied: it is another instance's.
    """
    key = await owner.kept_user_data_key(digest=data.digest)
    return decrypt(data, from_text(key), instance=instance)


def seal_user_data(socket: Path, clear: bytes, *, instance: Name) -> dict[str, Any]:
    """`keep_user_data` by the key store at `socket`, as what `user_data` of `POST /v1/instances` takes."""
    made = _asked(socket, lambda owner: keep_user_data(owner, clear, instance=instance))
    plain: dict[str, Any] = to_json(UserData, made)
    return plain


def open_user_data(socket: Path, sealed: Mapping[Name, UserData]) -> dict[Name, bytes]:
    """`read_user_data` of several instances by the key store at `socket`."""

    async def read(owner: Owner) -> dict[Name, bytes]:
        return {name: await read_user_data(owner, data, instance=name) for name, data in sealed.items()}

    return _asked(socket, read)


def _asked(socket: Path, ask: Callable[[Owner], Coroutine[Any, Any, T]]) -> T:
    async def asked() -> T:
        owner = RemoteOwner(socket)
        try:
            return await ask(owner)
        finally:
            await owner.close()

    return asyncio.run(asked())
