"""The connection between agents and the control plane: right answers, honest failures, no way to crash it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.model.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, Unavailable
from supercloud.model.names import new_id
from supercloud.model.right import RunRight
from supercloud.ports.agent import (
    InstanceRef,
    InstanceReport,
    InstancesAgent,
    InstanceSpec,
    RunState,
    StartInstance,
)
from supercloud.ports.controller import Controller
from supercloud.wire.codec import from_json, to_json
from supercloud.wire.memory import MemoryTransport
from supercloud.wire.proxies import _GROUPS, _methods, remote
from supercloud.wire.rpc import FRAME_BYTES, Handler, Peer

pytestmark = pytest.mark.unit


class Instances:
    """Answers two methods of the port; the others are not called here."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def inspect(self, request: InstanceRef) -> InstanceReport:
        return InstanceReport(instance=request.instance, state=RunState.RUNNING, epoch=3)

    async def reboot(self, request: InstanceRef) -> InstanceReport:
        raise Conflict("it is migrating", hint="wait for the migration")

    async def list(self) -> list[InstanceReport]:
        await self.release.wait()
        return []


@asynccontextmanager
async def connected(instances: Instances) -> AsyncIterator[tuple[InstancesAgent, Peer, MemoryTransport]]:
    near, far = MemoryTransport.pair()
    handlers = {
        f"instances.{name}": Handler(*_methods(InstancesAgent)[name], getattr(instances, name))
        for name in ("inspect", "reboot", "list")
    }
    ends = [Peer(near, {}), Peer(far, handlers)]
    running = [asyncio.create_task(end.run()) for end in ends]
    try:
        yield remote(InstancesAgent, "instances", ends[0]), ends[0], near
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_an_answer_comes_back_as_its_type() -> None:
    async with connected(Instances()) as (remote, _, _):
        wanted = new_id()
        report = await remote.inspect(InstanceRef(instance=wanted))
        assert report == InstanceReport(instance=wanted, state=RunState.RUNNING, epoch=3)


async def test_an_error_comes_back_as_its_kind_with_its_hint() -> None:
    async with connected(Instances()) as (remote, _, _):
        with pytest.raises(Conflict, match="it is migrating") as caught:
            await remote.reboot(InstanceRef(instance=new_id()))
        assert caught.value.hint == "wait for the migration"


async def test_a_bad_value_is_refused_by_the_other_end() -> None:
    async with connected(Instances()) as (remote, _, _):
        with pytest.raises(InvalidInput, match="instance"):
            await remote.inspect(InstanceRef(instance="not an id"))


async def test_an_unknown_method_is_not_found() -> None:
    async with connected(Instances()) as (_, peer, _):
        with pytest.raises(NotFound):
            await peer.call("instances.explode", None, None, InstanceReport, timeout_s=5)


async def test_a_late_answer_is_unknown_and_does_no_harm() -> None:
    instances = Instances()
    async with connected(instances) as (remote, peer, _):
        with pytest.raises(OutcomeUnknown):
            await peer.call("instances.list", None, None, list[InstanceReport], timeout_s=0.01)
        instances.release.set()
        assert await remote.list() == []


async def test_a_lost_connection_leaves_the_outcome_unknown_then_unavailable() -> None:
    async with connected(Instances()) as (remote, _, transport):
        asking = asyncio.create_task(remote.list())
        await asyncio.sleep(0)
        await transport.close("the link was cut")
        with pytest.raises(OutcomeUnknown, match="the link was cut"):
            await asking
        with pytest.raises(Unavailable):
            await remote.list()


frames = st.one_of(
    st.text(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ).map(json.dumps),
    st.fixed_dictionaries(
        {"id": st.integers()},
        optional={
            "call": st.sampled_from(["instances.inspect", "instances.reboot", "x"]),
            "value": st.one_of(st.none(), st.integers(), st.dictionaries(st.text(), st.text())),
            "ok": st.none(),
            "error": st.one_of(st.none(), st.dictionaries(st.sampled_from(["code", "message"]), st.text())),
        },
    ).map(json.dumps),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(frames, max_size=8))
def test_hostile_frames_end_the_connection_at_worst(hostile: list[str]) -> None:
    async def scenario() -> None:
        near, far = MemoryTransport.pair()
        handlers = {
            "instances.inspect": Handler(*_methods(InstancesAgent)["inspect"], Instances().inspect),
        }
        peer = Peer(far, handlers)
        running = asyncio.create_task(peer.run())
        for frame in hostile:
            with suppress(Unavailable):
                await near.send(frame)
        await near.close("done")
        assert await running  # it returned a reason; an exception would fail the test

    asyncio.run(scenario())


async def test_an_oversized_frame_ends_the_connection() -> None:
    near, far = MemoryTransport.pair()
    running = asyncio.create_task(Peer(far, {}).run())
    await near.send("x" * (FRAME_BYTES + 1))
    assert "frame of" in await running


def test_every_port_method_has_a_wire_form() -> None:
    for group, port in (*_GROUPS.items(), ("controller", Controller)):
        methods = _methods(port)
        assert methods, group
        for takes, gives in methods.values():
            to_json(gives, None) if gives is type(None) else None
            assert takes is None or hasattr(takes, "__dataclass_fields__")


def test_neighbouring_versions_understand_each_other() -> None:
    data: dict[str, Any] = {"instance": new_id(), "state": "running", "added_later": 1}
    assert from_json(InstanceReport, data).state is RunState.RUNNING


def test_a_start_survives_the_round_trip() -> None:
    instance, blanket = new_id(), new_id()
    request = StartInstance(
        spec=InstanceSpec(
            id=instance,
            name="web",
            cloud=new_id(),
            vcpus=1,
            memory_mib=256,
            cpu_model="qemu64",
            disks=(),
        ),
        right=RunRight(instance=instance, epoch=1, blanket=blanket, nonce="0" * 32, length_s=60, grace_s=30),
    )
    assert from_json(StartInstance, json.loads(json.dumps(to_json(StartInstance, request)))) == request
