"""The API against its own description: whatever is sent, nothing answers 500, and all is as described."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import requests
import schemathesis
import uvicorn
from api_rig import Signing, doorkeeper
from control_rig import World, furnish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from supercloud.api import guard
from supercloud.api.app import create_app
from supercloud.api.listener import serve
from supercloud.api.sessions import Desk
from supercloud.controlplane.operator import OperatorToken
from supercloud.services.answers import Answers
from supercloud.services.requests import AddPrincipal
from supercloud.services.sessions import Sessions
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: What exists when it begins, so that requests get further than to be told that it does not.
_KNOWN = {
    "cloud": "c",
    "provider": "p",
    "image": "debian",
    "on": "n1",
    "to": "n1",
    "instance": "web",
    "principal": "alice",
    "networks": ["lan"],
    "domain": "p",
    "blanket": "n1",
}
_CHANNEL = ":none:"
_DESK = Desk(Sessions(), lambda: "00")
_KNOWN_REF = {
    "clouds": "c",
    "providers": "p",
    "images": "debian",
    "blankets": "n1",
    "instances": "web",
    "networks": "lan",
    "volumes": "data",
    "principals": "alice",
    "domains": "p",  # which is the operators'
}


@dataclass
class Target:
    url: str
    sign: Signing

    def signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """As `requests` wants to be given it, which schemathesis sends with."""
        raw = request.body or b""
        body = raw.encode() if isinstance(raw, str) else raw
        path = request.path_url
        content = path.partition("?")[0].endswith("/content") and request.method == "PUT"
        assert request.method is not None and isinstance(body, bytes)
        request.headers.update(self.sign.headers(request.method, path, None if content else body))
        return request


@asynccontextmanager
async def _plain(folder: Path) -> AsyncIterator[Target]:
    """A control plane with something in it, without TLS; what is sent is its operator's."""
    world = World(f"sqlite:///{folder / 'supercloud.db'}", folder)
    try:
        async with world.up() as bench:
            await furnish(bench, world.keys)
            await bench.blanket("n1")
            await bench.run(on="n1")
            await bench.control.add_principal(AddPrincipal(name="alice", key=IdentityKey.new().name))
            key = IdentityKey.new()
            file = folder / "operator.token"
            await OperatorToken(bench.control, bench.parts, key.name, file).keep()
            door = await doorkeeper(world, bench, _CHANNEL)
            config = uvicorn.Config(
                create_app(door, Answers(bench.parts.store), _DESK), port=0, lifespan="off", log_config=None
            )
            server = uvicorn.Server(config)
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            serving = asyncio.create_task(serve(server))
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            yield Target(f"http://127.0.0.1:{port}", Signing(key, file.read_text().strip(), _CHANNEL))
            server.should_exit = True
            await serving
    finally:
        await world.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """In a thread of its own: what is tested is asynchronous, what tests it is not."""
    folder = tmp_path_factory.mktemp("api")
    found: list[Target] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def run() -> None:
        async with _plain(folder) as at:
            found.append(at)
            up.set()
            await ending.wait()

    def body() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            up.set()

    thread = threading.Thread(target=body)
    thread.start()
    up.wait()
    yield found[0]
    loop.call_soon_threadsafe(ending.set)
    thread.join()


_APP = create_app(cast("Any", None), cast("Any", None), _DESK)
_SCHEMAS = [schemathesis.openapi.from_dict(one()) for one in (_APP.openapi, _APP.state.southbound)]
_OPERATIONS = {
    result.ok().label: result.ok() for schema in _SCHEMAS for result in schema.get_all_operations()
}


@pytest.mark.parametrize("label", _OPERATIONS)
def test_every_answer_is_as_described(label: str, target: Target) -> None:
    operation = _OPERATIONS[label]

    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)))
    def fuzz(case: schemathesis.Case) -> None:
        _aim(case)
        case.call_and_validate(base_url=target.url, checks=_CHECKS, timeout=100, auth=target.signed)

    fuzz()


def _aim(case: schemathesis.Case) -> None:
    """Half of the names become those of what exists."""
    ref = (case.path_parameters or {}).get("ref")
    if isinstance(ref, str) and len(ref) % 2:
        case.path_parameters["ref"] = _KNOWN_REF[case.path.removeprefix("/southbound").split("/")[2]]
    if case.path.endswith(guard.EVENTS) and "lasts_s" not in (case.query or {}):
        case.query = {**(case.query or {}), "lasts_s": 0}  # it would last for good
    if isinstance(case.body, dict):
        for name, known in _KNOWN.items():
            if name in case.body and len(str(case.body[name])) % 2:
                case.body[name] = known


def test_it_still_works(target: Target) -> None:
    """After all that."""
    status = httpx.get(f"{target.url}/v1/status", auth=target.sign).json()
    assert status["database"] == "sqlite" and status["clouds"] >= 0
