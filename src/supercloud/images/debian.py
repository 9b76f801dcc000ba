"""Debian packages, exactly those of a lock: resolve, download, verify, and unpack as a root file system.

A lock names each `.deb` by package, version, architecture and SHA-256. Building uses no other: the packages
are fetched through this machine's own apt, verified, and put into a repository of their own from which
mmdebstrap works. So the same lock gives the same files, wherever they were fetched from.

A mirror keeps one version of each package. Where Debian has updated some since a lock was committed, one of
today's takes its place on this machine (`lock_in_force`), with no package older than the committed one's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import IO
from urllib.parse import unquote

from supercloud.images.cache import cache_directory, digest_of, file_digest
from supercloud.model.errors import Failed, InvalidInput

SUITE = "bookworm"
#: Every time in an image: the day the first lock was made. Reproducibility needs one, not a true one.
SOURCE_DATE_EPOCH = 1_795_392_000
_RELOCK = "python -m supercloud.images relock"
_LOCK = "lock"  # in a recipe
#: What an image was really made of, beside it.
MADE_OF = "packages.lock"


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One line of a lock."""

    name: str
    version: str
    architecture: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.architecture} {self.sha256}"


_LINE = re.compile(r"([a-z0-9][a-z0-9.+-]+) ([A-Za-z0-9.+~:-]+) ([a-z0-9]+) ([0-9a-f]{64})")


def read_lock(text: str) -> list[Package]:
    """The packages of a lock.

    Raises:
        InvalidInput: a line is not a package.
    """
    packages = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidInput(f"line {number} of the lock is not a package: {line[:80]!r}")
        packages.append(Package(*match.groups()))
    return packages


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> str:
    """Standard output of a tool, or nothing where it goes to the file `stdout`.

    Raises:
        Failed: it is missing, or it failed; the last lines of what it said are in the message.
    """
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise Failed(f"{argv[0]} is not installed", hint="make packages") from error
    if done.returncode != 0:
        said = " / ".join((done.stderr.strip() or (done.stdout or "").strip()).splitlines()[-4:])
        raise Failed(f"{argv[0]} failed ({done.returncode}): {said}")
    return done.stdout or ""


class Apt:
    """apt with the machine's sources and keys, but state of its own and nothing installed: needs no root."""

    def __init__(self, state: Path) -> None:
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        (state / "status").write_text("")
        self._archives = state / "cache/archives"
        self._options = [
            f"-oDir::State={state}",
            f"-oDir::State::lists={state}/lists",
            f"-oDir::State::status={state}/status",
            f"-oDir::Cache={state}/cache",
            "-oDebug::NoLocking=1",
            "-oAPT::Sandbox::User=",
            "-oAPT::Architecture=amd64",
            "-oAPT::Install-Recommends=0",
            "-oAcquire::ForceHash=SHA256",  # what --print-uris shows; the default is MD5
        ]

    def update(self) -> None:
        run(["apt-get", *self._options, "-qq", "update"])

    def closure(self, wanted: Sequence[str]) -> list[Package]:
        """`wanted`, the essential packages, and all that they depend on, as apt would choose today."""
        said = run(
            ["apt-get", *self._options, "-y", "--print-uris", "-qq", "install", "?essential", "apt", *wanted]
        )
        packages = []
        for line in said.splitlines():
            match = re.fullmatch(r"'[^']+' (\S+)_(\S+)_(\S+)\.deb \d+ SHA256:([0-9a-f]{64})", line)
            if match:
                name, version, architecture, sha256 = match.groups()
                packages.append(Package(name, unquote(version), architecture, sha256))
        return sorted(packages)

    def download(self, packages: Sequence[Package], into: Path) -> None:
        """Fetch what `into` does not hold yet, as `<sha256>.deb`.

        Raises:
            Failed: a version is not offered any more, or its bytes are not the lock's.
        """
        missing = [package for package in packages if not (into / f"{package.sha256}.deb").exists()]
        if not missing:
            return
        with TemporaryDirectory(dir=into) as scratch:
            wanted = [f"{package.name}:{_native(package)}={package.version}" for package in missing]
            try:
                run(["apt-get", *self._options, "-qq", "download", *wanted], cwd=Path(scratch))
            except Failed as error:
                raise Failed(f"a package of the lock cannot be downloaded: {error.message}") from error
            for file in Path(scratch).glob("*.deb"):
                file.replace(into / f"{file_digest(file).removeprefix('sha256:')}.deb")
        lost = [package for package in missing if not (into / f"{package.sha256}.deb").exists()]
        if lost:
            raise Failed(
                f"{lost[0].name} {lost[0].version} is not the file of the lock", hint=f"look, then: {_RELOCK}"
            )


def _native(package: Package) -> str:
    return "amd64" if package.architecture == "all" else package.architecture


def relock(wanted: Sequence[str]) -> str:
    """The text of a new lock, as this machine's apt sources offer the packages today."""
    with TemporaryDirectory() as scratch:
        apt = Apt(Path(scratch))
        apt.update()
        return lock_text(apt.closure(wanted))


def lock_text(packages: Sequence[Package]) -> str:
    return "".join(f"{package}\n" for package in packages)


def lock_in_force(recipe: Path, wanted: Sequence[str], *, exact: bool = False) -> list[Package]:
    """The packages to build `recipe` from, all of them downloaded: those of its lock while they can be had.

    If Debian offers newer versions only, all is resolved anew and kept in the cache, so that this machine
    goes on with that; apt verifies the index by Debian's keys, as when the committed lock was made.

    Raises:
        Failed: there is no way to the packages; one is older than the committed lock's; or `exact`, and the
            lock's own cannot be had.
    """
    committed = read_lock((recipe / _LOCK).read_text())
    into = cache_directory() / "debs"
    into.mkdir(parents=True, exist_ok=True)
    if _all_there(committed, into):
        return committed
    followed = cache_directory() / "locks" / digest_of([recipe / _LOCK]).removeprefix("sha256:")[:16]
    if not exact and followed.exists() and _all_there(found := read_lock(followed.read_text()), into):
        return found
    with TemporaryDirectory() as scratch:
        apt = Apt(Path(scratch))
        apt.update()
        try:
            apt.download(committed, into)
        except Failed as error:
            today = apt.closure(wanted)
            if today == committed:  # then it is not for want of the versions
                raise
            if exact:
                raise Failed(
                    error.message, hint=f"build without --exact, or make new locks: {_RELOCK}"
                ) from error
            _tell_of(newer(committed, today), recipe)
            apt.download(today, into)
            _keep(lock_text(today), followed)
            return today
    return committed


def _all_there(packages: Sequence[Package], debs: Path) -> bool:
    return all((debs / f"{package.sha256}.deb").exists() for package in packages)


def _keep(text: str, at: Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=at.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(at)


def newer(committed: Sequence[Package], today: Sequence[Package]) -> list[str]:
    """What differs, for people to read.

    Raises:
        Failed: a package is offered in an older version: an old mirror, or somebody who holds updates back.
    """
    before = {package.name: package.version for package in committed}
    said = []
    for package in today:
        was = before.get(package.name)
        if was == package.version:
            continue
        if was is not None and not _is_newer(package.version, was):
            raise Failed(
                f"your mirror offers {package.name} {package.version}, older than the lock's {was}",
                hint="choose a mirror that is up to date in apt's sources",
            )
        said.append(f"{package.name} {was or 'not there'} -> {package.version}")
    return said


def _is_newer(version: str, than: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", version, "gt", than], check=False).returncode == 0


def _tell_of(changes: Sequence[str], recipe: Path) -> None:
    say(f"{recipe.name}: Debian offers no longer what the lock names; building from what it offers today:")
    for change in changes:
        say(f"  {change}")


def _repository(packages: Sequence[Package], at: Path) -> None:
    """A flat apt repository of exactly these packages, which have been downloaded."""
    debs = cache_directory() / "debs"
    index = []
    for package in packages:
        deb = debs / f"{package.sha256}.deb"
        link = at / f"{package.name}_{package.sha256[:12]}.deb"
        try:
            os.link(deb, link)
        except OSError:  # the cache is on another file system
            shutil.copyfile(deb, link)
        control = run(["dpkg-deb", "--field", str(deb)]).rstrip("\n")
        index.append(
            f"{control}\nFilename: ./{link.name}\nSize: {link.stat().st_size}\nSHA256: {package.sha256}\n\n"
        )
    (at / "Packages").write_text("".join(index))


def make_root(
    packages: Sequence[Package],
    tarball: Path,
    *,
    included: Sequence[str],
    recipe: Path,
    leave_out: Sequence[str] = (),
) -> None:
    """A root file system of these packages as a tarball, byte for byte the same each time.

    The recipe's program `customize` is run as `customize ROOT RECIPE` before the root is packed.
    """
    # Not in the cache: without root, another user id of a namespace reads these files, and homes are private.
    with TemporaryDirectory(prefix="supercloud-", ignore_cleanup_errors=True) as scratch:
        at, repository, rules = Path(scratch), Path(scratch, "repository"), Path(scratch, "recipe")
        repository.mkdir(mode=0o755)
        _repository(packages, repository)
        shutil.copytree(recipe, rules)
        at.chmod(0o755)
        with tarball.open("wb") as out:
            run(
                [
                    "mmdebstrap",
                    "--quiet",
                    # The recipe has cleaned up, the root's configuration of apt as well. Without it apt would
                    # clean this machine: root loses its package lists by that, and nobody else may.
                    "--skip=cleanup/apt",
                    "--variant=apt",
                    "--format=tar",
                    "--architectures=amd64",
                    f"--include={','.join(included)}",
                    "--aptopt=Apt::Install-Recommends false",
                    *(f"--dpkgopt=path-exclude={path}" for path in leave_out),
                    f'--customize-hook={rules}/customize "$1" {rules}',
                    SUITE,
                    "-",
                    f"deb [trusted=yes] copy:{repository} ./",
                ],
                # The home, too, is closed to the namespace's user, and apt fails over it.
                env={"SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH), "TMPDIR": scratch, "HOME": "/"},
                stdout=out,
            )


def say(text: str) -> None:
    """Progress of a build, for whoever watches."""
    sys.stderr.write(f"images: {text}\n")
