"""Both APIs against their own descriptions, by every check that schemathesis has: nothing answers 500, all is
as described, what a description allows is not refused for its form, and what it does not is refused.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
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
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.meta import CoveragePhaseData
from schemathesis.specs.openapi.checks import allow_header_conformance, unsupported_method

from supercloud.api import guard
from supercloud.api.app import create_app
from supercloud.api.listener import serve
from supercloud.api.sessions import Desk
from supercloud.controlplane.operator import OperatorToken
from supercloud.services.answers import Answers
from supercloud.services.requests import AddPrincipal
from supercloud.services.sessions import Sessions
from supercloud.trust.keys import IdentityKey

pytestmark = [pytest.mark.contract, pytest.mark.timeout(900)]  # an operation is asked up to 550 times
#: All are on. What a schema cannot say is refused as what its form is (422), which `_FORM` tells apart; a
#: condition may fail; and bodies have a limit before they have a form.
_CHECKS = {
    "positive_data_acceptance": {
        "expected-statuses": ["2xx", "3xx", "401", "403", "404", "409", "412", "422", "429", "5xx"]
    },
    "negative_data_rejection": {
        "expected-statuses": ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422", "5xx"]
    },
}
_FORM = "x-refused-form"
#: Whose last word may be the name of a thing as well, which other methods are for.
_WORDS = ("/v1/instances/move", "/v1/instances/adopt", "/v1/tokens/revoke")
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
            app = _telling(create_app(door, Answers(bench.parts.store), _DESK))
            config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
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


def _telling(app: FastAPI) -> FastAPI:
    """The same, which says of a refusal that it was for a request's form: not by a validator of ours."""
    known: Any = app.exception_handlers[RequestValidationError]

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        answer: JSONResponse = await known(request, error)
        if all(one["type"] != "value_error" for one in error.errors()):
            answer.headers[_FORM] = "yes"
        return answer

    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    return app


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
_NORTH, _SOUTH = [
    schemathesis.openapi.from_dict(one(), config=SchemathesisConfig.from_dict({"checks": _CHECKS}))
    for one in (_APP.openapi, _APP.state.southbound)
]
_SETTINGS = settings(
    max_examples=4, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@_NORTH.parametrize()
@_SETTINGS
def test_every_answer_is_as_described(case: schemathesis.Case, target: Target) -> None:
    _sent(case, target)


@_SOUTH.parametrize()
@_SETTINGS
def test_every_answer_to_providers_is_as_described(case: schemathesis.Case, target: Target) -> None:
    _sent(case, target)


@pytest.mark.parametrize("schema", [_NORTH, _SOUTH], ids=["users", "providers"])
def test_what_was_made_is_there_and_what_is_gone_is_not(schema: Any, target: Target) -> None:
    """One request after another, with what the one before answered."""
    machine: Any = schema.as_state_machine()

    class Signed(machine):  # type: ignore[misc]
        def before_call(self, case: schemathesis.Case) -> None:
            _aim(case, names=False)

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return _sending(case, target)

    steps = settings(_SETTINGS, stateful_step_count=10, phases=[Phase.generate])
    run_state_machine_as_test(Signed, settings=steps)


def _sent(case: schemathesis.Case, target: Target) -> None:
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    _aim(case, names=positive)
    sending = _sending(case, target)
    answer = case.call(**sending)
    words = [allow_header_conformance, unsupported_method] if case.path in _WORDS else []
    case.validate_response(answer, excluded_checks=words, transport_kwargs=sending)
    assert not positive or _FORM not in answer.headers, answer.text


def _sending(case: schemathesis.Case, target: Target) -> dict[str, Any]:
    """Signed, unless that is what is wrong with it."""
    signed = None if _is_about(case, "Authorization") else target.signed
    return {"base_url": target.url, "timeout": 100, "auth": signed}


def _is_about(case: schemathesis.Case, parameter: str) -> bool:
    """Whether it is wrong by this one."""
    if case.meta is None or case.meta.generation.mode.is_positive:
        return False
    data = case.meta.phase.data
    if isinstance(data, CoveragePhaseData):
        return data.parameter == parameter
    return parameter in str(data.description)


def _aim(case: schemathesis.Case, *, names: bool) -> None:
    """Half of the names become those of what exists. A key for repeats is for one request, and the generator
    knows no entity tag."""
    ref = (case.path_parameters or {}).get("ref")
    if names and isinstance(ref, str) and len(ref) % 2:
        case.path_parameters["ref"] = _KNOWN_REF[case.path.removeprefix("/southbound").split("/")[2]]
    if case.path.endswith(guard.EVENTS) and "lasts_s" not in (case.query or {}):
        case.query = {**(case.query or {}), "lasts_s": 0}  # it would last for good
    fresh = {"Idempotency-Key": str(uuid.uuid4()), "If-Match": "*", "If-None-Match": '"0123"'}
    for name in fresh.keys() & (case.headers or {}).keys():
        if case.method != case.operation.method.upper():
            del case.headers[name]
        elif not _is_about(case, name):
            case.headers[name] = fresh[name]
    if names and isinstance(case.body, dict):
        for name, known in _KNOWN.items():
            if isinstance(case.body.get(name), type(known)) and len(str(case.body[name])) % 2:
                case.body[name] = known


def test_it_still_works(target: Target) -> None:
    """After all that."""
    status = httpx.get(f"{target.url}/v1/status", auth=target.sign).json()
    assert status["database"] == "sqlite" and status["clouds"] >= 0
