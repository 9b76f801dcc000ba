"""What is sealed to this blanket, opened for its drivers' hands and kept nowhere."""

from __future__ import annotations

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Digest, Id
from supercloud.ports.agent import InstanceSpec, SealedKey, UserData
from supercloud.trust.keys import IdentityKey, SealingKey
from supercloud.trust.sealing import image_purpose, open_sealed, user_data_purpose, volume_purpose
from supercloud.trust.userdata import decrypt
from supercloud.trust.vouch import vouch


class Opener:
    """Opens what was sealed to this blanket for exactly one purpose, and vouches for what it made of it."""

    def __init__(self, blanket: Id, key: SealingKey, identity: IdentityKey) -> None:
        self._blanket = blanket
        self._key = key
        self._identity = identity

    def volume(self, sealed: SealedKey, volume: Id, copy: Id) -> bytes:
        """Raises: Denied, InvalidInput."""
        return self._open(sealed, volume_purpose(volume, copy))

    def base(self, sealed: SealedKey | None, base: Digest | None) -> bytes | None:
        """The base image's key, if there is a base. Raises: Denied, InvalidInput."""
        if base is None:
            return None
        if sealed is None:
            raise InvalidInput("a base image without its key")
        return self._open(sealed, image_purpose(base))

    def user_data(self, spec: InstanceSpec, data: UserData | None, sealed: SealedKey | None) -> bytes | None:
        """The instance's user data in clear, if it has any: for its seed, and nothing else.

        Raises: Denied, InvalidInput.
        """
        if data is None:
            return None
        if sealed is None:
            raise InvalidInput("user data without its key")
        key = self._open(sealed, user_data_purpose(spec.id, data.digest))
        return decrypt(data, key, instance=spec.name)

    def vouched(self, volume: Id, copy: Id, digest: Digest) -> str:
        """The signature under a copy whose file is an image now."""
        return vouch(identity=self._identity, blanket=self._blanket, volume=volume, copy=copy, digest=digest)

    def _open(self, sealed: SealedKey, purpose: str) -> bytes:
        return open_sealed(sealed, key=self._key, blanket=self._blanket, purpose=purpose)
