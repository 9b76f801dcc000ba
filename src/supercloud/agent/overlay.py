"""The mesh as this blanket accepts it: peers vouch for their own keys; an older word of theirs is void.

Of another cloud's blanket it accepts the same word, under a certificate that names the cloud that it is said
to be of. So nobody of the own cloud comes in by that way, and nobody else's by the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from supercloud.agent.identity import Passport
from supercloud.agent.journal import Journal
from supercloud.agent.migration import MESH_ADDRESS
from supercloud.model.errors import Denied
from supercloud.model.names import Id
from supercloud.ports.hypervisor import Overlay
from supercloud.ports.overlay import ForeignPeer, Location, Mesh, MeshReport, Peer
from supercloud.trust.announce import announce, verify_peer
from supercloud.trust.certificates import Anchors

_GENERATIONS = "peer-generations"
_ANNOUNCED = "announced"
_log = structlog.get_logger(__name__)
_P = TypeVar("_P", Peer, ForeignPeer)


class AgentOverlay:
    """ports.agent.OverlayAgent over the overlay driver."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        passport: Passport,
        journal: Journal,
        blanket: Id,
        cloud: Id,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._overlay = overlay
        self._passport = passport
        self._journal = journal
        self._blanket = blanket
        self._cloud = cloud
        self._now = now

    async def apply(self, request: Mesh) -> MeshReport:
        """See the port. A peer that does not verify is left out, so that it costs the others nothing."""
        seen: dict[Id, int] = dict(await self._journal.read(_GENERATIONS) or {})
        before = dict(seen)
        peers = await self._accepted(request.peers, seen)
        abroad = replace(request.abroad, peers=await self._accepted(request.abroad.peers, seen))
        if seen != before:
            await self._journal.write(_GENERATIONS, seen)
        if await self._journal.read(MESH_ADDRESS) != request.address:
            await self._journal.write(MESH_ADDRESS, request.address)
        report = await self._overlay.apply(replace(request, peers=peers, abroad=abroad))
        return await self._vouched(report, announced=request.announced)

    async def _accepted(self, peers: tuple[_P, ...], seen: dict[Id, int]) -> tuple[_P, ...]:
        anchors = Anchors(self._passport.authority_pem)
        found = []
        for peer in peers:
            try:
                seen[peer.blanket] = self._verify(peer, anchors, seen.get(peer.blanket, 0))
            except Denied as error:
                _log.warning("agent.peer_refused", peer=peer.blanket, reason=error.message)
                await self._journal.note(
                    "peer.refused", {"peer": peer.blanket, "reason": error.message[:200]}
                )
            else:
                found.append(peer)
        return tuple(found)

    def _verify(self, peer: Peer | ForeignPeer, anchors: Anchors, newest: int) -> int:
        cloud = self._cloud
        if isinstance(peer, ForeignPeer):
            if peer.cloud == cloud:
                raise Denied("a blanket of this cloud, told as another's")
            cloud = peer.cloud
        generation = verify_peer(peer, anchors=anchors, cloud=cloud, at=self._now())
        if generation < newest:
            raise Denied(f"keys of generation {generation}, after those of {newest}")
        return generation

    async def locate(self, request: Location) -> None:
        await self._overlay.locate(request)

    async def prepare_key(self) -> MeshReport:
        return await self._vouched(await self._overlay.prepare_key())

    async def switch_key(self) -> MeshReport:
        return await self._vouched(await self._overlay.switch_key())

    async def report(self) -> MeshReport:
        return await self._vouched(await self._overlay.report())

    async def _vouched(self, report: MeshReport, *, announced: int = 0) -> MeshReport:
        """The driver's report under our signature, with a generation that grows with each change of keys, and
        beyond what was `announced`, if we know nothing of that any more."""
        last = await self._journal.read(_ANNOUNCED) or {"generation": 0, "keys": None}
        keys = [report.key, report.next_key]
        if last["keys"] != keys or last["generation"] < announced:
            last = {"generation": max(last["generation"], announced) + 1, "keys": keys}
            await self._journal.write(_ANNOUNCED, last)
        said = announce(
            identity=self._passport.keys.identity,
            certificate_pem=self._passport.certificate_pem,
            blanket=self._blanket,
            key=report.key,
            next_key=report.next_key,
            generation=last["generation"],
        )
        return replace(report, announcement=said)
