"""Who this blanket is: keys made here, a certificate got by joining once and renewed ever after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supercloud.agent.birth import Birth
from supercloud.model.errors import Denied, NotFound
from supercloud.model.names import Id
from supercloud.ports.keystore import JoinAnswer, JoinRequest
from supercloud.trust.certificates import Anchors, Identity, identity_of, succeed
from supercloud.trust.files import read_private, write_private
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey
from supercloud.trust.tls import Credentials

FOLDER = Path("/var/lib/supercloud/identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Both never change in a blanket's life, and never leave it."""

    identity: IdentityKey
    sealing: SealingKey


class Safe:
    """The identity's folder on the data disk. Everything in it is 0600."""

    def __init__(self, folder: Path = FOLDER) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def keys(self) -> Keys:
        """This blanket's keys; made and durable before anybody hears of them."""
        return Keys(
            identity=IdentityKey.from_pem(
                self._once("identity.pem", lambda: IdentityKey.new().to_pem()),
            ),
            sealing=SealingKey.from_text(self._once("sealing.key", lambda: SealingKey.new().to_text())),
        )

    def _once(self, name: str, make: Callable[[], str]) -> str:
        path = self._folder / name
        try:
            return read_private(path).decode()
        except NotFound:
            text = make()
            write_private(path, text.encode(), replace=False)
            return text

    def certificate(self) -> JoinAnswer | None:
        """What the last join or renewal brought; None before the join."""
        try:
            return JoinAnswer(
                certificate_pem=read_private(self._folder / "certificate.pem").decode(),
                authority_pem=read_private(self._folder / "authority.pem").decode(),
            )
        except NotFound:
            return None

    def keep(self, answer: JoinAnswer) -> None:
        # The certificate last: with it, everything is there.
        write_private(self._folder / "authority.pem", answer.authority_pem.encode())
        write_private(self._folder / "certificate.pem", answer.certificate_pem.encode())


class Passport:
    """The identity in use. Connections to come use what `renewed` took in last."""

    def __init__(self, safe: Safe, keys: Keys, answer: JoinAnswer) -> None:
        self._safe = safe
        self.keys = keys
        self._answer = answer

    @property
    def certificate_pem(self) -> str:
        return self._answer.certificate_pem

    @property
    def authority_pem(self) -> str:
        return self._answer.authority_pem

    @property
    def credentials(self) -> Credentials:
        return Credentials(self._answer.certificate_pem, self.keys.identity.to_pem())

    @property
    def identity(self) -> Identity:
        return identity_of(self._answer.certificate_pem)

    def renewed(self, answer: JoinAnswer, *, at: float) -> None:
        """Take a new certificate in, if it is this blanket's own, of the authority we know.

        Raises:
            Denied: it is not.
        """
        now = self.identity
        # The control plane relays this: another authority must be vouched for by the one we trust.
        authority_pem = succeed(self.authority_pem, answer.authority_pem)
        fresh = Anchors(authority_pem).verify(answer.certificate_pem, at)
        if (fresh.cloud, fresh.blanket, fresh.public_key) != (now.cloud, now.blanket, now.public_key):
            raise Denied("the renewed certificate is not this blanket's")
        self._answer = JoinAnswer(certificate_pem=answer.certificate_pem, authority_pem=authority_pem)
        self._safe.keep(self._answer)


def proof_of(birth: Birth, keys: Keys) -> JoinRequest:
    """The same bytes each time, so that a join whose answer was lost can be repeated."""
    return join_request(
        blanket=birth.blanket, secret=birth.secret, identity=keys.identity, sealing=keys.sealing
    )


def check_joined(answer: JoinAnswer, birth: Birth, keys: Keys, *, at: float) -> None:
    """Raises: Denied, if the certificate is not ours or not of the authority that we were born to trust."""
    identity = Anchors(birth.authority_pem).verify(answer.certificate_pem, at)
    mine: tuple[Id | None, Id | None, str] = (birth.cloud, birth.blanket, keys.identity.public)
    if (identity.cloud, identity.blanket, identity.public_key) != mine:
        raise Denied("the join was answered with another's certificate")
