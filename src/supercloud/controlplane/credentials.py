"""The control plane's own certificate: asked of the owner's key store at each start, renewed while it runs.

Its private key never leaves this process, and neither is kept: who takes the disk has no identity of ours.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from pathlib import Path

import structlog

from supercloud.controlplane.browsers import BrowserCertificate
from supercloud.keystore.client import RemoteKeyStore, RemoteOwner
from supercloud.model.errors import SupercloudError
from supercloud.trust.certificates import identity_of
from supercloud.trust.keys import IdentityKey
from supercloud.trust.proof import channel_of
from supercloud.trust.tls import Credentials, reload, server_context, trust_authority

_log = structlog.get_logger(__name__)
_RETRY_S = 30.0


class OwnCertificate:
    """TLS contexts of the listeners, kept valid by `run()`. `browsers`: once they are obtained."""

    browsers: BrowserCertificate

    def __init__(self, keys: RemoteKeyStore, socket: Path) -> None:
        self._keys = keys
        self._socket = socket
        self._identity = IdentityKey.new()
        self._contexts: list[ssl.SSLContext] = []
        self._renew_at = 0.0
        self._channels: deque[str] = deque(maxlen=2)

    async def obtain(self, hosts: tuple[str, ...]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For the API (nobody is asked for a certificate) and for agents (joining needs none).

        Raises:
            Unavailable: the key store does not answer.
        """
        owner = RemoteOwner(self._socket)
        try:
            answer = await owner.issue_controller(csr_pem=self._identity.csr(), addresses=hosts)
        finally:
            await owner.close()
        own = self._credentials(answer.certificate_pem)
        api = server_context(own, answer.authority_pem, anonymous=True)
        agents = server_context(own, answer.authority_pem, joining=True)
        self.browsers = BrowserCertificate(hosts)
        self.browsers.serve(api)
        self._contexts = [api, agents]
        return api, agents

    async def run(self) -> None:
        """Renew at half-life, for the connections to come."""
        while True:
            await asyncio.sleep(max(1.0, self._renew_at - time.time()))
            try:
                answer = await self._keys.renew_controller(csr_pem=self._identity.csr())
                own = self._credentials(answer.certificate_pem)
                for context in self._contexts:
                    reload(context, own)
                    trust_authority(context, answer.authority_pem)  # the next one, while it is replaced
                self.browsers.renew()
            except SupercloudError as error:
                _log.warning("certificate.not_renewed", why=error.message)
                await asyncio.sleep(_RETRY_S)

    def channels(self) -> frozenset[str]:
        """What names the connections to us, of which some may have begun under the certificate before."""
        return frozenset(self._channels)

    def _credentials(self, certificate_pem: str) -> Credentials:
        self._renew_at = identity_of(certificate_pem).renew_at
        self._channels.append(channel_of(ssl.PEM_cert_to_DER_cert(certificate_pem)))
        return Credentials(certificate_pem, self._identity.to_pem())
