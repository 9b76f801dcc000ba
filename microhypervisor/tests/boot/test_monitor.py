"""A hostile admin, who has the channel and a partition of his own, and secrets in another's L1 and L2."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from machine import Guests, Machine, compiled, machine

from supercloud.model.acts import Operation
from supercloud.model.errors import Failed, Refused
from supercloud.platforms.microhypervisor import requests
from supercloud.platforms.microhypervisor.frames import Frame
from supercloud.platforms.microhypervisor.requests import Request
from supercloud.trust import attestation, export
from supercloud.trust.attestation import Launch
from supercloud.trust.consent import Statement, consent

_TENANT, _ADMIN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
#: In L1's memory, and in L2's.
_SECRETS = os.urandom(64), os.urandom(64)
_CMDLINE = "console=ttyS0 quiet panic=-1"
_HIDDEN = " ".join(bytes(byte ^ 0x5A for byte in secret).hex() for secret in _SECRETS)
_VICTIM = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in /modules/*.ko; do $b insmod $m; done
/program/registers &
/program/secrets {_HIDDEN}
echo "secrets ended with $?"
"""
_SPY = """#!/bin/busybox sh
while true; do /bin/busybox sleep 60; done
"""
_LAYOUT = f"""
partition victim
cores 1
memory 256
kernel vmlinuz
initrd victim
cmdline {_CMDLINE}
console shown
tenant {_TENANT.public_key().public_bytes_raw().hex()}

partition spy
cores 1
memory 128
kernel vmlinuz
initrd spy
cmdline {_CMDLINE}
tenant {_ADMIN.public_key().public_bytes_raw().hex()}

partition nobodys
cores 1
memory 128
kernel vmlinuz
initrd spy
cmdline {_CMDLINE}
"""


@dataclass
class Site:
    """The machine, what the tenant knows of its own partition, and where its secrets are."""

    running: Machine
    launch: Launch
    pages: tuple[int, int]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    guests = Guests(tmp_path_factory.mktemp("guests"))
    directory = tmp_path_factory.mktemp("machine")
    sources = Path(__file__).with_name("guests")
    programs = {name: compiled(sources / f"{name}.c", directory / name) for name in ("secrets", "registers")}
    initrd = guests.initrd("victim", _VICTIM, kvm=True, programs=programs)
    modules = {"vmlinuz": guests.kernel, "victim": initrd, "spy": guests.initrd("spy", _SPY)}
    launch = Launch(
        kernel=guests.kernel.read_bytes(),
        initrd=initrd.read_bytes(),
        cmdline=_CMDLINE,
        memory=256 << 20,
        cores=1,
        console_shown=True,
        tenant=_TENANT.public_key().public_bytes_raw(),
    )
    with machine(directory, _LAYOUT, modules, cores=4, memory_mib=1024) as running:
        at = running.await_line(r"\[victim\] secrets are in pages")
        found = re.search(r"pages (\d+) and (\d+)", running.lines[at - 1])
        assert found is not None
        yield Site(running, launch, (int(found[1]), int(found[2])))


def _machine_key(running: Machine) -> Ed25519PublicKey:
    """By hand: the test stands at the machine."""
    nonce = os.urandom(32)
    said = attestation.verified(running.ask(Request.ATTEST, "victim", rest=nonce), "victim", nonce)
    return Ed25519PublicKey.from_public_bytes(said.machine)


def _statement(running: Machine, first: int, pages: int = 1, name: str = "victim") -> Statement:
    issued = requests.challenge(running.ask(Request.CHALLENGE, name))
    khz = requests.hello(running.ask(Request.HELLO)).clock_khz
    return Statement(
        operation=Operation.DUMP,
        partition=name,
        page=first,
        pages=pages,
        launch=issued.launch,
        challenge=issued.challenge,
        ticks=khz * 1000 * 600,
        requester=hashlib.sha256(b"admin").digest(),
        purpose=hashlib.sha256(b"a crash is looked into").digest(),
        arguments=hashlib.sha256().digest(),
    )


def _begin(running: Machine, signed: bytes, first: int, pages: int = 1, name: str = "victim") -> bytes:
    return running.ask(Request.ACT, name, rest=requests.act(Operation.DUMP, first, pages, signed))


def _sealed(running: Machine, page: int, name: str = "victim") -> tuple[int, bytes]:
    version, sealed = 0, b""
    while len(sealed) < export.SEALED_SIZE:
        payload = running.ask(Request.PAGE, name, rest=requests.page(page, len(sealed)))
        version, part = requests.page_part(payload)
        sealed += part
    return version, sealed


def _in_clear(running: Machine) -> bool:
    return any(secret[:16] in running.heard for secret in _SECRETS)


def test_what_was_launched_is_signed_and_is_what_the_tenant_knows(site: Site) -> None:
    nonce = os.urandom(32)
    said = attestation.verified(site.running.ask(Request.ATTEST, "victim", rest=nonce), "victim", nonce)
    assert (said.digest, said.tenant, said.launches) == (site.launch.digest(), site.launch.tenant, 1)
    assert said.quote is None
    assert replace(site.launch, tenant=_ADMIN.public_key().public_bytes_raw()).digest() != said.digest


def test_no_request_gives_a_secret_without_consent(site: Site) -> None:
    """Every kind there could be, with payloads as the known ones have them; but for what stops the victim."""
    named = b"victim".ljust(16, b"\0")
    where = [page.to_bytes(8, "little") for page in site.pages]
    payloads = [b"", named, *(named + at for at in where), *(named + at + bytes(2) for at in where)]
    payloads += [
        named + bytes(32),
        *(named + b"\x01" + at + b"\1" + bytes(7 + 248) for at in where),
        bytes(1024),
    ]
    stops = {Request.START, Request.STOP, Request.RESTART}
    for kind in set(range(256)) - stops:
        for payload in payloads if kind <= max(Request) else payloads[2:5]:
            site.running.exchange(Frame(kind=kind, sequence=kind, payload=payload).encode())
    for page in site.pages:
        with pytest.raises(Refused, match="no act that was consented to"):
            _sealed(site.running, page)
    assert not _in_clear(site.running)


def test_no_other_consent_is_one(site: Site) -> None:
    running, (page, _) = site.running, site.pages

    def refused(why: str, signed: bytes, *, first: int = page, pages: int = 1, name: str = "victim") -> None:
        with pytest.raises(Refused, match=why):
            _begin(running, signed, first, pages, name)
        with pytest.raises(Refused, match="no act that was consented to"):
            _sealed(running, first, name)

    refused("has not signed it", consent(_statement(running, page), _ADMIN))
    altered = bytearray(consent(_statement(running, page), _TENANT))
    altered[24] ^= 1
    refused("has not signed it", bytes(altered))
    refused("is no consent", bytes(248))
    refused("something else", consent(replace(_statement(running, page), partition="spy"), _TENANT))
    refused("something else", consent(replace(_statement(running, page), launch=2), _TENANT))
    refused(
        "something else", consent(replace(_statement(running, page), operation=Operation.MIGRATE), _TENANT)
    )
    refused("something else", consent(_statement(running, page + 1), _TENANT))
    refused("something else", consent(_statement(running, page), _TENANT), pages=2)
    refused("time has passed", consent(replace(_statement(running, page), ticks=1), _TENANT))
    old = _statement(running, page)
    requests.challenge(running.ask(Request.CHALLENGE, "victim"))
    refused("challenge", consent(old, _TENANT))
    spied = _statement(running, page, name="spy")
    refused("challenge", consent(replace(spied, partition="victim"), _TENANT))
    refused("no tenant", consent(_statement(running, 16, name="nobodys"), _ADMIN), first=16, name="nobodys")
    assert not _in_clear(running)


def test_with_consent_it_is_the_tenant_alone_who_reads(site: Site) -> None:
    running = site.running
    for page, secret in zip(site.pages, _SECRETS, strict=True):
        statement = _statement(running, page)
        signed = consent(statement, _TENANT)
        header = _begin(running, signed, page)
        version, sealed = _sealed(running, page)
        assert (version, sealed) == _sealed(running, page)
        opened = export.accepted(header, statement, _TENANT, _machine_key(running))
        assert opened.open_all([(version, sealed)])[: len(secret)] == secret
        with pytest.raises(Failed):
            export.accepted(header, statement, _ADMIN, _machine_key(running))
        with pytest.raises(Refused, match="no act that was consented to"):
            _sealed(running, page + 1)
        with pytest.raises(Refused, match="challenge"):
            _begin(running, signed, page)  # used
        with pytest.raises(Refused, match="no act that was consented to"):
            _sealed(running, page)  # and what went on has ended with it
    assert not _in_clear(running)


def test_a_consent_ends_with_the_launch_that_it_is_for(site: Site) -> None:
    running, (page, _) = site.running, site.pages
    statement = _statement(running, page, 2)
    header = _begin(running, consent(statement, _TENANT), page, 2)
    first = _sealed(running, page)
    registers = running.await_line(r"\[victim\] registers are as they were", after=len(running.lines))
    running.await_line(r"\[victim\] registers are as they were", after=registers)
    running.ask(Request.RESTART, "victim")
    with pytest.raises(Refused, match="no act that was consented to"):
        _sealed(running, page + 1)
    opened = export.accepted(header, statement, _TENANT, _machine_key(running))
    with pytest.raises(Failed, match="missing, or out of order"):
        opened.open_all([first])
    assert not _in_clear(running)


def test_what_was_asked_is_counted_and_logged(site: Site) -> None:
    started = site.running.await_line("partition victim: starts, launch 2")
    site.running.await_line(r"\[victim\] secrets are in pages", after=started)  # so all before was read
    counted = requests.acts(site.running.ask(Request.ACTS, "victim"))
    assert (counted.given, counted.pages, counted.no_tenant) == (3, 3, 0)
    assert counted.not_signed == 2
    assert counted.expired == 1
    assert (
        counted.malformed > 0
        and counted.other_challenge > 0
        and counted.other_act > 0
        and counted.not_next > 0
    )
    told = [line for line in site.running.lines if "partition victim: monitor: " in line]
    refused = [line for line in told if "refused: " in line]
    assert len(refused) == sum(
        (
            counted.malformed,
            counted.not_signed,
            counted.other_challenge,
            counted.other_act,
            counted.expired,
            counted.not_next,
        )
    )
    assert len(told) - len(refused) == counted.given
    assert not any("CHANGED" in line for line in site.running.lines)


def _tenant_of(running: Machine, name: str) -> tuple[bytes, int]:
    nonce = os.urandom(32)
    said = attestation.verified(running.ask(Request.ATTEST, name, rest=nonce), name, nonce)
    return said.tenant, said.launches


def test_a_tenant_whom_the_channel_names_is_the_next_launchs(site: Site) -> None:
    """An admin who names a key of its own has a partition that is cleared, and measured as the admin's."""
    running, name, (theirs, admins) = site.running, "nobodys", (_TENANT, _ADMIN)
    keys = [one.public_key().public_bytes_raw() for one in (theirs, admins)]
    for refused in ("victim", name):  # its layout names it; it runs
        with pytest.raises(Failed, match=r"its layout names|it runs"):
            running.ask(Request.TENANT, refused, rest=keys[0])
    running.ask(Request.STOP, name)
    running.ask(Request.TENANT, name, rest=keys[0])
    assert _tenant_of(running, name) == (b"", 1)
    running.ask(Request.START, name)
    assert _tenant_of(running, name) == (keys[0], 2)
    running.ask(Request.STOP, name)
    running.ask(Request.TENANT, name, rest=keys[1])
    with pytest.raises(Refused, match="has not signed it"):
        _begin(running, consent(_statement(running, 16, name=name), admins), 16, name=name)
    statement = _statement(running, 16, name=name)
    header = _begin(running, consent(statement, theirs), 16, name=name)
    opened = export.accepted(header, statement, theirs, _machine_key(running))
    assert len(opened.open_all([_sealed(running, 16, name)])) == export.PAGE_SIZE
    running.ask(Request.START, name)
    assert _tenant_of(running, name) == (keys[1], 3)
    with pytest.raises(Refused, match="has not signed it"):
        _begin(running, consent(_statement(running, 16, name=name), theirs), 16, name=name)
