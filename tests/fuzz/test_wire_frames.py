"""Whatever arrives over a connection: an answer or the connection's end, never a crash, a hang or a flood."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.agent.birth import Birth
from supercloud.keystore.calls import methods as keystore_methods
from supercloud.keystore.faces import Owner, Served
from supercloud.model.errors import InvalidInput, OutcomeUnknown, Unavailable
from supercloud.ports.controller import Controller
from supercloud.wire.codec import from_json, to_json
from supercloud.wire.memory import MemoryTransport
from supercloud.wire.proxies import _GROUPS, _methods
from supercloud.wire.rpc import FRAME_BYTES, Handler, Peer
from supercloud.wire.stream import StreamTransport

pytestmark = pytest.mark.unit
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)

#: Everything that anybody may send anybody: (name, type).
TAKEN = [
    *(
        (f"{group}.{name}", takes)
        for group, port in (*_GROUPS.items(), ("controller", Controller))
        for name, (takes, _) in _methods(port).items()
        if takes is not None
    ),
    *(
        (f"{face.__name__}.{name}", takes)
        for face in (Owner, Served)
        for name, (takes, _) in keystore_methods(face).items()
        if takes is not None
    ),
    ("birth", Birth),
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 62)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        ["\x00", "\ud800", "sha256:" + "0" * 64, "0" * 32, "10.0.0.0/8", "🦊", "../../etc", "a\n"]
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(("name", "takes"), TAKEN, ids=[name for name, _ in TAKEN])
def test_a_value_fits_or_is_refused(name: str, takes: Any) -> None:
    """Not only wholly wrong ones: those with the right fields and one or another wrong value."""
    fields = list(getattr(takes, "__dataclass_fields__", {}))
    shaped = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, values))

    @settings(quick, max_examples=15)
    @given(values | shaped)
    def fuzz(value: object) -> None:
        try:
            taken = from_json(takes, value)
        except InvalidInput as error:
            assert error.message and len(error.message) < 2000
        else:
            assert from_json(takes, json.loads(json.dumps(to_json(takes, taken)))) == taken

    fuzz()


async def _said(*frames: str, peer_handlers: dict[str, Handler] | None = None) -> tuple[str, list[Any]]:
    """Why the connection ended, and what was answered before."""
    near, far = MemoryTransport.pair()
    peer = Peer(far, peer_handlers or {}, in_flight=8)
    running = asyncio.create_task(peer.run())
    answers: list[Any] = []

    async def listen() -> None:
        with suppress(Unavailable):
            while True:
                answers.append(json.loads(await near.receive()))

    listening = asyncio.create_task(listen())
    for frame in frames:
        with suppress(Unavailable):
            await near.send(frame)
    while not running.done() and (peer._serving or not far._inbox.empty()):  # noqa: ASYNC110 - its own loop
        await asyncio.sleep(0)
    await near.close("done")
    async with asyncio.timeout(30):
        reason = await running
        await listening
    return reason, answers


async def _echo(value: dict[str, Any]) -> dict[str, Any]:
    return value


ECHO = {"echo": Handler(dict[str, Any], dict[str, Any], _echo)}


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ("", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ('{"id":1,"call":"x","value":' * 100_000, "not JSON"),
        ("9" * 10_000, "not JSON"),
        ("null", "without an id"),
        ("[]", "without an id"),
        ('{"id":"1","call":"echo"}', "without an id"),
        ('{"id":1.0,"call":"echo"}', "without an id"),
        ("x" * (FRAME_BYTES + 1), "a frame of"),
        ('{"id": NaN}', "without an id"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(frame: str, says: str) -> None:
    reason, answers = await _said(frame, peer_handlers=ECHO)
    assert says in reason and answers == []


async def test_one_id_twice_is_answered_twice() -> None:
    """An id is the asker's own business: the other end keeps none."""
    frames = [json.dumps({"id": 7, "call": "echo", "value": {"n": n}}) for n in (1, 2)]
    reason, answers = await _said(*frames, peer_handlers=ECHO)
    assert reason == "done" and answers == [{"id": 7, "ok": {"n": 1}}, {"id": 7, "ok": {"n": 2}}]


async def test_deep_values_are_answered_not_crashed_on() -> None:
    deep = '{"id":1,"call":"echo","value":{"a":' + "[" * 900 + "]" * 900 + "}}"
    # As the programs have it: a trace without local variables, of which a deep one takes minutes to print.
    plain = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    before = structlog.get_config()
    structlog.configure(processors=plain)
    try:
        reason, answers = await _said(deep, peer_handlers=ECHO)
    finally:
        structlog.configure(**before)
    assert reason == "done" and answers[0]["id"] == 1


async def test_a_flood_of_requests_ends_the_connection() -> None:
    gate = asyncio.Event()

    async def never() -> None:
        await gate.wait()

    frames = [json.dumps({"id": number, "call": "never"}) for number in range(20)]
    reason, _ = await _said(*frames, peer_handlers={"never": Handler(None, type(None), never)})
    assert "more than 8 requests" in reason


async def test_answers_that_nobody_asked_for_change_nothing() -> None:
    near, far = MemoryTransport.pair()
    peer = Peer(near, {})
    running = asyncio.create_task(peer.run())
    asking = asyncio.create_task(peer.call("x", None, None, int, timeout_s=30))
    asked = json.loads(await far.receive())
    for answer in (
        {"id": asked["id"] + 1, "ok": 1},
        {"id": -1, "error": None},
        {"id": asked["id"], "ok": 42},
        {"id": asked["id"], "ok": 43},
        {"id": asked["id"], "error": {"code": "failed", "message": "late"}},
    ):
        await far.send(json.dumps(answer))
    assert await asking == 42
    await far.close("done")
    assert await running == "done"


@settings(quick, max_examples=60)
@given(values)
def test_an_answer_of_the_wrong_type_is_an_error_of_ours(value: object) -> None:
    async def scenario() -> None:
        near, far = MemoryTransport.pair()
        peer = Peer(near, {})
        running = asyncio.create_task(peer.run())
        asking = asyncio.create_task(peer.call("x", None, None, dict[str, bool], timeout_s=30))
        asked = json.loads(await far.receive())
        await far.send(json.dumps({"id": asked["id"], "ok": value}))
        with suppress(InvalidInput):
            assert isinstance(await asking, dict)
        await far.close()
        await running

    asyncio.run(scenario())


@settings(quick, max_examples=100)
@given(st.lists(st.binary(max_size=64) | st.just(b"\xff\xff\xff\xff") | st.just(b"\x00\x00\x00\x01\xff")))
def test_hostile_bytes_on_a_socket_end_the_connection(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        near, far = await _sockets()
        running = asyncio.create_task(Peer(StreamTransport(*far), ECHO).run())
        for chunk in chunks:
            near[1].write(chunk)
        near[1].write_eof()
        async with asyncio.timeout(30):
            await near[0].read()
            assert await running
        near[1].close()

    asyncio.run(scenario())


async def _sockets() -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection(sock=one) for one in socket.socketpair()]


async def test_a_large_length_reserves_no_memory() -> None:
    near, far = await _sockets()
    running = asyncio.create_task(Peer(StreamTransport(*far), {}).run())
    near[1].write((FRAME_BYTES + 1).to_bytes(4, "big"))
    assert "a frame of" in await running
    near[1].close()


async def test_a_peer_that_dies_amid_a_frame_leaves_the_outcome_unknown() -> None:
    near, far = await _sockets()
    peer = Peer(StreamTransport(*far), {})
    running = asyncio.create_task(peer.run())
    asking = asyncio.create_task(peer.call("x", None, None, int, timeout_s=30))
    await near[0].readexactly(4)
    near[1].write(b"\x00\x00\x10\x00half")
    near[1].close()
    with pytest.raises(OutcomeUnknown):
        await asking
    assert await running
