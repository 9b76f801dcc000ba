"""The key store from another process: its faces over its UNIX sockets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from supercloud.keystore.authorities import AuthorityStatus
from supercloud.keystore.calls import methods
from supercloud.keystore.faces import (
    Consent,
    ConsentTo,
    EvidenceKey,
    ImageKey,
    ImageShare,
    KnownTpm,
    Owner,
    Served,
)
from supercloud.keystore.server import owner_socket
from supercloud.model.errors import Unavailable
from supercloud.model.names import Digest, Id, PublicKey
from supercloud.ports.agent import SealedKey
from supercloud.ports.keystore import JoinAnswer, JoinRequest, JoinToken, TokenRequest
from supercloud.wire.rpc import Peer
from supercloud.wire.stream import StreamTransport

_ANSWER_S = 30.0


class _Connection:
    """One connection, made when it is needed and again after the key store was restarted."""

    def __init__(self, socket: Path, face: type, group: str) -> None:
        self._socket = socket
        self._methods = methods(face)
        self._group = group
        self._peer: Peer | None = None
        self._running: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, name: str, **values: object) -> Any:
        takes, gives = self._methods[name]
        value = None if takes is None else takes(**values)
        peer = await self._connected()
        return await peer.call(f"{self._group}.{name}", value, takes, gives, timeout_s=_ANSWER_S)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    async def _connected(self) -> Peer:
        async with self._connecting:
            if self._peer is None:
                try:
                    reader, writer = await asyncio.open_unix_connection(self._socket)
                except OSError as error:
                    raise Unavailable(
                        f"the key store does not listen on {self._socket}", hint="start it, then try again"
                    ) from error
                self._peer = Peer(StreamTransport(reader, writer), {})
                self._running = asyncio.create_task(self._run(self._peer))
            return self._peer

    async def _run(self, peer: Peer) -> None:
        try:
            await peer.run()
        finally:
            self._peer = None


class RemoteKeyStore:
    """ports.keystore.KeyStore, in the key store's own process. Every method may be repeated.

    Raises, besides the port's: Unavailable (it does not run), OutcomeUnknown (it ended meanwhile).
    """

    def __init__(self, socket: Path) -> None:
        self._to = _Connection(socket, Served, "keystore")

    async def close(self) -> None:
        await self._to.close()

    async def invite(self, *, cloud: Id, blanket: Id, lifetime_s: float) -> JoinToken:
        token: JoinToken = await self._to.ask("invite", cloud=cloud, blanket=blanket, lifetime_s=lifetime_s)
        return token

    async def admit(self, request: JoinRequest) -> JoinAnswer:
        answer: JoinAnswer = await self._to.ask("admit", request=request)
        return answer

    async def renew(self, *, blanket: Id, csr_pem: str) -> JoinAnswer:
        answer: JoinAnswer = await self._to.ask("renew", blanket=blanket, csr_pem=csr_pem)
        return answer

    async def revoke(self, *, blanket: Id) -> None:
        await self._to.ask("revoke", blanket=blanket)

    async def revoked(self) -> tuple[Id, ...]:
        found: tuple[Id, ...] = await self._to.ask("revoked")
        return found

    async def volume_key(self, *, cloud: Id, volume: Id, copy: Id, blanket: Id) -> SealedKey:
        key: SealedKey = await self._to.ask(
            "volume_key", cloud=cloud, volume=volume, copy=copy, blanket=blanket
        )
        return key

    async def destroy_key(self, *, volume: Id, copy: Id) -> None:
        await self._to.ask("destroy_key", volume=volume, copy=copy)

    async def image_key(self, *, cloud: Id, digest: Digest, blanket: Id) -> SealedKey:
        key: SealedKey = await self._to.ask("image_key", cloud=cloud, digest=digest, blanket=blanket)
        return key

    async def withdraw_image_key(self, *, share: Id) -> None:
        await self._to.ask("withdraw_image_key", share=share)

    async def bind_copy(
        self, *, cloud: Id, volume: Id, copy: Id, blanket: Id, digest: Digest, signature: str
    ) -> None:
        await self._to.ask(
            "bind_copy",
            cloud=cloud,
            volume=volume,
            copy=copy,
            blanket=blanket,
            digest=digest,
            signature=signature,
        )

    async def destroy_image_key(self, *, image: Id) -> None:
        await self._to.ask("destroy_image_key", image=image)

    async def user_data_key(self, *, cloud: Id, instance: Id, digest: Digest, blanket: Id) -> SealedKey:
        key: SealedKey = await self._to.ask(
            "user_data_key", cloud=cloud, instance=instance, digest=digest, blanket=blanket
        )
        return key

    async def destroy_user_data_key(self, *, digest: Digest) -> None:
        await self._to.ask("destroy_user_data_key", digest=digest)

    async def token_root(self) -> PublicKey:
        key: PublicKey = await self._to.ask("token_root")
        return key

    async def mint_token(self, request: TokenRequest) -> str:
        text: str = await self._to.ask("mint_token", request=request)
        return text

    async def consent_key(self, *, cloud: Id) -> PublicKey:
        key: PublicKey = await self._to.ask("consent_key", cloud=cloud)
        return key

    async def renew_controller(self, *, csr_pem: str) -> JoinAnswer:
        answer: JoinAnswer = await self._to.ask("renew_controller", csr_pem=csr_pem)
        return answer


class RemoteOwner:
    """The owner's face; `socket` is the same as the control plane's, its own lies beside it."""

    def __init__(self, socket: Path) -> None:
        self._to = _Connection(owner_socket(socket), Owner, "owner")

    async def close(self) -> None:
        await self._to.close()

    async def authority(self) -> str:
        pem: str = await self._to.ask("authority")
        return pem

    async def issue_controller(self, *, csr_pem: str, addresses: tuple[str, ...] = ()) -> JoinAnswer:
        answer: JoinAnswer = await self._to.ask("issue_controller", csr_pem=csr_pem, addresses=addresses)
        return answer

    async def new_image_key(self, *, cloud: Id | None = None) -> ImageKey:
        key: ImageKey = await self._to.ask("new_image_key", cloud=cloud)
        return key

    async def bind_image_key(self, *, id: Id, digest: Digest) -> None:
        await self._to.ask("bind_image_key", id=id, digest=digest)

    async def share_image_key(self, *, share: ImageShare) -> None:
        await self._to.ask("share_image_key", share=share)

    async def withdraw_image_key(self, *, share: Id) -> None:
        await self._to.ask("withdraw_image_key", share=share)

    async def keep_user_data_key(self, *, digest: Digest, key: str) -> None:
        await self._to.ask("keep_user_data_key", digest=digest, key=key)

    async def evidence_key(self, *, cloud: Id, blanket: Id, evidence: Id, sealed: SealedKey) -> EvidenceKey:
        key: EvidenceKey = await self._to.ask(
            "evidence_key", cloud=cloud, blanket=blanket, evidence=evidence, sealed=sealed
        )
        return key

    async def approve(self, *, blanket: Id) -> None:
        await self._to.ask("approve", blanket=blanket)

    async def revoke(self, *, blanket: Id) -> None:
        await self._to.ask("revoke", blanket=blanket)

    async def revoked(self) -> tuple[Id, ...]:
        found: tuple[Id, ...] = await self._to.ask("revoked")
        return found

    async def consent_key(self, *, cloud: Id) -> PublicKey:
        key: PublicKey = await self._to.ask("consent_key", cloud=cloud)
        return key

    async def consent(self, *, to: ConsentTo) -> Consent:
        signed: Consent = await self._to.ask("consent", to=to)
        return signed

    async def export_key(self, *, act: Id, header: str) -> str:
        key: str = await self._to.ask("export_key", act=act, header=header)
        return key

    async def trust_tpm(self, *, tpm: Digest, booted: Digest) -> None:
        await self._to.ask("trust_tpm", tpm=tpm, booted=booted)

    async def trusted_tpms(self) -> tuple[KnownTpm, ...]:
        found: tuple[KnownTpm, ...] = await self._to.ask("trusted_tpms")
        return found

    async def forget_tpm(self, *, tpm: Digest) -> None:
        await self._to.ask("forget_tpm", tpm=tpm)

    async def authority_status(self) -> AuthorityStatus:
        status: AuthorityStatus = await self._to.ask("authority_status")
        return status

    async def prepare_authority(self) -> None:
        await self._to.ask("prepare_authority")

    async def switch_authority(self, *, force: bool = False) -> None:
        await self._to.ask("switch_authority", force=force)

    async def retire_authority(self, *, force: bool = False) -> None:
        await self._to.ask("retire_authority", force=force)

    async def recreate_authority(self) -> None:
        await self._to.ask("recreate_authority")
