"""The blanket image: kernel, initrd and a read-only root, from the recipe and the lock beside it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from supercloud.images.bundle import bundle_path
from supercloud.images.cache import built, cache_directory, cached, digest_of, file_digest
from supercloud.images.debian import MADE_OF, SOURCE_DATE_EPOCH, lock_in_force, lock_text, make_root, run, say
from supercloud.images.initrd import Root, make_initrd
from supercloud.images.microhypervisor import built_microhypervisor
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
#: lz4, because a blanket under TCG unpacks it.
_SQUASH = (
    "-quiet",
    "-no-progress",
    "-comp",
    "lz4",
    "-reproducible",
    "-no-xattrs",
    # The tarball says nothing of its root: without this it is whoever's build it is, and open to everybody.
    "-root-mode",
    "755",
    "-root-uid",
    "0",
    "-root-gid",
    "0",
)
_KIND = "blanket"
_MANIFEST = "manifest.json"
_FILES = ("vmlinuz", "initrd", "root.squashfs")


def packages() -> list[str]:
    """What the recipe asks for, before dependencies."""
    return (RECIPE / "packages").read_text().split()


def recipe_digest() -> str:
    """Changes when anything that can change the image changes."""
    here = Path(__file__)
    files = [path for path in RECIPE.rglob("*") if path.is_file()]
    names = [f"{path.relative_to(RECIPE)} {file_digest(path)}" for path in files]
    sources = [here.with_name(name) for name in ("debian.py", "initrd.py")]
    return digest_of([*sources, *files], *names, *_LEAVE_OUT, *_SQUASH, CMDLINE)


def build_blanket(*, exact: bool = False) -> Path:
    """The directory of the built image, from the cache where it is there."""
    return built(_KIND, recipe_digest(), partial(_build, exact))


def _build(exact: bool, into: Path) -> None:
    lock = lock_in_force(RECIPE, packages(), exact=exact)
    (into / MADE_OF).write_text(lock_text(lock))
    tarball = into / "root.tar"
    say(f"blanket: installing {len(lock)} Debian packages (about a minute)")
    make_root(
        lock,
        tarball,
        included=packages(),
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
    manifest = {
        "image": digest_of([into / name for name in _FILES], CMDLINE),
        "cmdline": CMDLINE,
        "files": {name: file_digest(into / name) for name in _FILES},
    }
    (into / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def squash(tarball: Path, into: Path) -> None:
    """A tarball as a squashfs that is the same each time, its root's time and its own included.

    Debian's `sqfstar` takes `-root-time` and does not heed it.
    """
    with tarball.open("rb") as source:
        env = {"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH)}
        run(["sqfstar", *_SQUASH, str(into)], stdin=source, env=env)


def image_digest() -> Digest:
    """What a blanket is made of, apart from the agent's bundle."""
    return _manifest(build_blanket())[0]


def _manifest(directory: Path) -> tuple[Digest, str]:
    """An image's digest and its kernel command line, as they were when it was built."""
    manifest = json.loads((directory / _MANIFEST).read_text())
    return manifest["image"], manifest["cmdline"]


class BuiltImages:
    """ports.platform.MicrohypervisorImages over the cache.

    A blanket keeps the image that it was made with, so images of earlier recipes are found as well.
    """

    def current(self) -> Digest:
        """The image of today's recipe. Raises NotFound unless it is built."""
        found = cached(_KIND, recipe_digest())
        if found is None:
            raise NotFound("no blanket image of this recipe is built here", hint="make images")
        return _manifest(found)[0]

    def microhypervisor(self) -> Path:
        """That of today's sources. Raises NotFound unless it is built."""
        return built_microhypervisor()

    def files(self, image: Digest) -> BlanketFiles:
        """The files of `image`. Only the bundle is ever built here, when the agent's code has changed.

        Raises:
            NotFound: no such image was built on this machine, or it was removed.
        """
        for manifest in sorted((cache_directory() / _KIND).glob(f"*/{_MANIFEST}")):
            if json.loads(manifest.read_text()).get("image") == image:
                return BlanketFiles(
                    kernel=manifest.with_name("vmlinuz"),
                    initrd=manifest.with_name("initrd"),
                    root=manifest.with_name("root.squashfs"),
                    bundle=bundle_path(),
                    cmdline=_manifest(manifest.parent)[1],
                )
        raise NotFound(f"there is no blanket image {image[:20]} here", hint="make images")
