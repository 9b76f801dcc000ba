"""What a user does in a day, on real VMs, by the command line alone."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import CLOUD, PROGRAM, SERVER, Estate
from ssh_guest import SshGuest, new_key

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]
NAME = "web"


@pytest.fixture(scope="module")
def web(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshGuest]:
    key = new_key(tmp_path_factory.mktemp("user"))
    made = SshGuest(estate, key, NAME)
    try:
        made.cli("vm", "run", NAME, "--cloud", CLOUD, "--image", "demo-debian", "--network", "demo",
                 "--memory", "256M", "--publish", "80", "--ssh-key", f"{key}.pub", timeout_s=900)  # fmt: skip
        made.await_ssh()
        yield made
    finally:
        estate.run("vm", "rm", NAME, "--cloud", CLOUD, "--force")


def test_it_is_an_unmodified_guest_with_its_own_name_and_address(web: SshGuest) -> None:
    assert web.inside("hostname") == NAME
    assert web.show()["addresses"][0] in web.inside("ip -4 -brief address")
    assert web.inside("getent hosts server").split()[0] == web.show(SERVER)["addresses"][0]


def test_its_published_port_answers_on_this_machine(web: SshGuest) -> None:
    at = web.show()["published"][0].partition("->")[0]
    with urllib.request.urlopen(f"http://{at}/n/7", timeout=60) as answer:
        assert answer.status == 200


def test_its_console_talks(web: SshGuest) -> None:
    console = subprocess.Popen(
        [PROGRAM, "vm", "console", NAME, "--cloud", CLOUD],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=web.estate.environment(),
    )  # fmt: skip
    assert console.stdin and console.stdout
    try:
        console.stdin.write(b"\r\n")
        console.stdin.flush()
        said = b""
        while b"login:" not in said:
            chunk = console.stdout.read1(4096)
            assert chunk, said
            said += chunk
        console.stdin.write(b"\x1d")  # Ctrl-]
        console.stdin.flush()
        assert console.wait(30) == 0
    finally:
        console.kill()
        console.wait()


def test_a_volume_is_attached_grown_kept_and_detached(web: SshGuest) -> None:
    web.cli("volume", "create", "data", "--cloud", CLOUD, "--size", "32M")
    web.cli("volume", "attach", "data", NAME, "--cloud", CLOUD)
    volume = json.loads(web.cli("volume", "show", "data", "--cloud", CLOUD, "-o", "json"))
    serial = volume["id"][:20]
    device = web.device(serial)
    web.inside(f"printf kept-for-ever | dd of=/dev/{device} conv=fsync status=none")
    web.cli("volume", "resize", "data", "64M", "--cloud", CLOUD)
    assert web.inside(f"cat /sys/block/{device}/size") == str((64 << 20) // 512)
    refused = web.estate.run("volume", "snapshot", "data", "early", "--cloud", CLOUD)
    assert refused.returncode == 4 and "stop" in refused.stderr
    web.cli("volume", "detach", "data", "--cloud", CLOUD)
    assert web.ssh(f"grep -l {serial} /sys/block/vd*/serial").returncode != 0
    web.cli("volume", "snapshot", "data", "early", "--cloud", CLOUD)
    web.cli("volume", "backup", "data", "--to", "data-backup", "--cloud", CLOUD)
    web.cli("volume", "attach", "data", NAME, "--cloud", CLOUD)
    assert web.inside(f"head -c 13 /dev/{web.device(serial)}") == "kept-for-ever"


def test_a_backup_of_a_volume_in_use_is_restored_into_one_of_its_own(web: SshGuest) -> None:
    serial = json.loads(web.cli("volume", "show", "data", "--cloud", CLOUD, "-o", "json"))["id"][:20]
    before = web.inside("cat /proc/sys/kernel/random/boot_id")
    web.cli("volume", "backup", "data", "--to", "open", "--cloud", CLOUD)
    web.inside(f"printf written-later | dd of=/dev/{web.device(serial)} conv=fsync status=none")
    assert web.inside("cat /proc/sys/kernel/random/boot_id") == before
    web.cli("volume", "create", "data2", "--cloud", CLOUD, "--size", "64M", "--image", "open")
    web.cli("volume", "attach", "data2", NAME, "--cloud", CLOUD)
    volume = json.loads(web.cli("volume", "show", "data2", "--cloud", CLOUD, "-o", "json"))
    assert web.inside(f"head -c 13 /dev/{web.device(volume['id'][:20])}") == "kept-for-ever"
    web.cli("volume", "detach", "data2", "--cloud", CLOUD)
    web.cli("volume", "rm", "data2", "--cloud", CLOUD)
    for image in ("open", "data-backup"):
        web.cli("image", "rm", image)


def test_keys_rotate_and_agents_are_upgraded_under_it(web: SshGuest) -> None:
    before = web.inside("cat /proc/sys/kernel/random/boot_id")
    web.cli("cloud", "rotate-keys", CLOUD)
    web.cli("blanket", "upgrade", web.show()["blanket"], "--cloud", CLOUD, timeout_s=600)
    assert web.inside("cat /proc/sys/kernel/random/boot_id") == before


def test_the_control_plane_ends_and_it_runs_on(web: SshGuest) -> None:
    before = web.inside("cat /proc/sys/kernel/random/boot_id")
    web.cli("down")
    web.cli("up")
    assert web.inside("cat /proc/sys/kernel/random/boot_id") == before


def test_it_stops_and_starts_with_its_disks(web: SshGuest) -> None:
    volume = json.loads(web.cli("volume", "show", "data", "--cloud", CLOUD, "-o", "json"))
    serial = volume["id"][:20]
    web.inside("echo written > /root/mark && sync")
    web.inside(f"printf before-a-stop | dd of=/dev/{web.device(serial)} conv=fsync status=none")
    epoch = web.show()["epoch"]
    web.cli("vm", "stop", NAME, "--cloud", CLOUD)
    assert web.show()["state"] == "stopped"
    web.cli("vm", "start", NAME, "--cloud", CLOUD)
    web.await_ssh()
    assert web.inside("cat /root/mark") == "written"
    assert web.show()["epoch"] > epoch
    assert web.inside(f"head -c 13 /dev/{web.device(serial)}") == "before-a-stop"


def test_removing_it_leaves_its_volume_to_be_removed(web: SshGuest) -> None:
    web.cli("vm", "rm", NAME, "--cloud", CLOUD, "--force")
    web.cli("volume", "rm", "data", "--cloud", CLOUD)
    names = {volume["name"] for volume in json.loads(web.cli("volume", "ls", "-o", "json"))}
    assert not names & {"data", f"{NAME}-root"}
