"""How a new blanket proves that it was invited, without sending the secret of its invitation."""

from __future__ import annotations

import hashlib
import hmac

from supercloud.model.errors import Denied
from supercloud.model.names import Id
from supercloud.ports.keystore import JoinRequest
from supercloud.trust.canonical import canonical
from supercloud.trust.keys import IdentityKey, SealingKey

_PURPOSE = "supercloud join 1"


def _proof(secret: str, blanket: Id, csr_pem: str, sealing_key: str) -> str:
    message = canonical(_PURPOSE, blanket, csr_pem, sealing_key)
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def join_request(*, blanket: Id, secret: str, identity: IdentityKey, sealing: SealingKey) -> JoinRequest:
    """What a blanket sends to be admitted. Its keys are in the proof: nobody on the way can put in others."""
    csr_pem = identity.csr()
    return JoinRequest(
        blanket=blanket,
        csr_pem=csr_pem,
        sealing_key=sealing.public,
        proof=_proof(secret, blanket, csr_pem, sealing.public),
    )


def check_join(request: JoinRequest, secret: str) -> None:
    """Raises: Denied, when the request was not made with this secret, or was changed since."""
    expected = _proof(secret, request.blanket, request.csr_pem, request.sealing_key)
    if not hmac.compare_digest(expected.encode(), request.proof.encode("utf-8", "replace")):
        raise Denied(f"blanket {request.blanket} did not prove its invitation")
