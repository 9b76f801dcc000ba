"""Build, find and check images.

python -m supercloud.images build                  everything that is not in the cache yet
python -m supercloud.images build --only guest
python -m supercloud.images path blanket           where it is
python -m supercloud.images digest                 of the blanket image
python -m supercloud.images verify blanket         build it again and compare, byte for byte
python -m supercloud.images relock                 new locks from what this machine's apt offers today
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from supercloud.images import blanket, guest
from supercloud.images.bundle import bundle_path
from supercloud.images.cache import file_digest
from supercloud.images.debian import relock, say
from supercloud.model.errors import SupercloudError

_KINDS = ("blanket", "bundle", "guest")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m supercloud.images", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing")
    build.add_argument("--only", choices=_KINDS)
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
                say(f"{kind}: {_path(kind)}")
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


def _path(kind: str) -> Path:
    match kind:
        case "blanket":
            return blanket.build_blanket()
        case "bundle":
            return bundle_path().parent
        case _:
            return guest.build_guest()


def _verify(kind: str) -> int:
    """Two builds from one lock must not differ."""
    first = _path(kind)
    with tempfile.TemporaryDirectory(prefix="supercloud-verify-") as scratch:
        Path(scratch).chmod(0o755)
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
