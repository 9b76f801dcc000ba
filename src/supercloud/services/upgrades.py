"""Agents' upgrades: a blanket's programs go on with this control plane's own code, its instances run on.

The code is one read-only image, the bundle, which a blanket fetches by its digest like a base image.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supercloud.model.errors import Conflict, Failed, NotFound, SupercloudError
from supercloud.model.names import Digest, Id
from supercloud.ports.agent import Bundle, UpgradeAgent
from supercloud.ports.durable import Saga
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.refs import find_blanket
from supercloud.services.requests import Ref
from supercloud.services.views import OperationView

_LOOK_EVERY_S = 2.0
#: An agent that is not welcomed gives way to the former one before this.
_BACK_S = 120.0


class OwnBundle:
    """The bundle of this control plane's code, made and read when it is first asked for."""

    def __init__(self, find: Callable[[], Path]) -> None:
        self._find = find
        self._path: Path | None = None
        self._bundle: Bundle | None = None
        self._turn = asyncio.Lock()

    async def current(self) -> Bundle:
        async with self._turn:
            if self._bundle is None:
                self._path = await asyncio.to_thread(self._find)
                self._bundle = await asyncio.to_thread(_bundle_in, self._path)
            return self._bundle

    async def path(self, digest: Digest) -> Path | None:
        """Its file, if `digest` is its."""
        return self._path if (await self.current()).digest == digest else None


def _bundle_in(path: Path) -> Bundle:
    with path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    return Bundle(digest=digest, size_bytes=path.stat().st_size)


class Upgrades:
    """The part of Northbound about agents' code."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def upgrade_blanket(self, ref: Ref, *, cloud: Ref | None = None) -> OperationView:
        """
        Raises:
            Conflict: its agent is not connected.
            NotFound: this control plane has no code to give.
        """
        if self._parts.settings.bundle is None:
            raise NotFound("this control plane has no bundle for agents")
        operations = self._parts.operations
        async with self._parts.store.write() as session:
            row = await find_blanket(session, ref, cloud)
            if not self._parts.agents.may_answer(row):
                raise Conflict(
                    f"blanket {row.name} is {row.state}, not connected",
                    hint=f"supercloud blanket show {row.name} says why",
                )
            operation = await operations.record(
                session,
                "blanket.upgrade",
                object_id=row.id,
                name=row.name,
                cloud=row.cloud,
                intent={"blanket": row.id},
            )
        return await operations.started(operation)


@dataclass(frozen=True, slots=True)
class UpgradeOperations:
    """The work of `blanket.upgrade`."""

    parts: Parts

    async def upgrade(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """
        Returns:
            {"blanket", "digest"}: what it runs now.

        Raises:
            Failed: the new code does not start there, and the former one runs on.
        """
        blanket: Id = intent["blanket"]
        bundle = await saga.step("choose", self._choose, Bundle)
        await saga.progress("fetching", done=0.1)
        await saga.step("place", lambda: self._agent(blanket).place(bundle), type(None))
        await saga.progress("restarting keeper and agent", done=0.6)
        await saga.step("switch", lambda: self._agent(blanket).switch(bundle), type(None))
        await saga.step("back", lambda: self._back(blanket, bundle.digest), type(None))
        return {"blanket": blanket, "digest": bundle.digest}

    async def _choose(self) -> Bundle:
        if self.parts.settings.bundle is None:
            raise NotFound("this control plane has no bundle for agents")
        return await self.parts.settings.bundle.current()

    def _agent(self, blanket: Id) -> UpgradeAgent:
        return self.parts.agents.agent(blanket).upgrade

    async def _back(self, blanket: Id, digest: Digest) -> None:
        try:
            async with asyncio.timeout(_BACK_S):
                while await self._running(blanket) != digest:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError as error:
            raise Failed(
                "its agent does not run the new code", hint="supercloud blanket console shows why"
            ) from error

    async def _running(self, blanket: Id) -> Digest | None:
        try:
            return (await self.parts.agents.agent(blanket).report()).bundle
        except SupercloudError:
            return None  # it is restarting
