"""Keys of images that are one cloud's alone, let out to others for a time: at the owner's word only.

The control plane can take such a word back. It can neither give one nor stretch one.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from supercloud.keystore.faces import ImageShare
from supercloud.keystore.records import ImageDigestRecord, ImageShareRecord, image_digest_name
from supercloud.keystore.vault import Vault
from supercloud.model.errors import Conflict, Denied, InvalidInput, NotFound
from supercloud.model.names import Digest, Id
from supercloud.model.trust import LINKS, LONGEST_S

_log = structlog.get_logger(__name__)


class Shares:
    """Callers hold a transaction."""

    def __init__(self, vault: Vault, now: Callable[[], float]) -> None:
        self._vault = vault
        self._now = now

    def share(self, asked: ImageShare) -> None:
        """The same again is harmless.

        Raises:
            NotFound: no such image of the cloud that shares it, nor one that is shared with it.
            Denied: it was not to be passed on, or not so far or so long.
            Conflict: the share is another one already.
            InvalidInput: its time.
        """
        now = self._now()
        for old in self._vault.every(ImageShareRecord):
            if old.until <= now:
                self._vault.delete(old)
        if not now < asked.until <= now + LONGEST_S:
            raise InvalidInput(f"an image is shared for at most {LONGEST_S / 86400:.0f} days from now on")
        key, depth = self._key(asked)
        made = ImageShareRecord(
            id=asked.id,
            key=key,
            digest=asked.digest,
            of=asked.of,
            to=asked.to,
            until=asked.until,
            delegable=asked.delegable,
            parent=asked.parent,
            depth=depth,
        )
        known = self._vault.get(ImageShareRecord, asked.id)
        if known not in (None, made):
            raise Conflict(f"share {asked.id} is another one already")
        self._vault.put(made)
        _log.info("keystore.image_shared", share=made.id, of=made.of, to=made.to, digest=made.digest)

    def _key(self, asked: ImageShare) -> tuple[Id, int]:
        """The key that is shared, and how often it was passed on by then."""
        if asked.parent is None:
            bound = self._vault.get(ImageDigestRecord, image_digest_name(asked.of, asked.digest))
            if bound is None:
                raise NotFound(f"no key of an image {asked.digest} is cloud {asked.of}'s alone")
            return bound.key, 1
        parent = self._vault.get(ImageShareRecord, asked.parent)
        if parent is None or (parent.to, parent.digest) != (asked.of, asked.digest):
            raise NotFound(
                f"image {asked.digest} is not shared with cloud {asked.of}",
                hint=f"supercloud trust approve {asked.parent}",
            )
        if not parent.delegable or parent.depth >= LINKS or asked.until > parent.until:
            raise Denied("it was not shared to be passed on, or not so far or for so long")
        return parent.key, parent.depth + 1

    def key_for(self, cloud: Id, digest: Digest) -> Id | None:
        """The key that a cloud may have now of an image that is not its own."""
        now = self._now()
        for one in self._vault.every(ImageShareRecord):
            if (one.to, one.digest) == (cloud, digest) and now < one.until:
                return one.key
        return None

    def withdraw(self, share: Id) -> None:
        """With all that was made from it, whether or not it is still known itself."""
        gone = {share}
        every = sorted(self._vault.every(ImageShareRecord), key=lambda one: one.depth)
        for one in every:
            if one.id in gone or one.parent in gone:
                gone.add(one.id)
                self._vault.delete(one)
                _log.info("keystore.image_share_withdrawn", share=one.id)

    def forget(self, key: Id) -> None:
        """The key is destroyed."""
        for one in self._vault.every(ImageShareRecord):
            if one.key == key:
                self._vault.delete(one)
