"""Work that nobody has to look at, on the demo's own VMs: the loops find nothing in it, and what detectors
were shown is kept, so that `tests/unit/test_benign_recordings.py` can show it to those of today.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import CLOUD, SERVER, Estate
from ssh_guest import SshGuest, new_key

from supercloud.blanket.places import RECORDING
from supercloud.cli import policy as trials
from supercloud.cli.demo.load import console_log, seen
from supercloud.cli.demo.scenario import CLIENT, IMAGE, NETWORK, SHELL_ON
from supercloud.cli.shell import Shell
from supercloud.images import blanket
from supercloud.images.cache import cache_directory
from supercloud.images.debian import lock_in_force
from supercloud.security import usual
from supercloud.security.detectors import COMPONENTS, GUEST, INTEGRITY, PORT

pytestmark = [pytest.mark.system, pytest.mark.timeout(5400)]
WORKER, DEPOT, OTHER = "worker", "depot", "n1"
#: Of a blanket, and small: each after those that it needs; all else that they need is in the demo's guests.
PACKAGES = (
    *("libss2", "libext2fs2", "e2fsprogs"),
    *("libjansson4", "libnftnl11", "libnftables1", "nftables"),
)
INSIDE = Path(__file__).with_name("benign_inside.py")
_WORK_S, _MOVE_S = 900.0, 1200.0
#: Detectors are begun anew by their agent; the process that looks into guests ends with its detector.
_BEGIN_ANEW = (
    "for one in /proc/[0-9]*; do tr '\\0' ' ' <$one/cmdline 2>/dev/null | "
    "grep -q ' -m supercloud.agent.detectors ' && kill ${one#/proc/}; done; true"
)
RECORDED = (PORT, COMPONENTS, GUEST, INTEGRITY)


class Guests:
    """A worker in the blanket that is recorded, and a depot in the other one."""

    def __init__(self, estate: Estate, key: Path) -> None:
        self.estate = estate
        self.worker = SshGuest(estate, key, WORKER)
        self.depot = SshGuest(estate, key, DEPOT)

    def make(self) -> None:
        """Once."""
        if self.estate.run("vm", "show", WORKER, "--cloud", CLOUD).returncode == 0:
            return
        for guest, on in ((self.depot, OTHER), (self.worker, SHELL_ON)):
            what = f"--cloud {CLOUD} --image {IMAGE} --network {NETWORK} --on {on} --memory 256M"
            guest.cli("vm", "run", guest.name, *what.split(), "--ssh-key", f"{guest.key}.pub", timeout_s=900)
        for guest in (self.depot, self.worker):
            guest.await_ssh()
            guest.inside("cat >/root/work.py", data=INSIDE.read_bytes())
        self.depot.inside(
            "systemd-run --quiet --unit depot --working-directory /root python3 work.py depot;"
            " until (exec 3<>/dev/tcp/localhost/2121) 2>/dev/null; do sleep 1; done"
        )

    def work(self, name: str, *given: str) -> dict[str, Any]:
        said = self.worker.inside(f"cd /root && python3 work.py {name} {' '.join(given)}", timeout_s=_WORK_S)
        done: dict[str, Any] = json.loads(said.splitlines()[-1])
        print(done)
        return done

    @contextmanager
    def in_background(self, name: str, *given: str) -> Iterator[None]:
        """Goes on in the worker while it moves, and nobody holds a connection to it."""
        self.worker.inside(
            f"systemd-run --quiet --collect --unit work --working-directory /root"
            f" sh -c 'python3 work.py {name} {' '.join(given)} >/root/background.json'"
        )
        try:
            yield
        finally:
            self.worker.inside("touch /root/enough; while systemctl --quiet is-active work; do sleep 1; done")
            print(self.worker.inside("rm /root/enough; cat /root/background.json"))

    def moves(self, name: str, to: str) -> None:
        self.worker.cli("vm", "migrate", name, "--to", to, "--cloud", CLOUD, timeout_s=_MOVE_S)


@pytest.fixture(scope="module")
def packages() -> dict[str, bytes]:
    """Debian's own files, which the blanket was made of: guests reach no mirror."""
    found = {one.name: one for one in lock_in_force(blanket.RECIPE, blanket.packages())}
    debs = cache_directory() / "debs"
    return {f"{name}.deb": (debs / f"{found[name].sha256}.deb").read_bytes() for name in PACKAGES}


@pytest.fixture(scope="module")
def guests(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    made = Guests(estate, new_key(tmp_path_factory.mktemp("user")))
    try:
        yield made
    finally:
        for name in (WORKER, DEPOT):
            estate.run("vm", "rm", name, "--cloud", CLOUD, "--force")
        for thing in ("volume rm papers", "image rm papers-backup"):
            estate.run(*thing.split(), *(("--cloud", CLOUD) if thing.startswith("volume") else ()))


@contextmanager
def recorded(estate: Estate, into: Path) -> Iterator[None]:
    """What the detectors of a blanket are shown meanwhile."""
    folder, packed = RECORDING, "/run/recording.tar.gz"
    with Shell.on(estate.client(), SHELL_ON, cloud=CLOUD) as shell:
        shell.run(f"rm -rf {folder} && mkdir -m 0700 {folder} && {_BEGIN_ANEW}")
        _await(lambda: set(shell.run(f"ls {folder}").split()) >= {f"{one}.jsonl" for one in RECORDED})
    try:
        yield
    finally:
        with Shell.on(estate.client(), SHELL_ON, cloud=CLOUD) as shell:
            shell.run(f"tar -czf {packed} -C {folder} . && rm -r {folder} && {_BEGIN_ANEW}")
            into.mkdir()
            subprocess.run(["tar", "-xzf", "-", "-C", into], input=shell.get(packed), check=True)
            shell.run(f"rm {packed}")


def _await(met: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline
        time.sleep(1)  # a detector has no event when it begins


def found(estate: Estate, since: float) -> list[dict[str, Any]]:
    """Incidents of all blankets, and findings of all layers, by their titles."""
    time.sleep(15)  # what was found last is on its way still, and nothing tells that there is nothing
    client = estate.client()
    incidents = [one for one in client.all("/incidents", cloud=CLOUD) if one["last_at"] >= since]
    findings = client.all("/findings", cloud=CLOUD, since=str(since))
    return [{"title": one["title"], "severity": one["severity"]} for one in [*incidents, *findings]]


def _answered(estate: Estate) -> tuple[int, int]:
    lines = seen(console_log(estate.client(), CLIENT))
    return (lines[-1].answered, lines[-1].lost + lines[-1].wrong) if lines else (0, 0)


def _installs_packages(guests: Guests, packages: dict[str, bytes]) -> None:
    for name, data in packages.items():
        guests.depot.inside(f"cat >/root/{name}", data=data)
    guests.work("fetch", DEPOT, *packages)
    files = " ".join(f"./{name}" for name in packages)
    guests.worker.inside(f"cd /root && for one in {files}; do dpkg -i $one || exit; done", timeout_s=_WORK_S)
    assert "nftables" in guests.worker.inside("nft --version")
    guests.worker.inside(f"dpkg --purge {' '.join(PACKAGES)}", timeout_s=_WORK_S)
    guests.worker.inside(f"cd /root && apt-get install --yes {files}", timeout_s=_WORK_S)


def _moves_under_load(guests: Guests) -> None:
    server = guests.worker.show(SERVER)["blanket"]
    with guests.in_background("load", SERVER, "80", "3600"):
        guests.moves(SERVER, SHELL_ON if server == OTHER else OTHER)
        guests.moves(WORKER, OTHER)
        guests.moves(WORKER, SHELL_ON)
    guests.moves(SERVER, OTHER)


def _reboots(guests: Guests) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = guests.worker.inside(boot)
    guests.worker.cli("vm", "reboot", WORKER, "--cloud", CLOUD)
    _await(lambda: guests.worker.ssh(boot).stdout.strip() not in {"", before}, _WORK_S)


def _backs_up_a_volume(guests: Guests) -> None:
    cli = guests.worker.cli
    cli("volume", "create", "papers", "--cloud", CLOUD, "--size", "64M")
    cli("volume", "attach", "papers", WORKER, "--cloud", CLOUD)
    shown = json.loads(cli("volume", "show", "papers", "--cloud", CLOUD, "-o", "json"))
    device = guests.worker.device(shown["id"][:20])
    guests.worker.inside(f"mkfs.ext4 -q /dev/{device} && mount /dev/{device} /mnt && cp -R /etc /mnt && sync")
    cli("volume", "backup", "papers", "--to", "papers-backup", "--cloud", CLOUD, timeout_s=_WORK_S)
    guests.worker.inside("umount /mnt")
    cli("volume", "detach", "papers", "--cloud", CLOUD)


def test_nothing_is_found_in_benign_work_nor_told_of_it(
    guests: Guests, packages: dict[str, bytes], tmp_path: Path
) -> None:
    estate, since = guests.estate, time.time()
    folder = tmp_path / "benign"
    with recorded(estate, folder), ExitStack() as stages:
        stages.callback(lambda: print(f"in all: {time.time() - since:.0f} s"))
        guests.make()
        before, lost = _answered(estate)
        _installs_packages(guests, packages)
        assert guests.work("load", SERVER, "80", "60")["lost"] == 0
        _moves_under_load(guests)
        _reboots(guests)
        _backs_up_a_volume(guests)
        after, lost_since = _answered(estate)
        assert after > before and lost_since == lost
    print(f"recording: {folder}")
    assert found(estate, since) == []
    tried = trials.replayed(usual.POLICY, None, [folder])
    assert tried.events > 0 and tried.incidents == () and tried.refused == ()


def test_false_positives_of_other_work_are_counted(
    guests: Guests, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Of work that nobody had in mind when the rules' numbers were chosen: reported, and not judged."""
    estate, since = guests.estate, time.time()
    folder = tmp_path / "other"
    with recorded(estate, folder):
        guests.make()
        for name, *given in (
            ("browse", DEPOT),
            ("lookups", SERVER, CLIENT, DEPOT, "nobody.invalid"),
            ("database",),
            ("archive", "/usr/share"),
            ("ftp", DEPOT, "60"),
        ):
            guests.work(name, *given)
    print(f"recording: {folder}")
    wrong = found(estate, since)
    print(f"false positives of other work: {len(wrong)} {wrong}")
    record_property("false_positives", len(wrong))
    replayed = trials.replayed(usual.POLICY, None, [folder])
    assert replayed.refused == ()
