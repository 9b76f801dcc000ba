"""The control plane's program.

It prints nothing but its log. SIGTERM ends it in order; `kill -9` at any moment costs nothing but time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import sys
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from supercloud import heap, logs
from supercloud.api.app import create_app
from supercloud.api.listener import create_server, serve
from supercloud.api.sessions import Desk
from supercloud.controlplane.compose import DATABASE, control_plane, database_url
from supercloud.controlplane.credentials import OwnCertificate
from supercloud.controlplane.listener import AgentListener
from supercloud.controlplane.operator import OperatorToken
from supercloud.images.blanket import BuiltImages
from supercloud.images.bundle import bundle_path
from supercloud.keystore.client import RemoteKeyStore
from supercloud.model.errors import Conflict, InvalidInput, SupercloudError
from supercloud.model.names import Id, PublicKey
from supercloud.platforms import open_platform
from supercloud.ports.platform import Platform
from supercloud.services import backup
from supercloud.services.agents import Agents
from supercloud.services.answers import Answers
from supercloud.services.blanket_files import OwnBlanketFiles
from supercloud.services.doorkeeper import Doorkeeper
from supercloud.services.parts import PlatformDrivers, Settings
from supercloud.services.sessions import Sessions
from supercloud.services.store.engine import Store, normal_url
from supercloud.services.upgrades import OwnBundle
from supercloud.web.app import add_web

_log = structlog.get_logger(__name__)
_DATABASE_VARIABLE = "SUPERCLOUD_DATABASE"  # a URL may hold a password, so it never comes by argv
_REVOKED_EVERY_S = 30.0
_TLS_READ_BYTES = 8 << 10


@dataclass(frozen=True, slots=True)
class Options:
    state: Path
    keystore: Path
    listen: tuple[str, int]
    agents: tuple[str, int]
    operator: tuple[PublicKey, Path] | None  # None: there is one already, another controller's

    @property
    def images(self) -> Path:
        return self.state / "images"


def main() -> int:
    """Exit status as in model.errors; one line on stderr says what was wrong."""
    options = _parser().parse_args()
    _harden()
    expect_many()
    return _reported(lambda: options.run(options))


def _reported(work: Callable[[], object]) -> int:
    try:
        work()
    except SupercloudError as error:
        print(f"error: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supercloud.controlplane", description=__doc__)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--keystore", type=Path, help="the owner's key store's UNIX socket")
    parser.add_argument("--listen", type=_endpoint, default=("127.0.0.1", 7443), help="of the API")
    parser.add_argument("--agents", type=_endpoint, default=("127.0.0.1", 7444), help="what blankets dial")
    parser.add_argument("--operator", type=_key, help="the public key of whoever administers it")
    parser.add_argument("--operator-token", type=Path, help="the file that is to hold a token for that key")
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(title="commands")
    for name, run, what in (
        ("backup", _back_up, "write the state into one file, while running or not"),
        ("restore", _restore, "put the state of such a file in place; the control plane must not run"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--state", type=Path, required=True)
        command.add_argument("file", type=Path)
        command.set_defaults(run=run)
    restored = commands.add_parser("restored", help="say that PostgreSQL was restored by its own tools")
    restored.set_defaults(run=_restored)
    return parser


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError("HOST:PORT is expected")
    return host, int(port)


def _key(text: str) -> PublicKey:
    if not re.fullmatch("ed25519/[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("ed25519/HEX is expected")
    return text


def _harden() -> None:
    """No core dumps, no files for others, no local variables in tracebacks, a line of JSON for each event."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    logs.configure(level=logging.INFO)
    heap.give_back()


def expect_many() -> None:
    """Each agent is an open file, of which the usual bound is 1024, and a TLS connection, for which asyncio
    would keep a quarter of a megabyte to read into. What arrives is mostly small; what is not loses a quarter
    of its pace by this, against 16 KiB, which a record of TLS has at most."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    SSLProtocol.max_size = _TLS_READ_BYTES


# ---------------------------------------------------------------- commands


def _serve(given: argparse.Namespace) -> None:
    if given.state is None or given.keystore is None:
        raise InvalidInput("--state and --keystore are needed")
    if (given.operator is None) != (given.operator_token is None):
        raise InvalidInput("--operator and --operator-token belong together")
    given.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = Options(
        given.state.absolute(),
        given.keystore.absolute(),
        given.listen,
        given.agents,
        (given.operator, given.operator_token.absolute()) if given.operator else None,
    )
    _migrate_apart(database_url(options.state, os.environ.get(_DATABASE_VARIABLE)))
    asyncio.run(_run(options))


def _migrate_apart(url: str) -> None:
    """Bring the tables up to date in a child: what that loads would stay resident here for good."""
    child = os.fork()
    if child == 0:
        os._exit(_reported(lambda: asyncio.run(_open_once(url))))
    _, ended = os.waitpid(child, 0)
    if ended:
        raise SystemExit(os.waitstatus_to_exitcode(ended))


async def _open_once(url: str) -> None:
    await (await Store.open(url)).close()


def _back_up(given: argparse.Namespace) -> None:
    _tidy_when_ended()
    backup.back_up(_sqlite(given.state), given.state / "images", given.file)


def _restore(given: argparse.Namespace) -> None:
    _tidy_when_ended()
    asyncio.run(backup.restore(_sqlite(given.state), given.state / "images", given.file))


def _tidy_when_ended() -> None:
    """Asked to end, it takes away what it began."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _restored(_given: argparse.Namespace) -> None:
    async def mark() -> None:
        store = await Store.open(_postgresql())
        try:
            await backup.mark_restored(store)
        finally:
            await store.close()

    asyncio.run(mark())


def _sqlite(state: Path) -> Path:
    if os.environ.get(_DATABASE_VARIABLE):
        raise InvalidInput(
            "the state is in PostgreSQL",
            hint="pg_dump and pg_restore, then `python -m supercloud.controlplane restored`",
        )
    return (state / DATABASE).absolute()


def _postgresql() -> str:
    url = os.environ.get(_DATABASE_VARIABLE, "")
    if not url or normal_url(url).get_backend_name() != "postgresql":
        raise InvalidInput(f"{_DATABASE_VARIABLE} does not name a PostgreSQL database")
    return url


# ---------------------------------------------------------------- running


async def _run(options: Options) -> None:
    url = database_url(options.state, os.environ.get(_DATABASE_VARIABLE))
    images = BuiltImages()
    settings = Settings(
        images=options.images,
        agents_port=options.agents[1],
        blanket_image=images.current,
        bundle=OwnBundle(bundle_path),
        blanket_files=OwnBlanketFiles(images.files, images.current),
        database=normal_url(url).get_backend_name(),
    )
    keys = RemoteKeyStore(options.keystore)
    try:
        async with control_plane(
            database=url, settings=settings, keys=keys, drivers=_drivers(options.state, images)
        ) as (control, parts, _, takeover):
            certificate = OwnCertificate(keys, options.keystore)
            hosts = (options.listen[0], options.agents[0])
            api_context, agents_context = await certificate.obtain(hosts)
            listener = AgentListener(parts)
            await _listening(listener, options.agents, agents_context)
            door = Doorkeeper(
                parts.directory.look,
                root=await keys.token_root(),
                channels=certificate.channels,
                on_behalf_of=control.on_behalf_of,
            )
            host, port = options.listen
            desk = Desk(Sessions(), certificate.browsers.fingerprint)
            app = create_app(door, Answers(parts.store), desk)
            add_web(app, door, desk.sessions)
            server = create_server(app, api_context, host=host, port=port)
            operator = OperatorToken(control, parts, *options.operator) if options.operator else None
            if operator is not None:
                await operator.keep()
            await control.start()
            try:
                await _until_ended(
                    serve(server),
                    certificate.run(),
                    *([operator.run()] if operator is not None else []),
                    takeover.run(),
                    _heed_revocations(keys, parts.agents),
                )
            finally:
                await listener.close()
    finally:
        await keys.close()


async def _listening(listener: AgentListener, endpoint: tuple[str, int], context: Any) -> None:
    try:
        await listener.start(*endpoint, context)
    except OSError as error:
        raise Conflict(f"port {endpoint[1]} of {endpoint[0]} cannot be had: {error.strerror}") from error


async def _until_ended(*works: Coroutine[Any, Any, None]) -> None:
    """Until a signal, or until one of them ends, which none should."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    tasks = [asyncio.create_task(work) for work in works]
    ending = asyncio.create_task(asked.wait())
    try:
        done, _ = await asyncio.wait([ending, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ending}:
            task.result()
    finally:
        for task in (ending, *tasks):
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _heed_revocations(keys: RemoteKeyStore, agents: Agents) -> None:
    """The owner may revoke a blanket at the key store directly."""
    known: set[Id] = set()
    while True:
        try:
            revoked = set(await keys.revoked())
            for blanket in revoked - known:
                await agents.revoke(blanket, "its owner revoked it")
            known = revoked
        except SupercloudError as error:
            _log.warning("revocations.unknown", why=error.message)
        await asyncio.sleep(_REVOKED_EVERY_S)


def _drivers(state: Path, images: BuiltImages) -> PlatformDrivers:
    """One driver object for each provider, kept: it may hold what it proved of its host."""
    opened: dict[Id, Platform] = {}

    def driver(provider: Id, kind: str, options: dict[str, str]) -> Platform:
        if provider not in opened:
            opened[provider] = open_platform(
                kind, state / "platforms" / provider, images, options, cache_dir=state / "platforms"
            )
        return opened[provider]

    return driver
