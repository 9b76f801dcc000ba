"""Stores for contract suites: SQLite in a file, and a real PostgreSQL server of this test run's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import httpx
import psycopg
import pytest
from api_rig import HOST, Named, Served, served
from control_rig import Bench, World, furnish
from keystore_rig import Faces, Process
from psycopg.sql import SQL, Identifier

from supercloud.client.http import CONTROLLER_NAME
from supercloud.keystore.memory import memory_keystore
from supercloud.services.durable import DurableRuntime
from supercloud.services.store.engine import Store, normal_url


def _tool(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        pytest.fail("PostgreSQL is missing: run `scripts/install-debian-packages`")
    return str(found[-1])


def _as_unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


@contextmanager
def postgresql() -> Iterator[str]:
    """A server on a UNIX socket only; yields a URL without a database name."""
    folder = Path(tempfile.mkdtemp(prefix="sc-pg-"))  # short: a socket's path has at most 107 bytes
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    run = _as_unprivileged()
    data = folder / "data"
    try:
        subprocess.run(
            [*run, _tool("initdb"), "-D", data, "-A", "trust", "-U", "supercloud", "--no-sync", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=60"
        control = [*run, _tool("pg_ctl"), "-D", data, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql://supercloud@/postgres?host={folder}"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/"
            )
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database with all tables in it."""
    made: str = request.getfixturevalue(f"{request.param}_url")
    return made


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One without any."""
    if request.param == "sqlite":
        return _sqlite(tmp_path)
    return _created(request.getfixturevalue("postgresql_server"), "template0")


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    for file in sqlite_template.iterdir():
        shutil.copy(file, tmp_path)
    return _sqlite(tmp_path)


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> str:
    return _created(postgresql_server, postgresql_template)


# To make the tables takes half a second, which a thousand tests would spend each: made once, they are copied.


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    _make_tables(_sqlite(folder))
    return folder


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> str:
    url = _created(postgresql_server, "template0")
    _make_tables(url)
    return normal_url(url).database or ""


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'supercloud.db'}"


def _created(server: str, template: str) -> str:
    """A new database like `template`; its URL."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template))
        )
    return server.replace("/postgres?", f"/{name}?")


def _make_tables(url: str) -> None:
    """In a thread, since a test's event loop may be running in this one."""

    async def make() -> None:
        await (await Store.open(url)).close()
        durable = DurableRuntime(MagicMock(), url)
        await durable.launch()
        await durable.close()

    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(asyncio.run, make()).result()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    opened = await Store.open(database_url)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    made = World(database_url, tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    async with world.up() as made:
        await furnish(made, world.keys)
        yield made


@pytest.fixture
async def api(world: World, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(world, tmp_path / "h") as made:
        yield made


@pytest.fixture
async def http(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.access.port}/v1",
        verify=api.client().tls,
        headers={"Host": CONTROLLER_NAME},
        timeout=30,
        auth=api.sign(),
    ) as client:
        client._transport = Named(api.client().tls)
        yield client


@pytest.fixture
def process() -> Iterator[Process]:
    # Not pytest's own directory: the path of a UNIX socket is 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sc-keystore-") as home:
        yield Process(Path(home))


@pytest.fixture(params=["memory", "process"])
async def faces(request: pytest.FixtureRequest, process: Process) -> AsyncIterator[Faces]:
    if request.param == "memory":
        store = memory_keystore()
        yield Faces(store, store)
    else:
        async with process.serving() as found:
            yield found
