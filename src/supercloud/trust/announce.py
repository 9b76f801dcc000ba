"""A blanket's own word for its WireGuard keys.

The control plane tells every blanket of its peers' keys. Signed by the peer's identity key, under a
certificate of the owner's authority, they cannot be the control plane's own.
"""

from __future__ import annotations

from supercloud.model.errors import Denied, InvalidInput
from supercloud.model.names import Id, WireguardKey
from supercloud.ports.overlay import Announcement, ForeignPeer, Peer
from supercloud.trust.canonical import canonical
from supercloud.trust.certificates import Anchors, Kind
from supercloud.trust.keys import IdentityKey, from_text, to_text, verify_signature

_PURPOSE = "supercloud wireguard 1"
_SIGNATURE_BYTES = 64


def _message(blanket: Id, key: WireguardKey, next_key: WireguardKey | None, generation: int) -> bytes:
    return canonical(_PURPOSE, blanket, key, next_key or "", generation)


def announce(
    *,
    identity: IdentityKey,
    certificate_pem: str,
    blanket: Id,
    key: WireguardKey,
    next_key: WireguardKey | None,
    generation: int,
) -> Announcement:
    """Vouch for this blanket's keys. Do it again when they change and when the certificate is renewed."""
    signature = identity.sign(_message(blanket, key, next_key, generation))
    return Announcement(
        blanket=blanket,
        key=key,
        next_key=next_key,
        generation=generation,
        signature=to_text(signature),
        certificate_pem=certificate_pem,
    )


def verify_announcement(announcement: Announcement, *, anchors: Anchors, cloud: Id, at: float) -> None:
    """Check that a blanket of `cloud` made it, under a certificate that is valid `at` (epoch seconds).

    Raises:
        Denied: it did not.
        InvalidInput: a malformed certificate or signature.
    """
    identity = anchors.verify(announcement.certificate_pem, at)
    if identity.kind is not Kind.BLANKET or (identity.cloud, identity.blanket) != (
        cloud,
        announcement.blanket,
    ):
        raise Denied(f"keys of blanket {announcement.blanket} announced under another's certificate")
    message = _message(announcement.blanket, announcement.key, announcement.next_key, announcement.generation)
    signature = from_text(announcement.signature, length=_SIGNATURE_BYTES)
    if not verify_signature(identity.public_key, signature, message):
        raise Denied(f"keys of blanket {announcement.blanket} that it did not sign")


def verify_peer(peer: Peer | ForeignPeer, *, anchors: Anchors, cloud: Id, at: float) -> int:
    """Check a peer before it is heard, as a blanket of `cloud`; returns its announcement's generation, to
    refuse older ones.

    Raises:
        Denied: a key that the peer itself has not announced.
    """
    said = peer.announcement
    if said is None or said.blanket != peer.blanket:
        raise Denied(f"peer {peer.blanket} comes without its own announcement")
    try:
        verify_announcement(said, anchors=anchors, cloud=cloud, at=at)
    except InvalidInput as error:
        raise Denied(f"peer {peer.blanket}: {error.message}") from error
    if not peer.keys or not set(peer.keys) <= {said.key, said.next_key}:
        raise Denied(f"peer {peer.blanket} has not announced the keys given for it")
    return said.generation
