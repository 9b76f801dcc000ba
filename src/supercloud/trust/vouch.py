"""A blanket's own word that a file of its making is an image: its digest, under the key of one copy.

Whoever relays it can neither put another file under that key, nor make another copy's key an image's.
"""

from __future__ import annotations

from supercloud.model.errors import Denied
from supercloud.model.names import Digest, Id
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import IdentityKey, from_text, to_text, verify_signature

_PURPOSE = "supercloud image of a copy 1"
_SIGNATURE_BYTES = 64


def vouch(*, identity: IdentityKey, blanket: Id, volume: Id, copy: Id, digest: Digest) -> str:
    """The signature, in base64."""
    return to_text(identity.sign(canonical(_PURPOSE, blanket, volume, copy, digest)))


def verify_vouch(
    signature: str, *, public_key: str, blanket: Id, volume: Id, copy: Id, digest: Digest
) -> None:
    """
    Raises:
        Denied: the blanket did not sign this.
        InvalidInput: not a signature.
    """
    message = canonical(_PURPOSE, blanket, volume, copy, digest)
    if not verify_signature(public_key, from_text(signature, length=_SIGNATURE_BYTES), message):
        raise Denied(f"blanket {blanket} has not vouched for image {digest}")
