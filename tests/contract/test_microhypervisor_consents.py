"""Acts on a partition's memory through the driver: with its tenant's consent, once, sealed to the tenant."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import microhypervisor_double as double
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tiny_guest import IMAGE, TinyImages, linux_kernel

from supercloud.images.microhypervisor import IMAGE as MICROHYPERVISOR
from supercloud.images.microhypervisor import build_microhypervisor
from supercloud.model.acts import MOST_PAGES, NO_ARGUMENTS, Operation
from supercloud.model.errors import Conflict, Failed, NotFound, Refused
from supercloud.model.names import Id, new_id
from supercloud.platforms.microhypervisor import channel, requests, tpm
from supercloud.platforms.microhypervisor.driver import MicrohypervisorOptions, MicrohypervisorPlatform
from supercloud.platforms.microhypervisor.home import Home
from supercloud.platforms.microhypervisor.requests import Request
from supercloud.platforms.qemu.command import BINARY
from supercloud.ports.platform import BlanketMachine, ConsentPlatform, SealedExport
from supercloud.trust import attestation, export
from supercloud.trust.attestation import Attestation
from supercloud.trust.consent import Statement, consent, hash_of
from supercloud.trust.keys import IdentityKey

pytestmark = pytest.mark.contract
_LASTING = 1 << 40
TENANT, OTHER = IdentityKey.new(), IdentityKey.new()


@dataclass
class Site:
    platform: MicrohypervisorPlatform
    home: Home
    mine: Id  # TENANT's
    others: Id  # OTHER's

    async def statement(self, machine: Id, **changed: object) -> Statement:
        """For 2 pages from page 3 on."""
        issued = await self.platform.challenge(machine, os.urandom(32))
        made = Statement(
            operation=Operation.DUMP,
            partition=issued.partition,
            page=3,
            pages=2,
            launch=issued.launch,
            challenge=issued.challenge,
            ticks=_LASTING,
            requester=hash_of("a domain"),
            purpose=hash_of("a crash"),
            arguments=bytes.fromhex(NO_ARGUMENTS.removeprefix("sha256:")),
        )
        return replace(made, **changed)

    async def act(self, machine: Id, signed: bytes, *, page: int = 3, pages: int = 2) -> SealedExport:
        return await self.platform.export(machine, Operation.DUMP, page=page, pages=pages, consent=signed)

    async def launched(self, machine: Id) -> Attestation:
        nonce = os.urandom(32)
        issued = await self.platform.challenge(machine, nonce)
        return attestation.verified(issued.attestation, issued.partition, nonce)

    async def opened(self, it: SealedExport, statement: Statement, key: IdentityKey = TENANT) -> bytes:
        machine = Ed25519PublicKey.from_public_bytes((await self.launched(self.mine)).machine)
        of = export.accepted(it.header, statement, key.private, machine)
        return of.open_all([(one.version, one.sealed) for one in it.pages])


def opened(folder: Path) -> MicrohypervisorPlatform:
    options = MicrohypervisorOptions(partitions=3, memory_mib=256, disk_gib=1, tpm=False)
    images = double.DoubledImages(folder / "images")
    return MicrohypervisorPlatform(folder / "state", images, options, argv=double.argv, binary=double.BINARY)


def blanket(tenant: IdentityKey | None) -> BlanketMachine:
    named = None if tenant is None else tenant.name
    return BlanketMachine(
        id=new_id(), name="n", image=IMAGE, memory_mib=256, disk_bytes=1 << 30, tenant=named
    )


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    platform = opened(tmp_path)
    mine, others = blanket(TENANT), blanket(OTHER)
    for one in (mine, others):
        await platform.create(one)
    yield Site(platform, Home(tmp_path / "state" / "machine", double.BINARY), mine.id, others.id)
    for machine in await platform.list():
        await platform.destroy(machine.id)


async def test_a_launch_is_measured_with_its_clouds_key_and_nobody_vouches_for_the_machines(
    site: Site,
) -> None:
    assert isinstance(site.platform, ConsentPlatform)
    for machine, key in ((site.mine, TENANT), (site.others, OTHER)):
        found = await site.launched(machine)
        assert (found.tenant, found.launches) == (key.private.public_key().public_bytes_raw(), 1)
        assert found.quote is None


async def test_with_consent_pages_come_sealed_to_the_tenant_alone(site: Site) -> None:
    statement = await site.statement(site.mine)
    came = await site.act(site.mine, consent(statement, TENANT.private))
    clear = await site.opened(came, statement)
    assert [clear[at : at + 4096].rstrip(b".") for at in (0, 4096)] == [
        b"page 3 of p0, launch 1",
        b"page 4 of p0, launch 1",
    ]
    assert not any(b"page" in one.sealed for one in came.pages)
    with pytest.raises(Failed):
        await site.opened(came, statement, OTHER)
    swapped = replace(came, pages=came.pages[::-1])
    with pytest.raises(Failed, match="out of order"):
        await site.opened(swapped, statement)


async def test_no_other_consent_is_one(site: Site) -> None:
    async def refused(why: str, signed: bytes, machine: Id = site.mine, pages: int = 2) -> None:
        with pytest.raises(Refused, match=why):
            await site.act(machine, signed, pages=pages)

    async def signed(key: IdentityKey = TENANT, **changed: object) -> bytes:
        return consent(await site.statement(site.mine, **changed), key.private)

    await refused("is no consent", bytes(248))
    await refused("has not signed it", await signed(OTHER))
    altered = bytearray(await signed())
    altered[24] ^= 1
    await refused("has not signed it", bytes(altered))
    used = await signed()
    await site.act(site.mine, used)
    await refused("or was used", used)
    replaced = await signed()
    await site.platform.challenge(site.mine, bytes(32))
    await refused("issued last", replaced)
    await refused("time has passed", await signed(ticks=1))
    await refused("something else", await signed(partition="p1"))
    await refused("something else", await signed(launch=2))
    await refused("something else", await signed(page=4))
    await refused("something else", await signed(operation=Operation.INTROSPECT))
    await refused("something else", await signed(), pages=3)
    await refused("has not signed it", await signed(), machine=site.others)
    foreign = await site.statement(site.others)
    await refused("issued last", consent(replace(foreign, partition="p0"), TENANT.private))


async def test_a_consent_ends_with_its_launch_and_with_its_time(site: Site) -> None:
    signed = consent(await site.statement(site.mine), TENANT.private)
    await site.platform.stop(site.mine)
    statement = await site.statement(site.mine)
    came = await site.act(site.mine, consent(statement, TENANT.private))
    assert b"launch 1" in await site.opened(came, statement), (
        "of a stopped one the memory is its tenant's still"
    )
    await site.platform.start(site.mine)
    with pytest.raises(Refused):
        await site.act(site.mine, signed)
    late = consent(await site.statement(site.mine), TENANT.private)
    (site.home.path / "hurry").touch()
    with pytest.raises(Refused, match="time has passed"):
        await site.act(site.mine, late)


async def test_who_has_a_partition_next_is_its_tenant_from_its_launch_on(site: Site) -> None:
    at = site.home.record().of(site.mine)
    assert at is not None
    await site.platform.destroy(site.mine)
    after = blanket(OTHER)
    await site.platform.create(after)
    assert site.home.record().of(after.id).partition == at.partition  # type: ignore[union-attr]
    found = await site.launched(after.id)
    assert (found.tenant, found.launches) == (OTHER.private.public_key().public_bytes_raw(), 2)
    with pytest.raises(Refused, match="has not signed it"):
        await site.act(after.id, consent(await site.statement(after.id), TENANT.private))


async def test_an_admin_who_names_a_key_of_its_own_gets_nothing_of_what_is_there(site: Site) -> None:
    await site.platform.stop(site.mine)
    async with channel.session(site.home.path) as asked:
        await asked.ask(Request.TENANT, "p0", rest=requests.tenant(OTHER.name))
    with pytest.raises(Refused, match="has not signed it"):
        await site.act(site.mine, consent(await site.statement(site.mine), OTHER.private))
    await site.platform.start(site.mine)  # and the driver says again whose it is
    assert (await site.launched(site.mine)).tenant == TENANT.private.public_key().public_bytes_raw()


async def test_one_that_was_made_without_a_key_is_nobodys(site: Site) -> None:
    made = blanket(None)
    await site.platform.create(made)
    assert (await site.launched(made.id)).tenant == b""
    with pytest.raises(Refused, match="no tenant"):
        await site.act(made.id, consent(await site.statement(made.id), TENANT.private))


async def _cut(home: Home) -> None:
    """The machine's power."""
    running = home.running(home.record())
    assert running is not None
    with running:
        running.kill()
        await running.wait(20)


async def test_the_machine_starts_anew_with_everybodys_key(site: Site, tmp_path: Path) -> None:
    await _cut(site.home)
    platform = opened(tmp_path)  # as a new control plane would have it
    with pytest.raises(Conflict, match="was not launched"):
        await platform.challenge(site.mine, bytes(32))
    await platform.start(site.mine)
    assert (await site.launched(site.mine)).tenant == TENANT.private.public_key().public_bytes_raw()
    with pytest.raises(NotFound):
        await platform.challenge(new_id(), bytes(32))


class Built(TinyImages):
    def microhypervisor(self) -> Path:
        return build_microhypervisor() / MICROHYPERVISOR


@pytest.mark.system
async def test_the_real_one_takes_the_same_and_refuses_the_same(tmp_path: Path) -> None:
    """In QEMU, with a kernel that writes a letter: the command line that it was given is in its memory."""
    if shutil.which(BINARY) is None:
        pytest.skip("no QEMU")
    options = MicrohypervisorOptions(partitions=2, memory_mib=256, disk_gib=1)
    images = Built(tmp_path / "images", linux_kernel())
    platform = MicrohypervisorPlatform(tmp_path / "state", images, options)
    spec = blanket(TENANT)
    try:
        await platform.create(spec)
        site = Site(platform, Home(tmp_path / "state" / "machine", BINARY), spec.id, spec.id)
        first = await site.launched(spec.id)
        assert first.tenant == TENANT.private.public_key().public_bytes_raw()
        assert (first.quote is not None) == tpm.is_installed()
        for key, changed, why in (
            (OTHER, {}, "has not signed it"),
            (TENANT, {"launch": 2}, "something else"),
            (TENANT, {"ticks": 1}, "time has passed"),
        ):
            with pytest.raises(Refused, match=why):
                await site.act(spec.id, consent(await site.statement(spec.id, **changed), key.private))
        statement = await site.statement(spec.id, page=0, pages=MOST_PAGES)
        signed, begun = consent(statement, TENANT.private), time.monotonic()
        came = await site.act(spec.id, signed, page=0, pages=MOST_PAGES)
        print(f"{MOST_PAGES} pages in {time.monotonic() - begun:.1f} s")
        assert b"tsc=reliable" in await site.opened(came, statement)
        with pytest.raises(Refused, match="or was used"):
            await site.act(spec.id, signed, page=0, pages=MOST_PAGES)
        await platform.stop(spec.id)
        await platform.start(spec.id)
        again = await site.launched(spec.id)
        assert (again.launches, again.machine, again.quote) == (2, first.machine, first.quote)
        await _cut(site.home)
        await platform.start(spec.id)
        anew = await site.launched(spec.id)
        assert anew.machine != first.machine and anew.quote == first.quote, "another key, the same TPM"
    finally:
        await platform.destroy(spec.id)
