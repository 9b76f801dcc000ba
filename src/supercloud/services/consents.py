"""Privileged acts that a user grants, and what comes of them.

Where the machine's platform enforces consents, the user's key store signs one (trust.consent) over a
challenge of the monitor below the platform. We keep it until its provider does the act: the driver presents
it, and hands back pages that only that key store opens. What the monitor refuses is a finding of layer L0,
whoever tried. Elsewhere a grant is a word, and is shown as one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.acts import OF_MEMORY, ActKind, ActState
from supercloud.model.errors import Conflict, InvalidInput, NotFound, Refused, SupercloudError
from supercloud.model.findings import Finding, Layer, Object, ObjectKind, Severity, Source
from supercloud.model.names import Id, new_id
from supercloud.ports.platform import ConsentPlatform, SealedExport
from supercloud.services.acts import Acts, Askings, asked_row, asked_view, end, shown
from supercloud.services.findings import Said, drop_oldest, record
from supercloud.services.parts import Parts
from supercloud.services.providers import platform_of
from supercloud.services.security_views import (
    ActView,
    AskChallenge,
    AskedActView,
    ChallengeView,
    ExportView,
    GrantAct,
    SealedPageView,
)
from supercloud.services.store.security import ActExport, ActRow, FindingRow
from supercloud.services.store.tables import LOCKED, Blanket, Provider
from supercloud.services.store.time import wall
from supercloud.trust.consent import hash_of, read
from supercloud.trust.keys import from_text, named_public, to_text
from supercloud.wire.codec import from_json, to_json

_CONSENT_BYTES = 248
#: Who wants to know it again within so long is told nothing new: a finding for each act and time.
_TOLD_S = 60
PROCEDURAL = (
    "this is procedural only: whoever administers that platform reads the machine without asking, and an "
    "answer binds our own interfaces only"
)
_log = structlog.get_logger(__name__)


class Consents(Acts):
    """The part of Northbound about privileged acts."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._parts = parts

    async def challenge_act(self, act: Id, request: AskChallenge) -> ChallengeView:
        """What a consent to this act has to answer. None issued for its machine before is good any more, so
        it is not asked for while a consent to another act on it waits to be used.

        Raises:
            Refused: nobody below the platform enforces it.
            Conflict: it is not asked any more, or another consent waits.
        """
        async with self._parts.store.read() as session:
            await shown(session, act)
            row = await session.get_one(ActRow, act)
            _require_enforced(row)
            if row.state != ActState.ASKED:
                raise Conflict(f"the act is {row.state}")
            await _require_alone(session, row)
        platform = await _monitored(self._parts, row.machine)
        issued = await platform.challenge(row.machine, bytes.fromhex(request.nonce))
        return ChallengeView(
            partition=issued.partition,
            launch=issued.launch,
            challenge=to_text(issued.challenge),
            clock_khz=issued.clock_khz,
            nonce=request.nonce,
            attestation=to_text(issued.attestation),
        )

    async def grant_act(self, act: Id, request: GrantAct) -> ActView:
        """The same again is harmless.

        Raises:
            InvalidInput: what came is no consent to this act; the monitor looks again as it is done.
            Conflict: it is not asked any more, or another consent waits.
        """
        async with self._parts.store.read() as session:
            cloud = (await shown(session, act)).cloud_id
        key = await self._parts.keys.consent_key(cloud=cloud)
        async with self._parts.store.write() as session:
            row = await _locked(session, act)
            if row.state == ActState.GRANTED and row.consent != request.consent:
                raise Conflict("the act is granted, by another consent")
            row = await end(session, act, ActState.GRANTED)
            if row.enforced:
                await _require_alone(session, row)
                row.epoch = _checked(row, request.consent, key)
                row.consent = request.consent
            elif request.consent is not None:
                raise InvalidInput(f"nobody takes a consent to this: {PROCEDURAL}")
            await session.flush()
            return await shown(session, act)

    async def refuse_act(self, act: Id) -> ActView:
        """Also one that was granted, while nobody knows what came of it. A challenge that takes the place of
        the consent's makes that void below as well; where the platform does not answer, its time does.

        Raises:
            Conflict: it has ended in another way.
        """
        async with self._parts.store.read() as session:
            await shown(session, act)
            row = await session.get_one(ActRow, act)
            consented = row.consent is not None
        refused = await super().refuse_act(act)
        if consented:
            with suppress(SupercloudError):
                platform = await _monitored(self._parts, row.machine)
                await platform.challenge(row.machine, secrets.token_bytes(32))
        return refused

    async def act_export(self, act: Id) -> ExportView:
        """
        Raises:
            NotFound: nothing came of it.
        """
        async with self._parts.store.read() as session:
            await shown(session, act)
            return await _export(session, act)


class Performing(Askings):
    """The part of Southbound about privileged acts."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._parts = parts

    async def perform_act(self, act: Id) -> AskedActView:
        """Do it: with the user's consent, once. Without one the monitor is asked all the same, refuses, and
        the user is told.

        Raises:
            Refused: the monitor's answer; or nobody enforces it, and we do nothing.
            Conflict: it is not the time, or it has ended.
        """
        async with self._parts.store.write() as session:
            _, domain = await asked_row(session, act)
            row = await _locked(session, act)
            _require_enforced(row)
            if row.state == ActState.TAKEN:
                raise Conflict("it is being done")
            now = await wall(session)
            if not row.not_before <= now < row.deadline:
                raise Conflict("it is not the time for it")
            consent = row.consent
            if row.state != ActState.ASKED:
                row = await end(session, act, ActState.TAKEN)
        try:
            export = await self._done(row, consent)
        except SupercloudError as error:
            await self._failed(row, error)
            raise
        async with self._parts.store.write() as session:
            row = await end(session, act, ActState.DONE)
            session.add(_kept(act, row.page or 0, export))
            await session.flush()
            return asked_view(row, domain)

    async def asked_export(self, act: Id) -> ExportView:
        """
        Raises:
            NotFound: nothing came of it.
        """
        async with self._parts.store.read() as session:
            await asked_row(session, act)
            return await _export(session, act)

    async def _done(self, row: ActRow, consent: str | None) -> SealedExport:
        platform = await _monitored(self._parts, row.machine)
        return await platform.export(
            row.machine,
            OF_MEMORY[ActKind(row.operation)],
            page=row.page or 0,
            pages=row.pages or 0,  # what is enforced has some
            consent=bytes(_CONSENT_BYTES) if consent is None else from_text(consent),
        )

    async def _failed(self, row: ActRow, error: SupercloudError) -> None:
        """Once it was presented a consent is used up, whatever came of it."""
        async with self._parts.store.write() as session:
            if row.state == ActState.TAKEN:
                ended = await _locked(session, row.id)
                if ended.state == ActState.TAKEN:
                    ended.state, ended.ended_at = ActState.FAILED, await wall(session)
                    ended.reason, ended.consent = error.message, None
            if isinstance(error, Refused):
                await _tell(session, row, error.message)


# ---------------------------------------------------------------- inside


def _require_enforced(row: ActRow) -> None:
    """
    Raises:
        Refused.
    """
    if not row.enforced:
        raise Refused(PROCEDURAL)


async def _locked(session: AsyncSession, act: Id) -> ActRow:
    return await session.get_one(ActRow, act, with_for_update=True, populate_existing=True)


async def _require_alone(session: AsyncSession, row: ActRow) -> None:
    """A machine has one challenge at a time, and so one consent that can be used.

    Raises:
        Conflict.
    """
    waiting = (ActState.GRANTED.value, ActState.TAKEN.value)
    other = await session.scalar(
        select(ActRow.id)
        .where(ActRow.machine == row.machine, ActRow.id != row.id, ActRow.enforced)
        .where(ActRow.state.in_(waiting))
        .limit(1)
    )
    if other is not None:
        raise Conflict(
            f"act {other} on this machine is granted and not done yet",
            hint="wait until its provider has done it, or take that back: supercloud act refuse",
        )


async def _monitored(parts: Parts, machine: Id) -> ConsentPlatform:
    """
    Raises:
        NotFound: the machine is gone.
        Refused: its driver does not do this any more.
    """
    async with parts.store.read() as session:
        blanket = await session.get(Blanket, machine)
    if blanket is None:
        raise NotFound(f"there is no machine {machine} any more")
    platform = await platform_of(parts, blanket)
    if not isinstance(platform, ConsentPlatform):
        raise Refused(PROCEDURAL)
    return platform


def _checked(row: ActRow, consent: str | None, key: str) -> int:
    """The launch that it is for.

    Raises:
        InvalidInput: there is none, or it is to something else.
    """
    if consent is None:
        raise InvalidInput(
            "this act needs a consent that the owner's key store signs", hint="supercloud act grant"
        )
    said = read(from_text(consent), named_public(key))
    wanted = (OF_MEMORY[ActKind(row.operation)], row.page, row.pages)
    agreed = (said.operation, said.page, said.pages)
    asker = (said.requester, said.purpose)
    if agreed != wanted or asker != (hash_of(row.domain), hash_of(row.purpose)):
        raise InvalidInput("the consent is to another act than this one")
    if said.launch >= 1 << 63:
        raise InvalidInput("no machine was launched so often")
    return said.launch


async def _tell(session: AsyncSession, row: ActRow, why: str) -> None:
    """That the monitor refused: a finding of layer L0 about the machine, for its user."""
    await session.get_one(Provider, row.domain, with_for_update=LOCKED, populate_existing=True)
    now = await wall(session)
    uid = f"{row.id}:{int(now) // _TOLD_S}"
    known = select(FindingRow.id).where(
        FindingRow.domain == row.domain, FindingRow.source == Source.MONITOR.value, FindingRow.uid == uid
    )
    if await session.scalar(known) is not None:
        return
    found = Finding(
        id=new_id(),
        layer=Layer.L0,
        domain=row.domain,
        cloud=row.cloud,
        object=Object(kind=ObjectKind.MACHINE, id=row.machine),
        severity=Severity.HIGH,
        title=f"{row.operation} of a machine's memory was refused: no consent to it",
        rule="act without consent",
        at=now,
        received_at=now,
        evidence=({"act": row.id, "page": row.page, "pages": row.pages, "refused": why},),
    )
    await record(session, found, Said(source=Source.MONITOR, uid=uid, event=_event(found, uid)))
    await drop_oldest(session, row.domain, Source.MONITOR)
    _log.warning("acts.refused_below", act=row.id, machine=row.machine, why=why)


def _event(found: Finding, uid: str) -> Mapping[str, Any]:
    """In OCSF, as detectors' are."""
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "severity_id": found.severity.rank,
        "time": int(found.at * 1000),
        "metadata": {
            "uid": uid,
            "version": "1.3.0",
            "product": {"name": "reference monitor", "vendor_name": "supercloud"},
        },
        "finding_info": {
            "uid": found.id,
            "title": found.title,
            "analytic": {"name": found.rule, "type_id": 1},
        },
        "resources": [{"uid": found.object.id, "type": "Virtual Machine"}],
        "evidences": [dict(one) for one in found.evidence],
    }


def _kept(act: Id, first: int, export: SealedExport) -> ActExport:
    view = ExportView(
        act=act,
        header=to_text(export.header),
        pages=tuple(
            SealedPageView(page=first + at, version=one.version, sealed=to_text(one.sealed))
            for at, one in enumerate(export.pages)
        ),
    )
    return ActExport(act=act, export=to_json(ExportView, view))


async def _export(session: AsyncSession, act: Id) -> ExportView:
    found = await session.get(ActExport, act)
    if found is None:
        raise NotFound(f"nothing has come of act {act}", hint="supercloud act show says what became of it")
    return from_json(ExportView, found.export)
