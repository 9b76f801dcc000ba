"""The doctor's checks: what they say of machines that lack something."""

from __future__ import annotations

from pathlib import Path

import pytest

from supercloud.model.errors import Failed, NotFound
from supercloud.platforms import doctor
from supercloud.platforms.doctor import PROGRAMS, Verdict
from supercloud.platforms.qemu import accelerator
from supercloud.ports.platform import BlanketFiles

pytestmark = pytest.mark.unit


class Host:
    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes

    def free_memory_bytes(self) -> int:
        return self._free_bytes

    def free_disk_bytes(self, path: Path) -> int:
        return self._free_bytes


class Unbuilt:
    def current(self) -> str:
        raise NotFound("none", hint="make images")

    def files(self, image: str) -> BlanketFiles:
        raise AssertionError


def test_missing_programs_come_with_the_command_that_installs_them(tmp_path: Path) -> None:
    (tmp_path / "qemu-img").touch(mode=0o755)
    checks = {check.name: check for check in doctor.programs(str(tmp_path))}
    assert checks.keys() == PROGRAMS.keys()
    assert checks["qemu-img"].verdict is Verdict.OK
    missing = checks["mmdebstrap"]
    assert missing.verdict is Verdict.BAD
    assert missing.hint == "apt-get install --no-install-recommends mmdebstrap"


def test_every_program_comes_from_a_package_that_setup_installs() -> None:
    listed = (Path(__file__).parents[2] / "debian-packages.txt").read_text().split()
    assert {package for package, _ in PROGRAMS.values()} <= set(listed)


def test_old_python() -> None:
    assert doctor.python((3, 11)).verdict is Verdict.OK
    assert doctor.python((3, 10)).verdict is Verdict.BAD


def test_device_that_is_absent_is_a_drawback_only(tmp_path: Path) -> None:
    check = doctor.device(tmp_path / "kvm")
    assert (check.verdict, check.found) == (Verdict.WARN, "missing")


def test_little_memory_and_disk(tmp_path: Path) -> None:
    assert doctor.memory(Host(1 << 30)).verdict is Verdict.WARN
    assert doctor.disk(Host(1 << 30), tmp_path).verdict is Verdict.WARN
    assert doctor.memory(Host(1 << 40)).verdict is Verdict.OK
    assert doctor.disk(Host(1 << 40), tmp_path).verdict is Verdict.OK


async def test_examination_of_a_machine_without_qemu_or_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(accelerator.command, "BINARY", "qemu-that-is-not-there")
    checks = {
        check.name: check
        for check in await doctor.examine(Unbuilt(), state_dir=tmp_path / "not" / "yet", host=Host(1 << 40))
    }
    assert checks["qemu"].verdict is Verdict.BAD
    assert checks["qemu"].hint.startswith("apt-get install")
    assert checks["accelerator"].verdict is Verdict.BAD
    assert (checks["blanket image"].verdict, checks["blanket image"].hint) == (Verdict.WARN, "make images")
    assert checks["disk"].found.endswith(str(tmp_path))


async def test_an_image_whose_bundle_cannot_be_built_is_one_line_among_the_others(tmp_path: Path) -> None:
    class Away(Unbuilt):
        def current(self) -> str:
            return "sha256:" + "0" * 64

        def files(self, image: str) -> BlanketFiles:
            raise Failed("pip failed (1): no network")

    found = await doctor.examine(Away(), state_dir=tmp_path, host=Host(1 << 40))
    checks = {check.name: check for check in found}
    image = checks["blanket image"]
    assert (image.verdict, image.hint) == (Verdict.BAD, "make images") and "no network" in image.found
    assert "memory" in checks


@pytest.mark.parametrize(
    ("refuses", "found", "hint"),
    [
        ("--user", "unshare failed", "unprivileged_userns_clone=1"),
        ("--map-auto", "/etc/subuid", "usermod --add-subuids 100000-165535"),
        ("--nothing", "allowed", ""),
    ],
)
async def test_an_ordinary_user_needs_namespaces_with_users_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str, found: str, hint: str
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text(
        f'#!/bin/sh\ncase "$*" in *{refuses}*) echo unshare failed >&2; exit 1;; esac\nexit 0\n'
    )
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    check = await doctor.namespaces()
    assert found in check.found and hint in check.hint
    assert check.verdict is (Verdict.BAD if hint else Verdict.OK)


async def test_without_unshare_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    check = await doctor.namespaces()
    assert check.verdict is Verdict.BAD and "No such file" in check.found


def test_a_micro_hypervisor_that_is_not_built_comes_with_how_to_build_it(tmp_path: Path) -> None:
    class Sources(Unbuilt):
        def microhypervisor(self) -> Path:
            raise NotFound("not built", hint="make images")

    (tmp_path / "make").touch(mode=0o755)
    check = doctor.microhypervisor(Sources(), str(tmp_path))
    assert check.verdict is Verdict.WARN
    assert check.hint == (
        "apt-get install --no-install-recommends gcc libsodium-dev acpica-tools; make images"
    )

    class Built(Unbuilt):
        def microhypervisor(self) -> Path:
            return Path("/cache/microhypervisor.elf")

    assert doctor.microhypervisor(Built()).verdict is Verdict.OK
