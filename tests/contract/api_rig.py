"""The API over a whole control plane, on a real TLS listener, and the command line as a user starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from control_rig import Bench, World
from fastapi import FastAPI

from supercloud.api.app import create_app
from supercloud.api.listener import create_server, serve
from supercloud.api.sessions import Desk
from supercloud.client import Access, Client, Endpoint, Place
from supercloud.client.http import CONTROLLER_NAME
from supercloud.client.place import FIRST_KEY
from supercloud.controlplane.browsers import BrowserCertificate
from supercloud.controlplane.operator import OperatorToken
from supercloud.keystore.server import listening
from supercloud.services.answers import Answers
from supercloud.services.doorkeeper import Doorkeeper
from supercloud.services.sessions import Sessions
from supercloud.trust.files import write_private
from supercloud.trust.keys import IdentityKey
from supercloud.trust.proof import Signed, channel_of, digest_of, prove
from supercloud.trust.tls import Credentials, server_context
from supercloud.web.app import add_web

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
    channel: str = ""
    web: FastAPI | None = None
    argvs: list[list[str]] = field(default_factory=list)  # of every command that was started

    def client(self, key: str = FIRST_KEY) -> Client:
        return Client(Place(self.home).access(key), timeout_s=20)

    def sign(self, key: str = FIRST_KEY) -> Signing:
        """Signs what is sent over httpx, as the holder of a key here."""
        access = Place(self.home).access(key)
        identity = IdentityKey.from_pem(Path(access.key).read_text())
        return Signing(identity, Path(access.token).read_text().strip(), self.channel)

    async def start(self, *arguments: str, **environment: str) -> Command:
        argv = [sys.executable, "-m", "supercloud.cli", *arguments]
        self.argvs.append(argv)
        process = await asyncio.create_subprocess_exec(
            *("env", "--default-signal=INT"),  # a shell's background job, which we may be, ignores Ctrl-C
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


class Signing(httpx.Auth):
    """Proves each request; bytes that are streamed to the disk stay as they are."""

    def __init__(self, key: IdentityKey, token: str, channel: str) -> None:
        self.key, self.token, self.channel = key, token, channel

    def headers(self, method: str, target: str, body: bytes | None) -> dict[str, str]:
        path, _, query = target.partition("?")
        digest = None if body is None else digest_of(body)
        request = Signed(
            method=method, path=path, query=query, token=self.token, channel=self.channel, digest=digest
        )
        return prove(self.key, request, at=time.time())

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        target = request.url.raw_path.decode()
        try:
            body: bytes | None = None if target.partition("?")[0].endswith("/content") else request.content
        except httpx.RequestNotRead:  # a stream, which is to be refused
            body = b""
        request.headers.update(self.headers(request.method, target, body))
        yield request


def command_environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "SUPERCLOUD_HOME": str(home),
        "TMPDIR": str(home / "tmp"),
    }


@asynccontextmanager
async def served(world: World, home: Path, sessions: Sessions | None = None) -> AsyncIterator[Served]:
    """`home` is the operator's, with a key for ssh in it."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA me@here\n")
    sessions = sessions or Sessions()
    async with (
        world.up() as bench,
        listening(world.keys, Place(home).keystore_socket, controller_uid=os.getuid()),
        _listening(world, bench, sessions) as (port, channel, web),
    ):
        place = Place(home)
        place.keys.mkdir(exist_ok=True)
        place.authority_file.write_text(await world.keys.authority())
        place.save(Endpoint(host=HOST, port=port, authority=str(place.authority_file)))
        key = IdentityKey.new()
        write_private(place.key_file(FIRST_KEY), key.to_pem().encode())
        await OperatorToken(bench.control, bench.parts, key.name, place.token_file(FIRST_KEY)).keep()
        yield Served(bench, place.access(FIRST_KEY), home, channel, web)


@asynccontextmanager
async def _listening(
    world: World, bench: Bench, sessions: Sessions
) -> AsyncIterator[tuple[int, str, FastAPI]]:
    """Its port, what names connections to it, and its web view."""
    identity = IdentityKey.new()
    answer = await world.keys.issue_controller(csr_pem=identity.csr())
    context = server_context(
        Credentials(answer.certificate_pem, identity.to_pem()), answer.authority_pem, anonymous=True
    )
    channel = channel_of(ssl.PEM_cert_to_DER_cert(answer.certificate_pem))
    door = await doorkeeper(world, bench, channel)
    browsers = BrowserCertificate((HOST,))
    browsers.serve(context)
    app = create_app(door, Answers(bench.parts.store), Desk(sessions, browsers.fingerprint))
    web = add_web(app, door, sessions)
    server = create_server(app, context, host=HOST, port=0)
    serving = asyncio.create_task(serve(server))
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1], channel, web
    finally:
        server.should_exit = True
        await serving


async def doorkeeper(world: World, bench: Bench, channel: str) -> Doorkeeper:
    """Of a server with one name for its connections."""
    return Doorkeeper(
        bench.parts.directory.look,
        root=await world.keys.token_root(),
        channels=lambda: frozenset({channel}),
        on_behalf_of=bench.control.on_behalf_of,
    )


class Named(httpx.AsyncHTTPTransport):
    """Whose certificate names the controller, not its address."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = CONTROLLER_NAME
        return await super().handle_async_request(request)


def problem(answer: httpx.Response, status: int, code: str) -> str:
    """It is a problem of that kind; what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert (said["status"], said["code"]) == (status, code)
    assert set(said) == {"type", "title", "status", "detail", "code", "hint"}
    assert said["detail"] and "\n" not in said["detail"]
    return str(said["detail"])


async def ended(http: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    operation = answer.json()
    async with asyncio.timeout(40):
        while operation["ended_at"] is None:
            operation = (await http.get(f"/operations/{operation['id']}", params={"wait_s": 10})).json()
    return dict(operation)
