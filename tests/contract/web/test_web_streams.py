"""Consoles in the page, and what pages are told of."""

from __future__ import annotations

import asyncio

import pytest
from api_rig import Served
from control_rig import World
from test_authorization import _assembled
from web_rig import Browser, Clock, event, signed_in
from websockets.exceptions import ConnectionClosed, InvalidStatus

from supercloud.services.sessions import IDLE_S

pytestmark = pytest.mark.contract


async def test_a_console_is_for_a_page_of_ours_with_a_session(cloud: Served) -> None:
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}/console"
    async with signed_in(cloud) as one:
        async with one.socket(path) as stream:
            await stream.send(b"typed")
            async with asyncio.timeout(20):
                assert await stream.recv() == b"typed", "every port of a double is an echo"
        for origin in ("https://evil.example", "null", "", one.origin.replace("https", "http")):
            assert await _refused(one, path, origin=origin) == 403, origin
        for session in ("", "guessed", f"{one.session}x"):
            assert await _refused(one, path, origin=one.origin, session=session) == 403, session
        old = one.session
        await one.post("/web/sign-out")
        assert await _refused(one, path, origin=one.origin, session=old) == 403


async def _refused(one: Browser, path: str, *, origin: str, session: str | None = None) -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with one.socket(path, origin=origin, session=session):
            pass
    return refused.value.response.status_code


async def test_a_console_ends_with_its_session(cloud: Served) -> None:
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}/console"
    async with signed_in(cloud) as one, one.socket(path) as stream:
        await stream.send(b"x")
        await stream.recv()
        await one.post("/web/sign-out")
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionClosed):
                while True:
                    await stream.recv()


async def test_a_console_that_was_left_before_it_was_there_is_closed(cloud: Served) -> None:
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}/console"
    (double,) = cloud.bench.site.machines.values()

    async def ask(one: Browser) -> None:
        async with one.socket(path):
            pass

    async with signed_in(cloud) as one:
        asking = asyncio.create_task(ask(one))

        async def leave(_: str) -> None:
            asking.cancel()
            await asyncio.wait({asking})

        double.before_stream = leave
        await asyncio.wait({asking})
        async with asyncio.timeout(20):
            while not hasattr(double, "echoes"):  # noqa: ASYNC110 - that it dials has no event
                await asyncio.sleep(0.02)
            await double.echoes


async def test_typing_keeps_a_session_alive(cloud: Served, clock: Clock) -> None:
    path = f"/web/instances/{(await cloud.bench.control.instance('web')).id}/console"
    async with signed_in(cloud) as one, one.socket(path) as stream:
        for _ in range(3):
            clock.now += IDLE_S - 1
            await stream.send(b"x")
            await stream.recv()
        assert (await one.get("/web/")).status_code == 200


async def test_pages_are_told_that_something_changed_and_no_more(api: Served, world: World) -> None:
    cast = await _assembled(api, world)
    path = "/web/events?kind=cloud"
    async with (
        signed_in(api, cast.signing["alice"]) as alice,
        signed_in(api, cast.signing["bob"]) as bob,
        alice.http.stream("GET", path) as hers,
        bob.http.stream("GET", path) as his,
        asyncio.timeout(60),
    ):
        told, untold = hers.aiter_lines(), his.aiter_lines()
        assert await event(told) == await event(untold) == "ready"
        assert (await cast.clients["alice"].post("/clouds", json={"name": "new"})).status_code == 201
        assert await event(told) == "change"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await event(untold)
        await alice.post("/web/sign-out")
        assert await event(told) == "end"
