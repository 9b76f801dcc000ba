"""A key store with its two faces, as a program of its own or in memory, and a blanket that asks it."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from supercloud.keystore.client import RemoteKeyStore, RemoteOwner
from supercloud.keystore.faces import Owner, Served
from supercloud.model.names import new_id
from supercloud.ports.agent import SealedKey
from supercloud.ports.keystore import JoinAnswer, JoinRequest
from supercloud.trust.join import join_request
from supercloud.trust.keys import IdentityKey, SealingKey
from supercloud.trust.sealing import open_sealed, volume_purpose

CLOUD = new_id()
DIGEST = "sha256:" + "ab" * 32
_READY_S = 30


@dataclass
class Faces:
    served: Served
    owner: Owner


class Process:
    """`python -m supercloud.keystore` in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.state, self.socket = home, home / "state", home / "socket"
        self.running: asyncio.subprocess.Process | None = None

    async def run(self, *arguments: str | Path) -> tuple[int, str]:
        """A command that ends; returns its status and everything it wrote."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supercloud.keystore", "--state", self.state, "--socket", self.socket),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(_READY_S):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def start(self, *arguments: str | Path) -> None:
        with (self.home / "log").open("ab") as log:
            self.running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "supercloud.keystore"),
                *("--state", self.state, "--socket", self.socket, *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self.running.stdout is not None
        async with asyncio.timeout(_READY_S):
            said = await self.running.stdout.readline()
        assert said == b"ready\n", (self.home / "log").read_text()

    async def end(self, number: int = signal.SIGTERM) -> None:
        if self.running is not None:
            if self.running.returncode is None:
                self.running.send_signal(number)
            await self.running.wait()
            self.running = None

    @asynccontextmanager
    async def serving(self, *arguments: str | Path) -> AsyncIterator[Faces]:
        await self.start(*arguments)
        served, owner = RemoteKeyStore(self.socket), RemoteOwner(self.socket)
        try:
            yield Faces(served, owner)
        finally:
            await served.close()
            await owner.close()
            await self.end()


class Blanket:
    """The blanket's side: keys made inside, and nothing but what travels."""

    def __init__(self, cloud: str = CLOUD) -> None:
        self.id, self.cloud = new_id(), cloud
        self.identity, self.sealing = IdentityKey.new(), SealingKey.new()
        self.request: JoinRequest | None = None

    async def join(self, served: Served) -> JoinAnswer:
        token = await served.invite(cloud=self.cloud, blanket=self.id, lifetime_s=600)
        self.request = self.asking(token.secret)
        return await served.admit(self.request)

    def asking(self, secret: str) -> JoinRequest:
        return join_request(blanket=self.id, secret=secret, identity=self.identity, sealing=self.sealing)

    def opened(self, sealed: SealedKey, purpose: str) -> bytes:
        return open_sealed(sealed, key=self.sealing, blanket=self.id, purpose=purpose)

    async def key(self, served: Served, volume: str, copy: str) -> bytes:
        sealed = await served.volume_key(cloud=self.cloud, volume=volume, copy=copy, blanket=self.id)
        return self.opened(sealed, volume_purpose(volume, copy))
