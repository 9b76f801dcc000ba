"""A blanket inside a blanket, on real VMs: a nested cloud runs an instance there, which moves out of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROGRAM, Estate, evidence
from small_guest import SAYS, make_small_guest

from supercloud.client import Place

pytestmark = [pytest.mark.system, pytest.mark.timeout(5400)]
#: A blanket inside an emulated one boots in a minute and a half, on a machine with other work in several.
ADD_S = 1800.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """A control plane, a blanket with room for another one in it, and a cloud within its cloud."""
    disk = make_small_guest(tmp_path_factory.mktemp("small") / "disk.raw")
    home = Path(tempfile.mkdtemp(prefix="sc-"))  # short: a socket's path has at most 107 bytes
    made = Estate(place=Place(home), report={}, said="")
    try:
        _do(made, "up")
        _do(made, "provider", "add", "north", "--kind", "qemu")
        _do(made, "cloud", "create", "outer")
        _do(made, "cloud", "create", "inner", "--in", "outer")
        _do(made, "image", "import", str(disk), "--name", "small", timeout_s=900)
        _do(made, "blanket", "add", "around", "--cloud", "outer", "--provider", "north", "--memory", "2G",
            timeout_s=ADD_S)  # fmt: skip
        yield made
    finally:
        print(evidence(home))
        for name, cloud in (("beside", "inner"), ("around", "outer")):
            made.run("blanket", "rm", name, "--cloud", cloud, "--force", timeout_s=600)
        made.run("down")
        shutil.rmtree(home, ignore_errors=True)


def _do(site: Estate, *arguments: str, timeout_s: float = 400.0) -> str:
    done = site.run(*arguments, timeout_s=timeout_s)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-2000:]}"
    return done.stdout


def _show(site: Estate, kind: str, name: str, cloud: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(_do(site, kind, "show", name, "--cloud", cloud, "-o", "json"))
    return shown


def test_a_nested_cloud_has_a_blanket_in_its_parents(site: Estate) -> None:
    began = time.monotonic()
    _do(site, "blanket", "add", "within", "--cloud", "inner", "--in", "around", "--vcpus", "1",
        "--memory", "1G", "--disk", "4G", timeout_s=ADD_S)  # fmt: skip
    print(f"a blanket inside a blanket was ready after {time.monotonic() - began:.0f} s")
    shown = _show(site, "blanket", "within", "inner")
    assert (shown["parent"], shown["depth"], shown["deeper"]) == ("around", 1, 0)
    assert shown["state"] == "ready" and shown["flavour"] == "kvm", "SVM is there once more"
    assert shown["confidentiality"] == "procedural"


def test_it_goes_no_deeper_here_and_says_why(site: Estate) -> None:
    refused = site.run("blanket", "add", "deep", "--cloud", "inner", "--in", "within", "--vcpus", "1",
                       "--memory", "128M", "--disk", "1G")  # fmt: skip
    assert refused.returncode != 0 and "1 deep at most" in refused.stderr


def test_an_instance_runs_in_it(site: Estate) -> None:
    _do(site, "network", "create", "lan", "--cloud", "inner", "--cidr", "10.66.0.0/24")
    _do(site, "vm", "run", "deep", "--cloud", "inner", "--image", "small", "--on", "within",
        "--network", "lan", "--memory", "64M", timeout_s=1500)  # fmt: skip
    shown = _show(site, "vm", "deep", "inner")
    assert (shown["state"], shown["blanket"]) == ("running", "within")
    first, then = _counts(site, "deep", "inner")
    assert then > first, "it goes on"
    assert _show(site, "vm", "deep", "inner")["right_left_s"] > 0, "its right is renewed from in there"


def _counts(site: Estate, name: str, cloud: str) -> tuple[int, int]:
    """The first two numbers that its console says from now on."""
    console = subprocess.Popen(
        [PROGRAM, "vm", "console", name, "--cloud", cloud],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment(),
    )  # fmt: skip
    assert console.stdout is not None and console.stderr is not None
    said, found = b"", list[bytes]()
    try:
        while len(found) < 2:
            chunk = console.stdout.read1(4096)
            assert chunk, said[-2000:] + console.stderr.read()
            said += chunk
            found = re.findall(SAYS + rb"(\d{5})\r", said)
    finally:
        console.kill()
        console.communicate()
    return int(found[0]), int(found[1])


def test_it_moves_out_of_it_live_and_goes_on(site: Estate) -> None:
    """To an ordinary blanket of the same cloud: one hypervisor less is below it then."""
    _do(site, "blanket", "add", "beside", "--cloud", "inner", "--provider", "north", "--memory", "1G",
        timeout_s=ADD_S)  # fmt: skip
    _, before = _counts(site, "deep", "inner")
    began = time.monotonic()
    said = _do(
        site, "vm", "migrate", "deep", "--cloud", "inner", "--to", "beside", "-o", "json", timeout_s=1500
    )
    print(f"an instance left a nested blanket in {time.monotonic() - began:.0f} s: {said.strip()}")
    shown = _show(site, "vm", "deep", "inner")
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "beside", 2)
    first, then = _counts(site, "deep", "inner")
    assert then > first > before, "it went on where it was, and did not begin anew"


def test_a_parent_with_a_blanket_inside_is_kept(site: Estate) -> None:
    refused = site.run("blanket", "rm", "around", "--cloud", "outer")
    assert refused.returncode != 0 and "inside blanket around" in refused.stderr


def test_what_is_inside_goes_first(site: Estate) -> None:
    _do(site, "vm", "rm", "deep", "--cloud", "inner", "--force", timeout_s=900)
    for name in ("within", "beside"):
        _do(site, "blanket", "rm", name, "--cloud", "inner", timeout_s=600)
    names = [one["name"] for one in json.loads(_do(site, "blanket", "ls", "-o", "json"))]
    assert names == ["around"]
