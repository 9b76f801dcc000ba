"""cloud-init user data, which may hold passwords: encrypted where its owner is, opened in a blanket's memory.

A fresh key for each, so that destroying it destroys the user data, wherever copies of the ciphertext are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Digest, Name
from supercloud.ports.agent import USER_DATA_BYTES, UserData
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import KEY_BYTES, from_text, to_text

_PURPOSE = "supercloud user data 1"
_NONCE_BYTES = 12
_TAG_BYTES = 16


def encrypt(
    clear: bytes, *, instance: Name, random: Callable[[int], bytes] = os.urandom
) -> tuple[UserData, bytes]:
    """`clear`, for the instance of this name only, and the fresh key that opens it.

    `random` is other than the system's only where a simulation is to replay.

    Raises:
        InvalidInput: it is longer than 64 KiB.
    """
    check_size(clear)
    key, nonce = random(KEY_BYTES), random(_NONCE_BYTES)
    sealed = nonce + ChaCha20Poly1305(key).encrypt(nonce, clear, canonical(_PURPOSE, instance))
    return UserData(digest=_digest(sealed), ciphertext=to_text(sealed)), key


def check_size(clear: bytes) -> None:
    """
    Raises:
        InvalidInput: it is longer than 64 KiB.
    """
    if len(clear) > USER_DATA_BYTES:
        raise InvalidInput(f"user data has at most {USER_DATA_BYTES} bytes, not {len(clear)}")


def check(data: UserData) -> bytes:
    """The encrypted bytes; whether they can be opened is for who has the key to say.

    Raises:
        InvalidInput: of a wrong form or size, or the digest is another's.
    """
    sealed = from_text(data.ciphertext)
    if not 0 <= len(sealed) - _NONCE_BYTES - _TAG_BYTES <= USER_DATA_BYTES:
        raise InvalidInput(f"not encrypted user data, which has at most {USER_DATA_BYTES} bytes in clear")
    if _digest(sealed) != data.digest:
        raise InvalidInput("this user data has another digest: it was changed on its way")
    return sealed


def decrypt(data: UserData, key: bytes, *, instance: Name) -> bytes:
    """What `encrypt` was given.

    Raises:
        InvalidInput: changed on its way.
        Denied: encrypted under another key, or for an instance of another name.
    """
    sealed = check(data)
    try:
        return ChaCha20Poly1305(key).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], canonical(_PURPOSE, instance)
        )
    except (InvalidTag, ValueError) as error:
        raise Denied(f"this user data was not encrypted under this key for instance {instance}") from error


def _digest(sealed: bytes) -> Digest:
    return f"sha256:{hashlib.sha256(sealed).hexdigest()}"
