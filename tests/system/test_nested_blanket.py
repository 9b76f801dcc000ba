"""A blanket inside a blanket, on real VMs: a nested cloud runs an instance there, which moves out of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Estate, evidence
from small_guest import counts, make_small_guest

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
        made.do("up")
        made.do("provider", "add", "north", "--kind", "qemu")
        made.do("cloud", "create", "outer")
        made.do("cloud", "create", "inner", "--in", "outer")
        made.do("image", "import", str(disk), "--name", "small", timeout_s=900)
        made.do("blanket", "add", "around", "--cloud", "outer", "--provider", "north", "--memory", "2G",
            timeout_s=ADD_S)  # fmt: skip
        yield made
    finally:
        print(evidence(home))
        for name, cloud in (("beside", "inner"), ("around", "outer")):
            made.run("blanket", "rm", name, "--cloud", cloud, "--force", timeout_s=600)
        made.run("down")
        shutil.rmtree(home, ignore_errors=True)


def test_a_nested_cloud_has_a_blanket_in_its_parents(site: Estate) -> None:
    began = time.monotonic()
    site.do("blanket", "add", "within", "--cloud", "inner", "--in", "around", "--vcpus", "1",
        "--memory", "1G", "--disk", "4G", timeout_s=ADD_S)  # fmt: skip
    print(f"a blanket inside a blanket was ready after {time.monotonic() - began:.0f} s")
    shown = site.show("blanket", "within", "--cloud", "inner")
    assert (shown["parent"], shown["depth"], shown["deeper"]) == ("around", 1, 0)
    assert shown["state"] == "ready" and shown["flavour"] == "kvm", "SVM is there once more"
    assert shown["confidentiality"] == "procedural"


def test_it_goes_no_deeper_here_and_says_why(site: Estate) -> None:
    refused = site.run("blanket", "add", "deep", "--cloud", "inner", "--in", "within", "--vcpus", "1",
                       "--memory", "128M", "--disk", "1G")  # fmt: skip
    assert refused.returncode != 0 and "1 deep at most" in refused.stderr


def test_an_instance_runs_in_it(site: Estate) -> None:
    site.do("network", "create", "lan", "--cloud", "inner", "--cidr", "10.66.0.0/24")
    site.do("vm", "run", "deep", "--cloud", "inner", "--image", "small", "--on", "within",
        "--network", "lan", "--memory", "64M", timeout_s=1500)  # fmt: skip
    shown = site.show("vm", "deep", "--cloud", "inner")
    assert (shown["state"], shown["blanket"]) == ("running", "within")
    first, then = counts(site.environment(), "deep", "inner")
    assert then > first, "it goes on"
    assert site.show("vm", "deep", "--cloud", "inner")["right_left_s"] > 0, (
        "its right is renewed from in there"
    )


def test_it_moves_out_of_it_live_and_goes_on(site: Estate) -> None:
    """To an ordinary blanket of the same cloud: one hypervisor less is below it then."""
    site.do("blanket", "add", "beside", "--cloud", "inner", "--provider", "north", "--memory", "1G",
        timeout_s=ADD_S)  # fmt: skip
    _, before = counts(site.environment(), "deep", "inner")
    began = time.monotonic()
    said = site.do(
        "vm", "migrate", "deep", "--cloud", "inner", "--to", "beside", "-o", "json", timeout_s=1500
    )
    print(f"an instance left a nested blanket in {time.monotonic() - began:.0f} s: {said.strip()}")
    shown = site.show("vm", "deep", "--cloud", "inner")
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "beside", 2)
    first, then = counts(site.environment(), "deep", "inner")
    assert then > first > before, "it went on where it was, and did not begin anew"


def test_a_parent_with_a_blanket_inside_is_kept(site: Estate) -> None:
    refused = site.run("blanket", "rm", "around", "--cloud", "outer")
    assert refused.returncode != 0 and "inside blanket around" in refused.stderr


def test_what_is_inside_goes_first(site: Estate) -> None:
    site.do("vm", "rm", "deep", "--cloud", "inner", "--force", timeout_s=900)
    for name in ("within", "beside"):
        site.do("blanket", "rm", name, "--cloud", "inner", timeout_s=600)
    names = [one["name"] for one in json.loads(site.do("blanket", "ls", "-o", "json"))]
    assert names == ["around"]
