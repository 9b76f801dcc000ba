"""Making, starting, stopping and removing a blanket, durably.

The join secret exists inside one step only: it goes from the key store into the machine's birth data and
into nothing that is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Failed, NotFound, Refused, SupercloudError, Unavailable
from supercloud.model.names import Id, Name, PublicKey
from supercloud.model.placement import Confidentiality
from supercloud.model.states import BLANKET_TRANSITIONS, BlanketState, InstanceState, move
from supercloud.ports.durable import Saga
from supercloud.ports.platform import Ability, BlanketMachine, MachineState, Platform
from supercloud.services import acts, inbox, mesh, nesting, orders, trust
from supercloud.services.declarations import declaration_of
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.providers import platform_of
from supercloud.services.store.tables import (
    LOCKED,
    Blanket,
    EventRow,
    Instance,
    Provider,
    Right,
    Trust,
    Volume,
    VolumeCopy,
)
from supercloud.services.store.time import wall

_WIREGUARD_PORT = 51820
_LOOK_EVERY_S = 5.0
_INVITATION_S = 3600.0
_REPORT_TRIES = 5


@dataclass(frozen=True, slots=True)
class BlanketOperations:
    """The works of `blanket.add`, `.start`, `.stop` and `.remove`.

    `settle` shows the instances whose rights were given up as what they are.
    """

    parts: Parts
    settle: Callable[[], Awaitable[None]]

    async def add(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        blanket: Id = intent["blanket"]
        try:
            await saga.progress("creating its machine", done=0.05)
            await saga.step("create", lambda: self._create(blanket), type(None))
            await self._up(saga, blanket)
        except SupercloudError as error:
            why = error.message
            await saga.progress("cleaning up")
            await saga.step("clean up", lambda: self._give_up(blanket, why), type(None))
            raise
        return {"blanket": blanket}

    async def start(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """
        Raises:
            NotFound: it has no machine any more.
            Unavailable: its agent did not join; its machine stays as it is.
        """
        blanket: Id = intent["blanket"]
        await saga.progress("starting its machine", done=0.05)
        await saga.step("start", lambda: self._start(blanket), type(None))
        await self._up(saga, blanket)
        return {"blanket": blanket}

    async def _up(self, saga: Saga, blanket: Id) -> None:
        await saga.progress("booting", done=0.2)
        await saga.step("join", lambda: self._joined(saga, blanket), type(None))
        await saga.progress("joining the mesh", done=0.9)
        await saga.step("mesh", lambda: self.parts.meshes.greet(blanket), type(None))
        await saga.progress("looking what it can do", done=0.95)
        await saga.step("report", lambda: self._reported(blanket), type(None))

    async def stop(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Its machine's end is the proof that none of its instances runs, as in `remove`."""
        blanket: Id = intent["blanket"]
        force: bool = intent["force"]
        await saga.progress("stopping its machine")
        await saga.step("stop", lambda: self._stop(blanket, force=force), type(None))
        await saga.step("give up rights", lambda: self._surrender_all(blanket), type(None))
        await saga.step("settle", self.settle, type(None))
        return {"blanket": blanket}

    async def remove(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        """Its machine's end is the proof that none of its instances runs, so their rights are given up; and
        that none runs in the blankets inside it, whether anybody could reach those or not.
        """
        blanket: Id = intent["blanket"]
        await saga.progress("ending its machine")
        await saga.step("destroy", lambda: self._destroy(blanket), type(None))
        await saga.progress("forgetting what was inside it")
        await saga.step("forget inside", lambda: self._forget_inside(blanket), type(None))
        await saga.step("forget", lambda: self._forget(blanket), type(None))
        return {"blanket": blanket}

    # ------------------------------------------------------------ steps

    async def _create(self, blanket: Id) -> None:
        row, platform = await self._find(blanket)
        birth = await self._birth(row, platform)
        machine = await platform.create(
            BlanketMachine(
                id=row.id,
                name=_machine_name(row),
                image=self.parts.settings.blanket_image(),
                vcpus=row.wanted["vcpus"],
                memory_mib=row.wanted["memory_mib"],
                disk_bytes=row.wanted["disk_bytes"],
                birth=birth,
                tenant=await self._tenant(row),
            )
        )
        async with self.parts.store.write() as session:
            stored = await session.get_one(Blanket, blanket, with_for_update=LOCKED)
            stored.endpoint, stored.inner_endpoints = machine.wireguard, list(machine.inner)
            if stored.state in {BlanketState.CREATED, BlanketState.FAILED}:
                stored.state = BlanketState.BOOTING
            await mesh.changed(session, stored.cloud)

    async def _start(self, blanket: Id) -> None:
        row, platform = await self._find(blanket)
        try:
            machine = await platform.start(blanket)
        except NotFound as error:
            raise NotFound(
                f"blanket {row.name} has no machine on its platform any more, and its volumes went with it",
                hint=f"supercloud blanket rm {row.name} --force, and add a new one",
            ) from error
        async with self.parts.store.write() as session:
            stored = await session.get_one(Blanket, blanket, with_for_update=LOCKED)
            # Those inside it take theirs from these as they are started again themselves.
            stored.inner_endpoints = list(machine.inner)
            if stored.state == BlanketState.STOPPED:
                stored.state, stored.reason = BlanketState.UNREACHABLE, "its machine was started, and boots"
            if stored.endpoint != machine.wireguard:
                stored.endpoint = machine.wireguard
                await mesh.changed(session, stored.cloud)

    async def _stop(self, blanket: Id, *, force: bool) -> None:
        _, platform = await self._find(blanket)
        await platform.stop(blanket, force=force)
        await self.parts.agents.drop(blanket, "its machine was stopped")
        async with self.parts.store.write() as session:
            row = await session.get_one(Blanket, blanket, with_for_update=LOCKED)
            if BlanketState.STOPPED in BLANKET_TRANSITIONS[BlanketState(row.state)]:
                row.state, row.reason = BlanketState.STOPPED, ""

    async def _birth(self, row: Blanket, platform: Platform) -> bytes:
        try:
            token = await self.parts.keys.invite(cloud=row.cloud, blanket=row.id, lifetime_s=_INVITATION_S)
        except Conflict:
            return b""  # it joined before this step ran again: its machine exists and needs no birth
        said = {
            "blanket": token.blanket,
            "cloud": token.cloud,
            "name": _machine_name(row),
            "endpoint": platform.blanket_endpoint(self.parts.settings.agents_port),
            "authority_pem": token.authority_pem,
            "secret": token.secret,
            "wireguard_port": _WIREGUARD_PORT,
            "debug_shell": row.wanted.get("debug_shell", False),
        }
        return json.dumps(said).encode()

    async def _tenant(self, row: Blanket) -> PublicKey | None:
        """Whose consent acts on its memory need, where its platform enforces that: its launch is measured
        with the public half, and the other one stays in the key store."""
        async with self.parts.store.read() as session:
            declared = declaration_of(row, await session.get_one(Provider, row.provider))
        enforces = declared.confidentiality is Confidentiality.ENFORCED
        if not enforces or Ability.CONSENT not in declared.abilities:
            return None
        return await self.parts.keys.consent_key(cloud=row.cloud)

    async def _joined(self, saga: Saga, blanket: Id) -> None:
        _, platform = await self._find(blanket)
        waited_s = 0.0
        while waited_s < self.parts.settings.join_s:
            try:
                await self.parts.agents.wait_for(blanket, _LOOK_EVERY_S)
            except Unavailable:
                waited_s += _LOOK_EVERY_S
            else:
                return
            machine = await platform.inspect(blanket)
            if machine.state not in {MachineState.RUNNING, MachineState.FROZEN}:
                raise Failed(f"its machine ended while booting: {machine.reason or machine.state}")
            if await self.parts.operations.cancel_asked(saga.operation):
                raise Refused("cancelled")
        raise Unavailable(
            f"its agent did not join in {self.parts.settings.join_s:.0f} s",
            hint="supercloud blanket console shows what it does",
        )

    async def _reported(self, blanket: Id) -> None:
        """Only what is known to work can be used; its hypervisor's first look at itself takes a while, and
        inside another blanket longer than an answer is waited for."""
        agent = await self.parts.agents.wait_for(blanket, self.parts.settings.join_s)
        for tries_left in reversed(range(_REPORT_TRIES)):
            try:
                report = await agent.report()
            except Unavailable:
                if not tries_left:
                    raise
            else:
                await inbox.ready(self.parts.store, blanket, report)
                return

    async def _give_up(self, blanket: Id, why: str) -> None:
        _, platform = await self._find(blanket)
        await platform.destroy(blanket)
        await self.parts.keys.revoke(blanket=blanket)
        await self.parts.agents.drop(blanket, why)
        async with self.parts.store.write() as session:
            row = await session.get_one(Blanket, blanket, with_for_update=LOCKED)
            row.state = move(BLANKET_TRANSITIONS, BlanketState(row.state), BlanketState.FAILED)
            row.revoked, row.reason = True, why

    async def _destroy(self, blanket: Id) -> None:
        try:
            _, platform = await self._find(blanket)
        except NotFound:
            return  # this step ran before
        await platform.destroy(blanket)
        await self._shut_out(blanket)

    async def _shut_out(self, blanket: Id) -> None:
        await self.parts.keys.revoke(blanket=blanket)
        await self.parts.agents.drop(blanket, "the blanket was removed")

    async def _forget_inside(self, blanket: Id) -> None:
        async with self.parts.store.read() as session:
            inside = [row.id for row in await nesting.inside_of(session, blanket)]
        for one in inside:
            await self._shut_out(one)
            await self._forget(one)

    async def _forget(self, blanket: Id) -> None:
        async with self.parts.store.read() as session:
            row = await session.get(Blanket, blanket)
        if row is None:
            return
        await self._surrender(blanket)
        async with self.parts.store.write() as session:
            for instance, at in await _kept_elsewhere(session, blanket):
                await session.execute(
                    update(Instance)
                    .where(Instance.id == instance)
                    .values(
                        blanket=at,
                        state=InstanceState.STOPPED,
                        reason=f"memory lost: it had moved to blanket {row.name}, which was removed",
                    )
                )
            await session.execute(
                update(Instance)
                .where(Instance.blanket == blanket)
                .values(
                    blanket=None,
                    state=InstanceState.FAILED,
                    reason=f"blanket {row.name} was removed, and its volumes with it",
                )
            )
            await _lose_volumes(session, row)
            await session.execute(delete(EventRow).where(EventRow.blanket == blanket))
            now = await wall(session)
            await orders.machine_gone(session, blanket, now)
            await acts.machine_gone(session, blanket, now)
            await trust.forget(session, self.parts.keys, Trust.blanket == blanket)
            await session.execute(delete(Blanket).where(Blanket.id == blanket))
            await mesh.changed(session, row.cloud)
        await self.parts.meshes.spread(row.cloud)

    async def _surrender_all(self, blanket: Id) -> None:
        async with self.parts.store.read() as session:
            inside = [row.id for row in await nesting.inside_of(session, blanket)]
        for one in (*inside, blanket):
            await self._surrender(one)

    async def _surrender(self, blanket: Id) -> None:
        """Of a blanket whose machine has ended."""
        async with self.parts.store.read() as session:
            held = list(await session.scalars(select(Right).where(Right.holder == blanket)))
        for right in held:
            await self.parts.rights.surrender(right.instance, by=blanket, epoch=right.epoch)

    async def _find(self, blanket: Id) -> tuple[Blanket, Platform]:
        async with self.parts.store.read() as session:
            row = await session.get(Blanket, blanket)
        if row is None:
            raise NotFound(f"there is no blanket {blanket}")
        return row, await platform_of(self.parts, row)


async def _lose_volumes(session: AsyncSession, blanket: Blanket) -> None:
    """Those whose data were there. An empty one would be made in its place if nothing said so."""
    there = select(VolumeCopy.volume).where(
        VolumeCopy.blanket == blanket.id, VolumeCopy.current, VolumeCopy.made
    )
    why = f"its data were in blanket {blanket.name}, which was removed"
    await session.execute(update(Volume).where(Volume.id.in_(there)).values(lost=why, snapshots=[]))
    await session.execute(delete(VolumeCopy).where(VolumeCopy.blanket == blanket.id))


async def _kept_elsewhere(session: AsyncSession, blanket: Id) -> list[tuple[Id, Id]]:
    """Instances of a blanket whose volumes did not follow them there: a migration's source keeps them until
    the target runs. Each with the blanket that has them."""
    rows = await session.execute(
        select(Instance.id, VolumeCopy.blanket)
        .join(Volume, Volume.instance == Instance.id)
        .join(VolumeCopy, (VolumeCopy.volume == Volume.id) & VolumeCopy.current)
        .where(Instance.blanket == blanket, Volume.position == 0, VolumeCopy.blanket != blanket)
    )
    return [(instance, at) for instance, at in rows]


def _machine_name(row: Blanket) -> Name:
    """What its owner calls it is not the provider's to know."""
    return f"blanket-{row.id[:8]}"
