"""The API over a whole control plane, on a real TLS listener, and the command line as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from test_control_plane import Bench, World

from supercloud.api.app import create_app
from supercloud.api.listener import create_server, serve
from supercloud.client import Access, Client, Place
from supercloud.controlplane.main import _is_operator
from supercloud.keystore.server import listening
from supercloud.trust.certificates import identity_of
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import Credentials, server_context

HOST = "127.0.0.1"


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Command:
    """One that runs."""

    process: asyncio.subprocess.Process
    argv: tuple[str, ...]

    async def says(self, word: str) -> None:
        """Until it has said so on standard error."""
        assert self.process.stderr is not None
        async with asyncio.timeout(100):
            while line := await self.process.stderr.readline():
                if word in line.decode():
                    return
        raise AssertionError(f"{self.argv} ended without saying {word!r}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    async def done(self, stdin: bytes | None = None) -> Done:
        async with asyncio.timeout(200):
            out, err = await self.process.communicate(stdin)
        assert self.process.returncode is not None
        return Done(self.process.returncode, out.decode(), err.decode(errors="replace"))


@dataclass
class Served:
    """A control plane that answers, and a home directory whose owner operates it."""

    bench: Bench
    access: Access
    home: Path
    argvs: list[list[str]] = field(default_factory=list)  # of every command that was started

    def client(self) -> Client:
        return Client(self.access, timeout_s=20)

    async def start(self, *arguments: str, **environment: str) -> Command:
        argv = [sys.executable, "-m", "supercloud.cli", *arguments]
        self.argvs.append(argv)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=command_environment(self.home) | environment,
        )
        return Command(process, arguments)

    async def run(self, *arguments: str, **environment: str) -> Done:
        return await (await self.start(*arguments, **environment)).done()

    async def ok(self, *arguments: str) -> Done:
        done = await self.run(*arguments)
        assert done.status == 0, (arguments, done)
        return done

    async def wrong(self, *arguments: str, status: int) -> str:
        """It has to fail so, saying why in one line; what it said of its progress before does not count."""
        done = await self.run(*arguments)
        assert done.status == status, (arguments, done)
        line = done.err.splitlines()[-1]
        assert line.startswith("supercloud: ") and done.err.count("supercloud: ") == 1, done
        assert not done.out, done
        return line


def command_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "SUPERCLOUD_HOME": str(home),
        "TMPDIR": str(home / "tmp"),
    }


@asynccontextmanager
async def served(world: World, home: Path) -> AsyncIterator[Served]:
    """`home` is the operator's, with a key for ssh in it."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA me@here\n")
    async with (
        world.up() as bench,
        listening(world.keys, Place(home).keystore_socket, controller_uid=os.getuid()),
        _listening(world, bench) as port,
    ):
        access = await _access(world, home, port)
        Place(home).save(access)
        yield Served(bench, access, home)


@asynccontextmanager
async def _listening(world: World, bench: Bench) -> AsyncIterator[int]:
    identity = IdentityKey.new()
    answer = await world.keys.issue_controller(csr_pem=identity.csr())
    context = server_context(
        Credentials(answer.certificate_pem, identity.to_pem()), answer.authority_pem, joining=False
    )
    server = create_server(create_app(bench.control), context, host=HOST, port=0, admit=_is_operator)
    serving = asyncio.create_task(serve(server))
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def _access(world: World, home: Path, port: int) -> Access:
    key = IdentityKey.new()
    answer = await world.keys.issue_operator(csr_pem=key.csr())
    files = {"key": key.to_pem(), "certificate": answer.certificate_pem, "authority": answer.authority_pem}
    for name, text in files.items():
        (home / f"{name}.pem").write_text(text)
    return Access(
        host=HOST,
        port=port,
        expires_at=identity_of(answer.certificate_pem).expires_at,
        **{name: str(home / f"{name}.pem") for name in files},
    )
