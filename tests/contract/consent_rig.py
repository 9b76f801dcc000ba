"""Alice's and Bob's machines on a platform that enforces consents, and what each does about an act."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from blanket_double import LivePlatform, Site
from monitor_double import CLOCK_KHZ, MonitorDouble, Refusal
from provider_rig import Estate

from supercloud.keystore.acts import consent_request
from supercloud.keystore.faces import Consent
from supercloud.model.acts import Operation
from supercloud.model.errors import Failed, Refused, SupercloudError
from supercloud.model.placement import Confidentiality
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.requests import Request
from supercloud.ports.platform import (
    Ability,
    BlanketMachine,
    Challenge,
    Declaration,
    Machine,
    SealedExport,
    SealedPage,
)


class EnforcingPlatform(LivePlatform):
    """With a monitor (see monitor_double) that knows machine `m` as `partition(m)`."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.monitor = MonitorDouble()
        self.breaks: SupercloudError | None = None  # what the next export ends with
        self.presented: list[bytes] = []
        self.held: asyncio.Event | None = None  # no export goes on before it

    async def declare(self) -> Declaration:
        declared = await super().declare()
        abilities = declared.abilities | {Ability.CONSENT}
        return replace(declared, confidentiality=Confidentiality.ENFORCED, abilities=abilities)

    async def create(self, machine: BlanketMachine) -> Machine:
        name = partition(machine.id)
        if name not in self.monitor.partitions:
            self.monitor.answer(Request.TENANT, name, requests.tenant(machine.tenant), runs=False)
            self.monitor.launch(name)
        return await super().create(machine)

    async def challenge(self, machine: str, nonce: bytes) -> Challenge:
        name = partition(machine)
        issued = requests.challenge(self._ask(Request.CHALLENGE, name, b""))
        return Challenge(
            partition=name,
            launch=issued.launch,
            challenge=issued.challenge,
            clock_khz=CLOCK_KHZ,
            attestation=self._ask(Request.ATTEST, name, nonce),
        )

    async def export(
        self, machine: str, operation: Operation, *, page: int, pages: int, consent: bytes
    ) -> SealedExport:
        name = partition(machine)
        self.presented.append(consent)
        if self.held is not None:
            await self.held.wait()
        header = self._ask(Request.ACT, name, requests.act(operation, page, pages, consent))
        if self.breaks is not None:
            raise self.breaks
        return SealedExport(
            header=header, pages=tuple(self._page(name, number) for number in range(page, page + pages))
        )

    def _page(self, name: str, number: int) -> SealedPage:
        sealed, version = b"", 0
        while len(sealed) < requests.SEALED_SIZE:
            payload = self._ask(Request.PAGE, name, requests.page(number, len(sealed)))
            version, part = requests.page_part(payload)
            sealed += part
        return SealedPage(version, sealed)

    def _ask(self, kind: Request, name: str, rest: bytes) -> bytes:
        try:
            return self.monitor.answer(kind, name, rest)
        except Refusal as refusal:
            raise (Refused if refusal.code >= 6 else Failed)(refusal.text) from refusal


def partition(machine: str) -> str:
    return f"m-{machine[:8]}"


@dataclass
class Consenting:
    """The owner's side has the key store; all else goes over the API."""

    people: Estate

    @property
    def platform(self) -> EnforcingPlatform:
        assert self.people.world is not None
        platform = self.people.world.platform
        assert isinstance(platform, EnforcingPlatform)
        return platform

    @property
    def keys(self) -> Any:
        assert self.people.world is not None
        return self.people.world.keys

    async def asked(self, machine: str = "c1", **more: Any) -> dict[str, Any]:
        """By acme, for 2 pages from page 3 on."""
        now = int(time.time())
        wanted = {
            "operation": "dump",
            "machine": self.people.machines[machine],
            "page": 3,
            "pages": 2,
            "purpose": "it crashes at night",
            "not_before": now,
            "expires_at": now + 3600,
        }
        answer = await self.people.acme.post("/acts", json=wanted | more)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def challenge(self, act: str) -> tuple[dict[str, Any], str]:
        nonce = secrets.token_hex(32)
        issued = await self.people.alice.post(f"/acts/{act}/challenge", json={"nonce": nonce})
        assert issued.status_code == 200, issued.text
        return issued.json(), nonce

    async def signed(self, act: str, **changed: Any) -> Consent:
        """By Alice's key store; `changed` goes over what it is asked to consent to."""
        view = (await self.people.alice.get(f"/acts/{act}")).json()
        to = consent_request(view, *await self.challenge(act))
        found: Consent = await self.keys.consent(to=replace(to, **changed))
        return found

    async def grant(self, act: str, consent: str) -> Any:
        return await self.people.alice.post(f"/acts/{act}/grant", json={"consent": consent})

    async def granted(self, act: str) -> dict[str, Any]:
        answer = await self.grant(act, (await self.signed(act)).consent)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def perform(self, act: str) -> Any:
        return await self.people.acme.post(f"/acts/{act}/perform")

    async def state(self, act: str) -> str:
        views = [(await who.get(f"/acts/{act}")).json() for who in (self.people.alice, self.people.acme)]
        assert views[0]["state"] == views[1]["state"]
        return str(views[0]["state"])
