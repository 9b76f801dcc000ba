"""A whole control plane in a process of its own, which ends as by `kill -9` at each step of what it is asked.

Its machines, its platform and its key store are the parent's: they go on while it is gone. It is forked from
a server that has everything imported, so that dying a hundred times takes no longer than a test may.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from dbos import Queue
from sqlalchemy import select

from supercloud.controlplane.compose import control_plane
from supercloud.controlplane.listener import AgentListener
from supercloud.keystore.client import RemoteKeyStore, RemoteOwner, _Connection
from supercloud.model.states import BlanketState
from supercloud.ports.platform import Platform
from supercloud.services import durable
from supercloud.services.facade import ControlPlane
from supercloud.services.parts import Parts, Settings
from supercloud.services.store.engine import normal_url
from supercloud.services.store.tables import VolumeCopy
from supercloud.services.upgrades import OwnBundle
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import Credentials, server_context

#: A method of ControlPlane, and what it is given.
Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Orders:
    database: str
    folder: Path  # sockets of the key store and of the platform, images
    port: int  # that machines dial
    answer: Path  # what it sees in the end, or the moment at which it dies
    requests: tuple[Request, ...]  # to make in this order; what is open is carried on anyway
    survived: frozenset[str] | None  # moments, or sides of all, of steps that do not kill it; None: none does


class FarPlatform:
    """ports.platform.Platform, in the parent."""

    def __init__(self, socket: Path) -> None:
        self._to = _Connection(socket, Platform, "platform")

    def blanket_endpoint(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def ask(machine: object = None, **named: object) -> Any:
            return await self._to.ask(name, **({} if machine is None else {"machine": machine}), **named)

        return ask


def run(orders: Orders) -> None:
    Queue.__init__.__kwdefaults__["polling_interval_sec"] = 0.05  # what is carried on waits in a queue
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("dbos").setLevel(logging.ERROR)
    if orders.survived is not None:
        _die_at_the_next_moment(orders, orders.survived)
    asyncio.run(_run(orders))


def _die_at_the_next_moment(orders: Orders, survived: frozenset[str]) -> None:
    """Before a step, and after what it did but before that is remembered: the two sides of every boundary."""
    remembered = durable._DbosSaga.step

    def reached(side: str, name: str) -> None:
        moment = f"{side} {name}"
        if not survived & {side, moment}:
            orders.answer.write_text(moment)
            os.kill(os.getpid(), signal.SIGKILL)

    async def step(self: Any, name: str, work: Callable[[], Awaitable[Any]], kind: Any) -> Any:
        async def deadly() -> Any:
            reached("before", name)
            try:
                return await work()
            finally:
                reached("after", name)

        return await remembered(self, name, deadly, kind)

    durable._DbosSaga.step = step  # type: ignore[method-assign]


async def _run(orders: Orders) -> None:
    identity, owner = IdentityKey.new(), RemoteOwner(orders.folder / "keys")
    issued = await owner.issue_controller(csr_pem=identity.csr())
    credentials = Credentials(issued.certificate_pem, identity.to_pem())
    platform = FarPlatform(orders.folder / "platform")
    settings = Settings(
        images=orders.folder / "images",
        agents_port=orders.port,
        blanket_image=lambda: "sha256:" + "0" * 64,
        database=normal_url(orders.database).get_backend_name(),
        bundle=OwnBundle(lambda: orders.folder / "bundle"),
        join_s=30,
    )
    async with control_plane(
        database=orders.database,
        settings=settings,
        keys=RemoteKeyStore(orders.folder / "keys"),
        drivers=lambda *_: platform,  # type: ignore[arg-type,return-value]
    ) as (control, parts, _, takeover):
        listener = AgentListener(parts)
        context = server_context(credentials, issued.authority_pem, joining=True)
        await listener.start("127.0.0.1", orders.port, context)
        await takeover.sweep()
        await control.start()
        watching = asyncio.create_task(takeover.run())
        for name, given in orders.requests:
            if name != "start_blanket":
                await _everybody_is_there(control)
            if isinstance(given.get("content"), bytes):
                given["content"] = _whole(given["content"])
            await getattr(control, name)(**given)
            await _ended(control)
        await _ended(control)
        orders.answer.write_text(json.dumps(await _seen(control, parts)))
        watching.cancel()
        await listener.close()


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _everybody_is_there(control: ControlPlane) -> None:
    while any(  # noqa: ASYNC110 - what users see has no event
        one.state is not BlanketState.READY or not one.connected for one in await control.blankets()
    ):
        await asyncio.sleep(0.02)


async def _ended(control: ControlPlane) -> None:
    while left := await control.operations(open_only=True):
        await control.operation(left[0].id, wait_s=10)


async def _seen(control: ControlPlane, parts: Parts) -> dict[str, Any]:
    async with parts.store.read() as session:
        copies = list(await session.scalars(select(VolumeCopy)))
    return {
        "operations": [dataclasses.asdict(one) for one in await control.operations()],
        "blankets": {one.name: dataclasses.asdict(one) for one in await control.blankets()},
        "instances": {one.name: dataclasses.asdict(one) for one in await control.instances()},
        "volumes": {one.name: dataclasses.asdict(one) for one in await control.volumes()},
        "images": {one.name: dataclasses.asdict(one) for one in await control.images()},
        "copies": [[one.volume, one.blanket, one.current] for one in copies],
    }
