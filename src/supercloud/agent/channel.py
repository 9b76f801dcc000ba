"""The one connection to the control plane: dialled, kept, dialled again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from supercloud.model.errors import Denied, SupercloudError, Unavailable
from supercloud.ports.controller import (
    Acknowledged,
    CertificateAnswer,
    CertificateRequest,
    Controller,
    Events,
    Hello,
    RenewRights,
    RightsRenewed,
    Surrender,
    Welcome,
)
from supercloud.wire.proxies import remote_controller
from supercloud.wire.rpc import Handler, Peer, Transport

_FIRST_S = 0.2
_LONGEST_S = 5.0  # far below a right's length: a control plane that comes back pauses nobody
_log = structlog.get_logger(__name__)


class Channel:
    """ports.controller.Controller for the rest of the agent; Unavailable while there is no connection."""

    def __init__(
        self,
        *,
        dial: Callable[[], Awaitable[Transport]],
        handlers: Callable[[], Mapping[str, Handler]],
        greet: Callable[[], Awaitable[Hello]],
    ) -> None:
        self._dial = dial
        self._handlers = handlers
        self._greet = greet
        self._controller: Controller | None = None
        self._connected = asyncio.Event()

    async def connected(self) -> None:
        """Wait until the control plane has welcomed us (again)."""
        await self._connected.wait()

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                await self._once()
                failures = 0
            except SupercloudError as error:
                failures += 1
                level = _log.error if isinstance(error, Denied) else _log.info
                level("agent.not_connected", reason=error.message, failures=failures)
            longest_s = min(_LONGEST_S, _FIRST_S * 2 ** min(failures, 10))
            # Full jitter: a thousand agents do not come back in step.
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - not for secrecy

    async def _once(self) -> None:
        """One connection, from dialling to its end."""
        transport = await self._dial()
        peer = Peer(transport, self._handlers())
        running = asyncio.create_task(peer.run())
        try:
            controller = remote_controller(peer)
            await controller.hello(await self._greet())
            self._controller = controller
            self._connected.set()
            _log.info("agent.connected")
            _log.info("agent.disconnected", reason=await asyncio.shield(running))
        finally:
            self._connected.clear()
            self._controller = None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _now(self) -> Controller:
        if self._controller is None:
            raise Unavailable("the control plane is not connected")
        return self._controller

    async def hello(self, request: Hello) -> Welcome:
        return await self._now().hello(request)

    async def renew(self, request: RenewRights) -> RightsRenewed:
        return await self._now().renew(request)

    async def surrender(self, request: Surrender) -> None:
        await self._now().surrender(request)

    async def report(self, request: Events) -> Acknowledged:
        return await self._now().report(request)

    async def renew_certificate(self, request: CertificateRequest) -> CertificateAnswer:
        return await self._now().renew_certificate(request)
