"""Build, find and check images.

python -m supercloud.images build                  everything that is not in the cache yet
python -m supercloud.images build --only guest
python -m supercloud.images build --exact          from the locks' own packages, or not at all
python -m supercloud.images path blanket           where it is
python -m supercloud.images digest                 of the blanket image
python -m supercloud.images verify blanket         build it again and compare, byte for byte
python -m supercloud.images relock                 new locks from what this machine's apt offers today
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from supercloud.images import blanket, guest
from supercloud.images.bundle import bundle_path
from supercloud.images.cache import cache_directory, file_digest
from supercloud.images.debian import MADE_OF, relock, say
from supercloud.images.microhypervisor import build_microhypervisor
from supercloud.model.errors import Failed, SupercloudError

_KINDS = ("blanket", "bundle", "guest", "microhypervisor")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m supercloud.images", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing")
    build.add_argument("--only", choices=_KINDS)
    build.add_argument(
        "--exact",
        action="store_true",
        help="refuse when Debian offers newer packages only, instead of building from those",
    )
    path = commands.add_parser("path", help="print where an image is, building it if needed")
    path.add_argument("kind", choices=_KINDS)
    commands.add_parser("digest", help="print the blanket image's digest")
    verify = commands.add_parser("verify", help="build again elsewhere and compare")
    verify.add_argument("kind", choices=_KINDS)
    commands.add_parser("relock", help="resolve the Debian packages again")
    asked = parser.parse_args()
    try:
        return _run(asked)
    except SupercloudError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"images: {error.message}{hint}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _run(asked: argparse.Namespace) -> int:
    match asked.command:
        case "build":
            for kind in (asked.only,) if asked.only else _KINDS:
                say(f"{kind}: {_path(kind, exact=asked.exact)}")
        case "path":
            sys.stdout.write(f"{_path(asked.kind)}\n")
        case "digest":
            sys.stdout.write(f"{blanket.image_digest()}\n")
        case "relock":
            for recipe, wanted in ((blanket.RECIPE, blanket.packages()), (guest.RECIPE, guest.packages())):
                text = relock(wanted)
                (recipe / "lock").write_text(text)
                say(f"{recipe.name}: {len(text.splitlines())} packages")
        case "verify":
            return _verify(asked.kind)
    return 0


def _path(kind: str, *, exact: bool = False) -> Path:
    """Where it is, built if need be.

    Raises:
        Failed: as `lock_in_force`; or `exact`, and it was built before from other packages than the lock's.
    """
    match kind:
        case "blanket":
            return _as_asked(blanket.RECIPE, blanket.build_blanket(exact=exact), exact)
        case "bundle":
            return bundle_path().parent
        case "microhypervisor":
            return build_microhypervisor()
        case _:
            return _as_asked(guest.RECIPE, guest.build_guest(exact=exact), exact)


def _as_asked(recipe: Path, found: Path, exact: bool) -> Path:
    if exact and (found / MADE_OF).read_text() != (recipe / "lock").read_text():
        raise Failed(
            f"the {recipe.name} here was made of newer packages than its lock names",
            hint=f"remove {found} and build again",
        )
    return found


def _verify(kind: str) -> int:
    """Two builds from one lock must not differ."""
    first = _path(kind)
    locks = cache_directory() / "locks"
    with tempfile.TemporaryDirectory(prefix="supercloud-verify-") as scratch:
        Path(scratch).chmod(0o755)
        if locks.is_dir():
            shutil.copytree(locks, Path(scratch, locks.name))
        cache = os.environ.get("SUPERCLOUD_CACHE")
        os.environ["SUPERCLOUD_CACHE"] = scratch
        try:
            second = _path(kind)
        finally:
            if cache is None:
                del os.environ["SUPERCLOUD_CACHE"]
            else:
                os.environ["SUPERCLOUD_CACHE"] = cache
        differing = [
            file.name
            for file in sorted(first.iterdir())
            if file.is_file() and file_digest(file) != file_digest(second / file.name)
        ]
    for name in differing:
        say(f"{kind}: {name} differs between two builds")
    if not differing:
        say(f"{kind}: two builds are the same, byte for byte")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
