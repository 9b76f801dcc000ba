"""Blankets on a micro-hypervisor's machine, on real VMs: looked into by consent alone, and an instance that
moves live between them and one on a plain QEMU. `make -C microhypervisor platform-tests` runs it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Estate, evidence
from small_guest import counts, make_small_guest

from supercloud.client import Place
from supercloud.platforms.microhypervisor import tpm

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]
#: With half a slow processor to itself one is ready in two minutes, on a busy machine in ten.
ADD_S = 1800.0
MOVE_S = 1200.0
PAGES = 64


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """A blanket on a plain QEMU, and one on each of two micro-hypervisor's machines."""
    disk = make_small_guest(tmp_path_factory.mktemp("small") / "disk.raw")
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a socket's path has at most 107 bytes
    made = Estate(place=Place(home), report={}, said="")
    try:
        made.do("up")
        made.do("cloud", "create", "c")
        made.do("network", "create", "lan", "--cloud", "c", "--cidr", "10.66.0.0/24")
        made.do("image", "import", str(disk), "--name", "small", timeout_s=900)
        made.do("provider", "add", "north", "--kind", "qemu")
        _add(made, "n", "north")
        _add_machine(made, "e", "east")
        yield made
    finally:
        print(evidence(home))
        for name in ("e", "w", "n"):
            made.run("blanket", "rm", name, "--cloud", "c", "--force", timeout_s=600)
        made.run("down")
        shutil.rmtree(home, ignore_errors=True)


def _add_machine(made: Estate, name: str, provider: str) -> None:
    made.do("provider", "add", provider, "--kind", "microhypervisor", "--option", "partitions=1",
        "--option", "memory_mib=1280", "--option", "disk_gib=4")  # fmt: skip
    _add(made, name, provider)


def _add(made: Estate, name: str, provider: str) -> None:
    began = time.monotonic()
    made.do("blanket", "add", name, "--cloud", "c", "--provider", provider, "--vcpus", "1",
        "--memory", "1280M", "--disk", "4G", timeout_s=ADD_S)  # fmt: skip
    print(f"a blanket on {provider} was ready after {time.monotonic() - began:.0f} s")


def test_it_is_a_blanket_as_any_and_below_it_consents_are_enforced(site: Estate) -> None:
    shown = site.show("blanket", "e")
    assert (shown["state"], shown["flavour"], shown["confidentiality"]) == ("ready", "kvm", "enforced")
    assert site.show("blanket", "n")["confidentiality"] == "procedural"


def _asked(site: Estate, machine: str) -> str:
    site.do("domain", "ask", machine, "dump", "--page", "0", "--pages", str(PAGES), "--until", "1h",
        "--purpose", "a crash")  # fmt: skip
    (newest, *_) = json.loads(site.do("act", "ls", "--state", "asked", "-o", "json"))
    return str(newest["id"])


def _refused(site: Estate, act: str) -> str:
    done = site.run("domain", "perform", act)
    assert done.returncode == 4, done.stderr
    return done.stderr


def _findings(site: Estate) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(site.do("finding", "ls", "--layer", "L0", "-o", "json"))
    return found


def test_without_consent_nobody_looks_and_its_user_is_told(site: Estate) -> None:
    act = _asked(site, site.show("blanket", "e")["id"])
    assert "the micro-hypervisor refused" in _refused(site, act)
    (found,) = _findings(site)
    assert (found["source"], found["severity"]) == ("monitor", "high")
    assert found["evidence"][0]["act"] == act
    assert site.show("act", act)["state"] == "asked", "and it may still be granted"
    log = site.place.home.rglob("machine/console.log")
    assert any("refused" in path.read_text(errors="replace") for path in log), "L0 has noted it, too"


def test_with_consent_it_is_the_owner_alone_who_reads(site: Estate, tmp_path: Path) -> None:
    act = _asked(site, site.show("blanket", "e")["id"])
    granted = json.loads(site.do("act", "grant", act, "-o", "json"))
    assert (granted["state"], granted["vouched"]) == ("granted", False)
    assert (granted["tpm"] is not None) == tpm.is_installed()
    began = time.monotonic()
    site.do("domain", "perform", act)
    print(f"{PAGES} pages of a blanket that runs in {time.monotonic() - began:.1f} s")
    sealed, clear = tmp_path / "sealed", tmp_path / "clear"
    site.do("domain", "export", act, "--to", str(sealed))
    site.do("act", "open", act, "--to", str(clear))
    read = clear.read_bytes()
    assert len(read) == PAGES * 4096
    assert b"console=ttyS0" in read, "the command line, where the micro-hypervisor put it"
    assert b"console=ttyS0" not in sealed.read_bytes()
    assert site.run("domain", "perform", act).returncode != 0, "a consent is used once"
    assert site.show("blanket", "e")["state"] == "ready", "it runs on"


@pytest.mark.skipif(not tpm.is_installed(), reason="no swtpm")
def test_a_tpm_that_its_owner_trusts_vouches_for_the_machine(site: Estate) -> None:
    machine = site.show("blanket", "e")["id"]
    first = json.loads(site.do("act", "grant", _asked(site, machine), "-o", "json"))
    site.do("act", "refuse", first["id"])
    unknown = site.run("act", "grant", act := _asked(site, machine), "--attested")
    assert unknown.returncode != 0 and "no TPM that you trust" in unknown.stderr
    site.do("tpm", "trust", first["tpm"], "--booted", first["booted"])
    said = site.run("act", "grant", act, "--attested").stdout
    assert "attested: TPM" in said and "unattested" not in said
    site.do("act", "refuse", act)
    site.do("tpm", "trust", first["tpm"], "--booted", "sha256:" + "0" * 64)
    other = site.run("act", "grant", act := _asked(site, machine))
    assert other.returncode != 0 and "has booted something else" in other.stderr
    site.do("act", "refuse", act)
    site.do("tpm", "forget", first["tpm"])


def test_where_nothing_enforces_it_a_grant_is_a_word(site: Estate) -> None:
    act = _asked(site, site.show("blanket", "n")["id"])
    assert "procedural only" in site.do("act", "grant", act)
    assert "procedural" in _refused(site, act)


def _moved(site: Estate, to: str, last: int) -> int:
    """Live, and it goes on counting: how far it is."""
    ended = json.loads(site.do("vm", "migrate", "i", "--to", to, "-o", "json", timeout_s=MOVE_S))
    print(f"to {to}: {ended['result']}")
    shown = site.show("vm", "i")
    assert (shown["state"], shown["blanket"]) == ("running", to)
    first, then = counts(site.environment(), "i", "c")
    assert last < first < then, "with its memory"
    return then


def test_an_instance_moves_live_from_a_plain_qemu_to_a_micro_hypervisor(site: Estate) -> None:
    site.do("vm", "run", "i", "--cloud", "c", "--image", "small", "--on", "n", "--network", "lan",
        "--memory", "64M", timeout_s=MOVE_S)  # fmt: skip
    _, last = counts(site.environment(), "i", "c")
    _moved(site, "e", last)


def test_it_does_not_move_to_where_its_provider_could_look(site: Estate) -> None:
    refused = site.run("vm", "migrate", "i", "--to", "n")
    assert refused.returncode != 0 and "does not enforce confidentiality" in refused.stderr
    shown = site.show("vm", "i")
    assert (shown["state"], shown["blanket"]) == ("running", "e")


def test_it_moves_live_between_two_micro_hypervisors_machines(site: Estate) -> None:
    _add_machine(site, "w", "west")
    _, last = counts(site.environment(), "i", "c")
    _moved(site, "e", _moved(site, "w", last))
    site.do("blanket", "rm", "w", timeout_s=600)


def test_one_that_is_stopped_is_shown_as_that_and_comes_back(site: Estate) -> None:
    site.do("vm", "rm", "i", "--force", timeout_s=600)
    site.do("blanket", "stop", "e")
    assert site.show("blanket", "e")["state"] == "stopped"
    site.do("blanket", "start", "e", timeout_s=ADD_S)
    assert site.show("blanket", "e")["state"] == "ready"
