"""Tools that know libvirt and nothing of us, on a real blanket: virsh, virt-install, virt-viewer and
virt-manager as they are, by the address that `supercloud blanket connect` gives.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CLOUD, PROGRAM, SERVER, Estate
from windows import display, says

from supercloud.blanket.domain_xml import domain_name
from supercloud.model.names import MIB

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]
NAME, SAYS = "old", b"adopted as it was"
IMAGES = "/var/lib/libvirt/images"
#: A boot sector: writes what follows it to the first serial port, up to a zero, and halts.
_CODE = bytes.fromhex("31c0 8ed8 be157c ac 84c0 7406 baf803 ee ebf5 f4 ebfd")

#: What virsh is refused on an instance of ours, which then goes on as if nothing had been.
REFUSED = (
    "suspend", "resume", "shutdown", "reboot", "reset", "destroy", "undefine", "autostart", "managedsave",
    "save {} /var/tmp/x", "dump {} /var/tmp/x", "snapshot-create", "blockcopy {} vda /var/tmp/x",
    "dumpxml {} --security-info", "migrate {} qemu+tcp://192.0.2.1/system --p2p",
    "qemu-monitor-command {} --hmp info", "setmem {} 100M", "setvcpus {} 1",
    "attach-disk {} /var/tmp/x vdc", "detach-disk {} vda",
    "domrename {} mine", "send-key {} KEY_A", "inject-nmi", "screenshot", "set-user-password {} root x",
    "domtime {} --now", "domfsfreeze", "blkdeviotune {} vda --total-bytes-sec 1",
)  # fmt: skip


class Tools:
    """Somebody's virsh."""

    def __init__(self, estate: Estate, blanket: str, uri: str, folder: Path) -> None:
        self.estate = estate
        self.blanket = blanket
        self.uri = uri
        self.folder = folder

    def virsh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["virsh", "-q", "-c", self.uri, *arguments],
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240,
        )  # fmt: skip

    def does(self, *arguments: str) -> str:
        done = self.virsh(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def cli(self, *arguments: str, timeout_s: float = 600.0) -> Any:
        done = self.estate.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def shown(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--cloud", CLOUD, "-o", "json"))

    @property
    def ours(self) -> str:
        """The instance's domain."""
        return domain_name(self.shown("vm", "show", SERVER)["id"])

    def written(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def define(self, name: str, source: str) -> None:
        """A VM of one disk."""
        self.does("define", self.written(f"{name}.xml", f"""
            <domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
              <os><type arch='x86_64' machine='q35'>hvm</type></os>
              <devices><disk type='file' device='disk'>{source}<target dev='vda' bus='virtio'/></disk>
                <interface type='user'><model type='virtio'/></interface><serial type='pty'/></devices>
            </domain>"""))  # fmt: skip


@pytest.fixture(scope="module")
def tools(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    assert shutil.which("virsh"), "make packages"
    shown = json.loads(estate.run("vm", "show", SERVER, "--cloud", CLOUD, "-o", "json").stdout)
    connecting = subprocess.Popen(
        [PROGRAM, "blanket", "connect", shown["blanket"], "--cloud", CLOUD],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=estate.environment(),
    )  # fmt: skip
    try:
        assert connecting.stdout is not None
        uri = connecting.stdout.readline().strip()
        assert uri.startswith("qemu:///system?socket=/"), uri
        yield Tools(estate, shown["blanket"], uri, tmp_path_factory.mktemp("tools"))
    finally:
        connecting.send_signal(signal.SIGINT)
        connecting.communicate(timeout=60)
    assert not Path(uri.partition("socket=")[2]).exists(), "the address ends with the command"


def test_they_see_what_is_there(tools: Tools) -> None:
    assert tools.ours in tools.does("list", "--name").split()
    described = tools.does("dumpxml", tools.ours)
    assert "urn:supercloud:instance:1" in described and "running" in tools.does("domstate", tools.ours)
    assert "KiB" in tools.does("nodeinfo") and not tools.does("secret-list").strip()
    assert tools.shown("blanket", "show", tools.blanket)["tools"]


def test_a_command_finds_the_address_in_its_environment(tools: Tools) -> None:
    said = tools.cli("blanket", "connect", tools.blanket, "--cloud", CLOUD, "--", "virsh", "-q", "uri")
    assert said.strip().startswith("qemu:///system?socket=/")


def test_they_use_the_console_of_ours(tools: Tools) -> None:
    near, far = pty.openpty()
    console = subprocess.Popen(
        ["virsh", "-q", "-c", tools.uri, "console", "--force", tools.ours], stdin=far, stdout=far, stderr=far
    )
    os.close(far)
    try:
        said, deadline = b"", time.monotonic() + 120
        while b"login:" not in said:
            assert time.monotonic() < deadline and console.poll() is None, said
            os.write(near, b"\r")
            if select.select([near], [], [], 5)[0]:
                said += os.read(near, 4096)
        os.write(near, b"\x1d")
        assert console.wait(30) == 0
    finally:
        console.kill()
        console.wait()
        os.close(near)


def test_ours_they_do_not_touch(tools: Tools) -> None:
    """Whatever virsh has for it is refused, and it runs on under its right."""
    before, ours = tools.shown("vm", "show", SERVER), tools.ours
    done = {}
    for act in REFUSED:
        words = (act if "{}" in act else f"{act} {{}}").format(ours).split()
        done[words[0]] = tools.virsh(*words)
    started = tools.written("ours.xml", tools.does("dumpxml", ours))
    done |= {act: tools.virsh(act, started) for act in ("define", "create")}
    let = {act: one.stdout + one.stderr for act, one in done.items() if "denied" not in one.stderr}
    assert not let, let
    assert "running" in tools.does("domstate", ours)
    after = tools.shown("vm", "show", SERVER)
    assert (after["state"], after["epoch"]) == ("running", before["epoch"])


def test_nor_our_keys(tools: Tools) -> None:
    """Not by name, and not by a VM of theirs that names our volume and its key."""
    volume = tools.shown("volume", "show", f"{SERVER}-root")["id"]
    for act in ("secret-get-value", "secret-dumpxml", "secret-undefine"):
        assert "denied" in tools.virsh(act, volume).stderr, act
    key = f"<encryption format='luks'><secret type='passphrase' uuid='{volume}'/></encryption>"
    disk = f"<source file='/run/supercloud/disks/{volume}.qcow2'>{key}</source>"
    tools.define("thief", f"<driver name='qemu' type='qcow2'/>{disk}")
    try:
        assert "'secret' denied access" in tools.virsh("start", "thief").stderr
    finally:
        tools.does("undefine", "thief")


def test_the_blankets_networks_stay_as_they_are(tools: Tools) -> None:
    network = tools.written("net.xml", "<network><name>x</name><bridge name='br-x'/></network>")
    assert "denied" in tools.virsh("net-define", network).stderr
    assert "denied" in tools.virsh("nwfilter-define", tools.written("f.xml", "<filter name='x'/>")).stderr


@pytest.fixture
def made(tools: Tools) -> Iterator[None]:
    """A VM of theirs on a disk of theirs, shut off."""
    disk = (_CODE + SAYS + b"\r\n\0").ljust(510, b"\0") + b"\x55\xaa"
    try:
        tools.does("pool-define-as", "default", "dir", "--target", IMAGES)
        tools.does("pool-start", "default")
        tools.does("vol-create-as", "default", f"{NAME}.img", str(MIB), "--format", "raw")
        content = tools.written("disk", disk.ljust(MIB, b"\0"))
        tools.does("vol-upload", f"{NAME}.img", content, "--pool", "default")
        tools.define(NAME, f"<driver name='qemu' type='raw'/><source file='{IMAGES}/{NAME}.img'/>")
        yield
    finally:
        tools.estate.run("vm", "rm", NAME, "--cloud", CLOUD, "--force")
        tools.estate.run("image", "rm", NAME)
        for act in (f"destroy {NAME}", f"undefine {NAME}", f"vol-delete {NAME}.img --pool default"):
            tools.virsh(*act.split())
        for act in ("pool-destroy", "pool-undefine"):
            tools.virsh(act, "default")


@pytest.mark.usefixtures("made")
def test_what_they_make_is_seen_here_and_adopted(tools: Tools) -> None:
    tools.does("start", NAME)
    (seen,) = tools.shown("blanket", "vms", tools.blanket)["vms"]
    assert (seen["name"], seen["state"], seen["memory_mib"], seen["disk_bytes"]) == (NAME, "running", 64, MIB)
    adopt = ("vm", "adopt", NAME, "--blanket", tools.blanket, "--cloud", CLOUD, "--on", tools.blanket)
    refused = tools.estate.run(*adopt)
    assert refused.returncode != 0 and "it is not shut off" in refused.stderr
    for act in ("suspend", "resume", "destroy"):
        tools.does(act, NAME)

    tools.cli(*adopt, "--network", "demo")
    shown = tools.shown("vm", "show", NAME)
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", tools.blanket, 1)
    deadline = time.monotonic() + 120
    while SAYS.decode() not in tools.cli("vm", "logs", NAME, "--cloud", CLOUD):
        assert time.monotonic() < deadline
        time.sleep(1)  # a log has no event
    assert not tools.shown("blanket", "vms", tools.blanket)["vms"]
    now = tools.does("list", "--all", "--name").split()
    assert NAME not in now and domain_name(shown["id"]) in now
    assert "denied" in tools.virsh("destroy", domain_name(shown["id"])).stderr, "it is ours now"
    assert f"{NAME}.img" in tools.does("vol-list", "default"), "its file is theirs to delete"


def test_virt_install_makes_a_vm_with_a_disk_of_its_own(tools: Tools) -> None:
    made = subprocess.run(
        ["virt-install", "--connect", tools.uri, "--name", "installed", "--memory", "64", "--vcpus", "1",
         "--disk", "size=0.0625,format=raw,bus=virtio", "--import", "--network", "none", "--graphics", "none",
         "--osinfo", "detect=off,require=off", "--noautoconsole"],
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (seen,) = (
        one for one in tools.shown("blanket", "vms", tools.blanket)["vms"] if one["name"] == "installed"
    )
    assert (seen["state"], seen["disk_bytes"]) == ("running", 64 * MIB)
    tools.does("destroy", "installed")
    tools.does("undefine", "installed", "--remove-all-storage")
    assert "installed" not in tools.does("vol-list", "default")


@pytest.fixture
def shown(tools: Tools) -> Iterator[str]:
    """A VM of theirs with a screen that nothing listens for, and no disk: its BIOS says so."""
    try:
        tools.does("create", tools.written("shown.xml", """
            <domain type='qemu'><name>shown</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
              <os><type arch='x86_64' machine='q35'>hvm</type></os>
              <devices><graphics type='vnc'><listen type='none'/></graphics>
                <video><model type='vga'/></video></devices>
            </domain>"""))  # fmt: skip
        yield "shown"
    finally:
        tools.virsh("destroy", "shown")


def test_virt_viewer_shows_a_screen_that_nothing_listens_for(
    tools: Tools, shown: str, tmp_path: Path
) -> None:
    """A PC's screen in text mode has 720 x 400 points: that is what the VM's QEMU said of it."""
    with display() as at:
        said = says(
            "virt-viewer", "--connect", tools.uri, "--attach", "--debug", shown,
            until=("has a vnc display", "desktop resize 720x400"), at=at, home=tmp_path, within_s=180,
        )  # fmt: skip
    assert "Using direct libvirt connection" in said


def test_virt_manager_lists_what_is_theirs_and_shows_a_screen(
    tools: Tools, shown: str, tmp_path: Path
) -> None:
    """It asks for each VM's secrets, and leaves out what it is refused them of: what is ours."""
    try:
        with display() as at:
            says(
                "virt-manager", "--connect", tools.uri, "--no-fork", "--debug",
                "--show-domain-console", shown,
                until=(f"Blacklisting domain={tools.ours}",
                       f"domain={shown} status=Running added", "Viewer connected"),
                at=at, home=tmp_path, within_s=240,
            )  # fmt: skip
    finally:  # it makes one of its own
        for act in ("pool-destroy", "pool-undefine"):
            tools.virsh(act, "default")
    assert "running" in tools.does("domstate", tools.ours)


def test_no_level_above_open_is_held_there_any_more(tools: Tools) -> None:
    volume = ("volume", "create", "v", "--cloud", CLOUD, "--size", "1M", "--on", tools.blanket)
    refused = tools.estate.run(*volume, "--level", "baseline")
    assert refused.returncode != 0 and f"may not be in blanket {tools.blanket}" in refused.stderr
    explained = tools.shown("level", "explain", "vm", SERVER, "--level", "baseline")
    (here,) = (place for place in explained["places"] if place["blanket"] == tools.blanket)
    why = [ruling["why"] for ruling in here["rules"] if not ruling["held"]]
    assert any("access of libvirt tools to the blanket is present" in one for one in why), why
