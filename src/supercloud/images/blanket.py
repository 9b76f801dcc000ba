"""The blanket image: kernel, initrd and a read-only root, from the recipe and the lock beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from supercloud.images.bundle import bundle_path
from supercloud.images.cache import built, digest_of, file_digest
from supercloud.images.debian import SOURCE_DATE_EPOCH, make_root, read_lock, run, say
from supercloud.images.initrd import Root, make_initrd
from supercloud.model.errors import NotFound
from supercloud.model.names import Digest
from supercloud.ports.platform import BlanketFiles

RECIPE = Path(__file__).parent / "recipe" / "blanket"
CMDLINE = "console=ttyS0 quiet net.ifnames=0 panic=1"
#: Never used in a blanket; leaving them out halves the root.
_LEAVE_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/qemu/edk2-*",
    "/usr/share/qemu/*aarch64*",
    "/usr/share/qemu/*arm*",
    "/usr/share/seabios/*-old*",
)
_FILES = ("vmlinuz", "initrd", "root.squashfs")


def packages() -> list[str]:
    """What the recipe asks for, before dependencies."""
    return (RECIPE / "packages").read_text().split()


def recipe_digest() -> str:
    """Changes when anything that can change the image changes."""
    sources = [Path(__file__), Path(__file__).with_name("debian.py"), Path(__file__).with_name("initrd.py")]
    files = [path for path in RECIPE.rglob("*") if path.is_file()]
    names = [str(path.relative_to(RECIPE)) for path in files]
    return digest_of([*sources, *files], *names, CMDLINE)


def build_blanket() -> Path:
    """The directory of the built image, from the cache where it is there."""
    return built("blanket", recipe_digest(), _build)


def _build(into: Path) -> None:
    lock = read_lock((RECIPE / "lock").read_text())
    tarball = into / "root.tar"
    say(f"blanket: installing {len(lock)} Debian packages (about a minute)")
    make_root(
        lock,
        tarball,
        included=packages(),
        customize=RECIPE / "customize",
        recipe=RECIPE,
        leave_out=_LEAVE_OUT,
    )
    say("blanket: packing")
    root = Root(tarball)
    (into / "vmlinuz").write_bytes(root.kernel)
    modules = root.modules((RECIPE / "initrd-modules").read_text().split())
    (into / "initrd").write_bytes(make_initrd(root.busybox, (RECIPE / "init").read_bytes(), modules))
    squash(tarball, into / "root.squashfs")
    tarball.unlink()
    (into / "manifest.json").write_text(json.dumps({name: file_digest(into / name) for name in _FILES}))


def squash(tarball: Path, into: Path) -> None:
    """A tarball as a squashfs that is the same each time; lz4, because a blanket under TCG unpacks it."""
    with tarball.open("rb") as source:
        run(
            [
                "sqfstar",
                "-quiet",
                "-no-progress",
                "-comp",
                "lz4",
                "-reproducible",
                "-mkfs-time",
                str(SOURCE_DATE_EPOCH),
                "-no-xattrs",
                str(into),
            ],
            stdin=source,
        )


def image_digest() -> Digest:
    """What a blanket is made of, apart from the agent's bundle."""
    directory = build_blanket()
    return digest_of([directory / name for name in _FILES], CMDLINE)


class BuiltImages:
    """ports.platform.BlanketImages over the cache."""

    def files(self, image: Digest) -> BlanketFiles:
        if image != image_digest():
            raise NotFound(f"there is no blanket image {image[:20]} here", hint="make images")
        directory = build_blanket()
        return BlanketFiles(
            kernel=directory / "vmlinuz",
            initrd=directory / "initrd",
            root=directory / "root.squashfs",
            bundle=bundle_path(),
            cmdline=CMDLINE,
        )


def remove_old(keep: Path) -> None:
    """Delete other builds of the same kind; running blankets keep their open files."""
    for other in keep.parent.iterdir():
        if other.is_dir() and other != keep and not other.name.startswith("."):
            shutil.rmtree(other, ignore_errors=True)
