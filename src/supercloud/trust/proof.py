"""That whoever sends a request has the key: HTTP Message Signatures (RFC 9421) over what it asks for.

Covered are the method, the path, the query, the token (`authorization`), the body (`content-digest`, RFC
9530) and the connection (`supercloud-channel`: the SHA-256 of the certificate that the server showed on it).
So a proof that somebody heard is good for no other request, no other token and no other server, nor for the
same server after its restart, since each start has a certificate of its own. Within one server's life a nonce
counts once, for as long as the time in the proof does.

Only this one form is taken: one signature, named `proof`, with these components in this order.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supercloud.model.errors import InvalidInput, Unauthenticated, Unavailable
from supercloud.trust.keys import IdentityKey, from_text, to_text, verify_signature

if TYPE_CHECKING:
    from supercloud.model.names import PublicKey

#: How far a request's time may be from ours, in seconds.
WINDOW_S = 30.0
SCHEME = "Biscuit"
CHANNEL_HEADER = "supercloud-channel"
_INPUT = re.compile(r'proof=(\([a-z0-9" @-]{1,200}\));created=([0-9]{1,12});nonce="([0-9a-zA-Z_-]{16,64})"')
_SIGNATURE = re.compile(r"proof=:([A-Za-z0-9+/]{86}==):")
_SIGNATURE_BYTES = 64
_NONCE_BYTES = 16
#: Nonces kept of a minute, some 25 MB: more than one process can verify in that time.
_NONCES = 300_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a proof covers."""

    method: str
    path: str  # as it is sent, percent-encoded
    query: str  # without its question mark
    token: str = field(repr=False)
    channel: str
    digest: str | None  # None: the body's bytes are vouched for otherwise


def digest_of(body: bytes) -> str:
    """The `Content-Digest` of a body."""
    return f"sha-256=:{to_text(hashlib.sha256(body).digest())}:"


def channel_of(certificate: bytes) -> str:
    """What names a connection to a server that showed this certificate (DER)."""
    return f":{to_text(hashlib.sha256(certificate).digest())}:"


def prove(key: IdentityKey, request: Signed, *, at: float) -> dict[str, str]:
    """The headers that prove `request` at the time `at`, in seconds since the epoch."""
    parameters = f'{_components(request)};created={int(at)};nonce="{secrets.token_urlsafe(_NONCE_BYTES)}"'
    headers = {
        "Authorization": f"{SCHEME} {request.token}",
        CHANNEL_HEADER: request.channel,
        "Signature-Input": f"proof={parameters}",
        "Signature": f"proof=:{to_text(key.sign(_base(request, parameters)))}:",
    }
    return headers if request.digest is None else {**headers, "Content-Digest": request.digest}


def verify(
    request: Signed, signature_input: str, signature: str, *, holder: PublicKey, at: float
) -> tuple[float, str]:
    """When the holder of a key proved this request, and the nonce, which is to count once.

    Raises:
        Unauthenticated: it did not, or at another time.
    """
    stated, signed = _INPUT.fullmatch(signature_input), _SIGNATURE.fullmatch(signature)
    if stated is None or signed is None or stated[1] != _components(request):
        raise Unauthenticated("the request carries no proof of its sender's key in the form that is taken")
    parameters = signature_input.removeprefix("proof=")
    try:
        raw = from_text(signed[1], length=_SIGNATURE_BYTES)
        proven = verify_signature(_public(holder), raw, _base(request, parameters))
    except (InvalidInput, binascii.Error) as error:
        raise Unauthenticated("the proof cannot be read") from error
    if not proven:
        raise Unauthenticated("the request is not signed by the holder of its token")
    created = float(stated[2])
    if abs(at - created) > WINDOW_S:
        raise Unauthenticated(
            f"the request was signed {abs(at - created):.0f} s {'ago' if created < at else 'from now'}",
            hint="set this machine's clock",
        )
    return created, stated[3]


class Replays:
    """The nonces of the last minute: each counts once for its holder.

    In two generations, of which the older is dropped when a window has passed twice over: what is dropped is
    out of time.
    """

    def __init__(self, *, keep: int = _NONCES) -> None:
        self._keep = keep
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()
        self._since = 0.0

    def take(self, holder: PublicKey, nonce: str, *, at: float) -> None:
        """
        Raises:
            Unauthenticated: it came before.
            Unavailable: too many to remember.
        """
        if at - self._since > 2 * WINDOW_S + 1:
            self._old = self._new if at - self._since <= 4 * WINDOW_S + 2 else set()
            self._new, self._since = set(), at
        mark = hashlib.blake2b(f"{holder} {nonce}".encode(), digest_size=16).digest()
        if mark in self._new or mark in self._old:
            raise Unauthenticated("this very request came before")
        if len(self._new) >= self._keep:
            raise Unavailable("too many requests", hint="try again in a minute")
        self._new.add(mark)


def _components(request: Signed) -> str:
    names = ["@method", "@path", "@query", "authorization", CHANNEL_HEADER]
    if request.digest is not None:
        names.append("content-digest")
    return "(" + " ".join(f'"{name}"' for name in names) + ")"


def _base(request: Signed, parameters: str) -> bytes:
    """The signature base of RFC 9421, section 2.5."""
    lines = [
        f'"@method": {request.method}',
        f'"@path": {request.path}',
        f'"@query": ?{request.query}',
        f'"authorization": {SCHEME} {request.token}',
        f'"{CHANNEL_HEADER}": {request.channel}',
    ]
    if request.digest is not None:
        lines.append(f'"content-digest": {request.digest}')
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _public(key: PublicKey) -> str:
    return base64.b64encode(bytes.fromhex(key.partition("/")[2])).decode()
