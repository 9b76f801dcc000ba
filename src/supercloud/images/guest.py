"""The demo's guest: an ordinary bootable Debian disk, made without root and without loop devices."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from supercloud.images.cache import built, digest_of
from supercloud.images.debian import MADE_OF, SOURCE_DATE_EPOCH, lock_in_force, lock_text, make_root, run, say

RECIPE = Path(__file__).parent / "recipe" / "guest"
_LEAVE_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


def packages() -> list[str]:
    """What the recipe asks for, before dependencies."""
    return (RECIPE / "packages").read_text().split()


def build_guest(*, exact: bool = False) -> Path:
    """The directory with `guest.qcow2`, from the cache where it is there."""
    files = [path for path in RECIPE.rglob("*") if path.is_file()]
    names = [str(path.relative_to(RECIPE)) for path in files]
    sources = [Path(__file__), Path(__file__).with_name("debian.py")]
    return built("guest", digest_of([*sources, *files], *names), partial(_build, exact))


def _build(exact: bool, into: Path) -> None:
    lock = lock_in_force(RECIPE, packages(), exact=exact)
    (into / MADE_OF).write_text(lock_text(lock))
    tarball, disk = into / "root.tar", into / "disk.raw"
    say(f"guest: installing {len(lock)} Debian packages (about a minute)")
    make_root(
        lock,
        tarball,
        included=packages(),
        recipe=RECIPE,
        leave_out=_LEAVE_OUT,
    )
    say("guest: making its disk")
    as_root = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto", "--mount"]
    clock = str(SOURCE_DATE_EPOCH)
    run(
        [*as_root, str(RECIPE / "make-disk"), str(tarball), str(into / "scratch"), str(disk)],
        env={"SOURCE_DATE_EPOCH": clock, "E2FSPROGS_FAKE_TIME": clock},
    )
    run(["qemu-img", "convert", "-O", "qcow2", "-c", str(disk), str(into / "guest.qcow2")])
    tarball.unlink()
    disk.unlink()
    for left in (into / "scratch").iterdir():
        left.unlink()
    (into / "scratch").rmdir()
