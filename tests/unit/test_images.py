"""Locks, archives and the cache of built images."""

from __future__ import annotations

import ast
import hashlib
import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from supercloud.images import blanket, bundle, cache, debian, guest
from supercloud.images.initrd import Root, make_initrd
from supercloud.model.errors import Failed, InvalidInput, NotFound

pytestmark = pytest.mark.unit

DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUPERCLOUD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def package(name: str, version: str) -> debian.Package:
    return debian.Package(name, version, "amd64", hashlib.sha256(_deb(name, version)).hexdigest())


def _deb(name: str, version: str) -> bytes:
    return f"{name} {version}".encode()


class Mirror:
    """A recipe, and in place of apt-get a mirror that has one version of each package."""

    def __init__(self, at: Path) -> None:
        self.committed = [package("hello", "1.0-1+deb12u1")]
        self.offers = self.committed
        self.away = False
        self.updates = 0
        self.recipe = at / "recipe"
        self.recipe.mkdir()
        (self.recipe / "lock").write_text(debian.lock_text(self.committed))
        self.debs = at / "cache" / "debs"

    def fetch(self, wanted: debian.Package) -> None:
        self.debs.mkdir(parents=True, exist_ok=True)
        (self.debs / f"{wanted.sha256}.deb").write_bytes(_deb(wanted.name, wanted.version))

    def run(self, argv: list[str], *, cwd: Path = Path(), **_: object) -> str:
        if self.away:
            raise Failed("apt-get failed (100): the mirror is away")
        if "update" in argv:
            self.updates += 1
        elif "install" in argv:
            return "".join(
                f"'https://mirror/{one.name}.deb' {one.name}_{one.version}_amd64.deb 1 SHA256:{one.sha256}\n"
                for one in self.offers
            )
        elif "download" in argv:
            for name, version in (one.split(":amd64=") for one in argv[argv.index("download") + 1 :]):
                if package(name, version) not in self.offers:
                    raise Failed(f"apt-get failed (100): E: Version '{version}' for '{name}' was not found")
                (cwd / f"{name}.deb").write_bytes(_deb(name, version))
        return ""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    made = Mirror(tmp_path)
    monkeypatch.setattr(debian, "run", made.run)
    return made


class TestLock:
    def test_every_line_is_a_package_and_is_written_as_it_was_read(self) -> None:
        text = f"libc6 2.36-9+deb12u14 amd64 {DIGEST}\nqemu 1:7.2+dfsg~rc1 all {DIGEST}\n"
        assert "".join(f"{package}\n" for package in debian.read_lock(text)) == text

    @pytest.mark.parametrize(
        "line",
        [
            f"libc6 2.36 amd64 {DIGEST[:-1]}",
            f"libc6 2.36 amd64 {DIGEST.upper()}",
            f"../../etc 2.36 amd64 {DIGEST}",
            f"libc6 -oAPT::Option=1;x amd64 {DIGEST}",
            f"--option 1 amd64 {DIGEST}",
            "libc6",
        ],
    )
    def test_anything_else_is_refused_by_its_line(self, line: str) -> None:
        with pytest.raises(InvalidInput, match="line 2"):
            debian.read_lock(f"# a remark\n{line}\n")

    @pytest.mark.parametrize("recipe", [blanket.RECIPE, guest.RECIPE], ids=lambda recipe: recipe.name)
    def test_a_committed_lock_holds_all_that_its_recipe_asks_for(self, recipe: Path) -> None:
        locked = {package.name for package in debian.read_lock((recipe / "lock").read_text())}
        assert set((recipe / "packages").read_text().split()) <= locked

    @pytest.mark.parametrize("lock", [blanket.RECIPE / "lock", guest.RECIPE / "lock", bundle.LOCK], ids=str)
    def test_a_committed_lock_names_no_host(self, lock: Path) -> None:
        assert "://" not in lock.read_text()

    def test_what_is_in_the_cache_is_used_and_nobody_is_asked(self, mirror: Mirror) -> None:
        mirror.offers = []
        for package in mirror.committed:
            mirror.fetch(package)
        assert debian.lock_in_force(mirror.recipe, ["hello"]) == mirror.committed
        assert mirror.updates == 0

    def test_the_locks_own_versions_are_taken_while_they_are_offered(self, mirror: Mirror) -> None:
        assert debian.lock_in_force(mirror.recipe, ["hello"], exact=True) == mirror.committed

    def test_of_what_is_offered_no_longer_the_newer_version_is_taken_and_kept(
        self, mirror: Mirror, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mirror.offers = today = [package("hello", "1.0-1+deb12u2"), package("libhello", "2")]
        assert debian.lock_in_force(mirror.recipe, ["hello"]) == today
        said = capsys.readouterr().err
        assert "hello 1.0-1+deb12u1 -> 1.0-1+deb12u2" in said and "libhello not there -> 2" in said
        mirror.offers = [package("hello", "1.0-1+deb12u3")]
        assert debian.lock_in_force(mirror.recipe, ["hello"]) == today, "this machine goes on with it"

    def test_nothing_older_than_the_lock_is_taken(self, mirror: Mirror) -> None:
        mirror.offers = [package("hello", "1.0-1")]
        with pytest.raises(Failed, match=r"offers hello 1\.0-1, older than the lock's 1\.0-1\+deb12u1"):
            debian.lock_in_force(mirror.recipe, ["hello"])
        assert not list(mirror.debs.glob("*.deb"))

    def test_exactly_or_not_at_all(self, mirror: Mirror) -> None:
        mirror.offers = [package("hello", "1.0-1+deb12u2")]
        with pytest.raises(Failed, match="not found") as caught:
            debian.lock_in_force(mirror.recipe, ["hello"], exact=True)
        assert "--exact" in (caught.value.hint or "")

    def test_a_mirror_that_is_away_is_no_reason_for_another_lock(self, mirror: Mirror) -> None:
        mirror.away = True
        with pytest.raises(Failed, match="away"):
            debian.lock_in_force(mirror.recipe, ["hello"])

    def test_another_file_under_the_locked_name_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def apt_get(*_: object, cwd: Path, **__: object) -> str:
            (cwd / "hello_1.0_amd64.deb").write_bytes(b"not what was locked")
            return ""

        monkeypatch.setattr(debian, "run", apt_get)
        with pytest.raises(Failed, match=r"hello 1\.0 is not the file of the lock"):
            debian.Apt(tmp_path).download([debian.Package("hello", "1.0", "amd64", DIGEST)], tmp_path)


class TestRoot:
    @pytest.mark.parametrize("recipe", [blanket.RECIPE, guest.RECIPE], ids=lambda path: path.name)
    def test_this_machines_own_apt_is_left_alone(
        self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The recipe empties the root's /tmp, where mmdebstrap has the configuration by which apt knows the
        root. What apt is told after that, it does to this machine: so it is told nothing."""
        assert 'rm -rf "$root"' in (recipe / "customize").read_text()
        told: list[list[str]] = []
        monkeypatch.setattr(debian, "run", lambda argv, **_: told.append(list(argv)))
        debian.make_root([], tmp_path / "root.tar", included=["bash"], recipe=recipe)
        (argv,) = told
        hook = next(word for word in argv if word.startswith("--customize-hook"))
        assert "--skip=cleanup/apt" in argv[: argv.index(hook)]


class TestSquash:
    def test_it_is_the_same_whoever_builds_it_and_whenever(self, tmp_path: Path) -> None:
        """What a tarball says nothing of, its root, is nobody's in particular and not open to everybody."""
        tarball = tmp_path / "root.tar"
        with tarfile.open(tarball, "w") as archive:
            entry = tarfile.TarInfo("./etc")
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, debian.SOURCE_DATE_EPOCH
            archive.addfile(entry)
        first, second = tmp_path / "first", tmp_path / "second"
        blanket.squash(tarball, first)
        listed = subprocess.run(["unsquashfs", "-lln", first], check=True, capture_output=True, text=True)
        mode, owner, _, day, *_ = listed.stdout.splitlines()[0].split()
        assert (mode, owner) == ("drwxr-xr-x", "0/0")
        moment = datetime.fromtimestamp(debian.SOURCE_DATE_EPOCH, UTC)
        assert day == moment.strftime("%Y-%m-%d")
        time.sleep(1.1)  # another second on the clock
        blanket.squash(tarball, second)
        assert first.read_bytes() == second.read_bytes()


class TestDisk:
    def test_its_tools_are_found_where_a_user_does_not_look(self, tmp_path: Path) -> None:
        """Debian's users have no sbin in their PATH."""
        bare = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        script = (guest.RECIPE / "make-disk").read_text()
        begins = script[: script.index("tarball=$1")]
        found = subprocess.run(
            ["sh", "-c", f"{begins}\ncommand -v mke2fs tune2fs sfdisk"],
            check=False,
            capture_output=True,
            env=bare,
        )
        assert found.returncode == 0, found.stderr


class TestInitrd:
    def test_the_same_input_gives_the_same_bytes(self) -> None:
        arguments = (b"busybox", b"#!/bin/busybox sh\n", [("virtio", b"1"), ("virtio_blk", b"22")])
        assert make_initrd(*arguments) == make_initrd(*arguments)

    @pytest.mark.skipif(shutil.which("cpio") is None, reason="there is no cpio to compare with")
    def test_cpio_reads_what_was_packed(self, tmp_path: Path) -> None:
        archive = make_initrd(b"the busybox", b"the init", [("virtio", b"one"), ("virtio_blk", b"two")])
        unpacked = subprocess.run(["gzip", "-dc"], input=archive, capture_output=True, check=True).stdout
        subprocess.run(["cpio", "-id", "--quiet"], input=unpacked, cwd=tmp_path, check=True)
        assert (tmp_path / "init").read_bytes() == b"the init"
        assert os.access(tmp_path / "init", os.X_OK)
        assert (tmp_path / "bin/busybox").read_bytes() == b"the busybox"
        modules = [(file.name, file.read_bytes()) for file in sorted((tmp_path / "modules").iterdir())]
        assert modules == [("00-virtio.ko", b"one"), ("01-virtio_blk.ko", b"two")]

    @staticmethod
    def tarball(tmp_path: Path, files: dict[str, bytes]) -> Path:
        path = tmp_path / "root.tar"
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    def test_a_module_comes_after_those_it_needs(self, tmp_path: Path) -> None:
        at = "./usr/lib/modules/6.1"
        files = {
            f"{at}/kernel/{name}.ko": name.encode()
            for name in ("virtio", "virtio_ring", "virtio-rng", "loop")
        }
        files[f"{at}/modules.dep"] = (
            b"kernel/virtio-rng.ko: kernel/virtio.ko kernel/virtio_ring.ko\n"
            b"kernel/virtio.ko: kernel/virtio_ring.ko\nkernel/virtio_ring.ko:\nkernel/loop.ko:\n"
        )
        root = Root(self.tarball(tmp_path, files))
        assert [name for name, _ in root.modules(["virtio_rng"])] == ["virtio_ring", "virtio", "virtio_rng"]
        with pytest.raises(Failed, match="no module nbd"):
            root.modules(["nbd"])


def _build_slowly(cache_at: str, log: str) -> None:
    os.environ["SUPERCLOUD_CACHE"] = cache_at

    def build(into: Path) -> None:
        with Path(log).open("a") as out:
            out.write("built\n")
        (into / "file").write_bytes(os.urandom(8))

    path = cache.built("thing", "sha256:" + DIGEST, build)
    with Path(log).open("a") as out:
        out.write((path / "file").read_bytes().hex() + "\n")


class TestCache:
    def test_of_several_builders_at_once_one_builds_and_all_find_it(
        self, own_cache: Path, tmp_path: Path
    ) -> None:
        context = multiprocessing.get_context("spawn")
        log = tmp_path / "log"
        builders = [context.Process(target=_build_slowly, args=(str(own_cache), str(log))) for _ in range(3)]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join(60)
            assert builder.exitcode == 0
        lines = log.read_text().splitlines()
        assert lines.count("built") == 1
        assert len({line for line in lines if line != "built"}) == 1

    def test_an_interrupted_build_leaves_nothing(self, own_cache: Path) -> None:
        def interrupted(into: Path) -> None:
            (into / "half").write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.built("thing", DIGEST, interrupted)
        assert [path.name for path in (own_cache / "thing").iterdir()] == [".lock"]

    def test_what_a_killed_builder_left_is_removed_by_the_next(self, own_cache: Path) -> None:
        left = own_cache / "thing" / ".building-killed"
        left.mkdir(parents=True)
        found = cache.built("thing", DIGEST, lambda into: None)
        assert found.is_dir()
        assert not left.exists()

    def test_a_digest_is_of_names_and_bytes(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_text("same")
        two.write_text("same")
        assert cache.digest_of([one, two]) == cache.digest_of([two, one])
        assert len({cache.digest_of([one]), cache.digest_of([two]), cache.digest_of([one], "word")}) == 3


class TestBlanketImages:
    def test_an_image_of_an_earlier_recipe_is_found_by_its_digest(
        self, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(blanket, "bundle_path", lambda: tmp_path / "bundle.squashfs")
        for key, digest in (("old", "sha256:" + "1" * 64), ("new", "sha256:" + "2" * 64)):
            (own_cache / "blanket" / key).mkdir(parents=True)
            (own_cache / "blanket" / key / "manifest.json").write_text(
                f'{{"image": "{digest}", "cmdline": "console={key}"}}'
            )
        files = blanket.BuiltImages().files("sha256:" + "1" * 64)
        assert files.cmdline == "console=old"
        assert files.root == own_cache / "blanket" / "old" / "root.squashfs"
        with pytest.raises(NotFound):
            blanket.BuiltImages().files("sha256:" + "3" * 64)

    def test_the_key_of_the_recipe_follows_every_file_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = tmp_path / "recipe"
        (recipe / "services" / "agent").mkdir(parents=True)
        for name in ("packages", "services/agent/run"):
            (recipe / name).write_text(name)
        monkeypatch.setattr(blanket, "RECIPE", recipe)
        before = blanket.recipe_digest()
        (recipe / "services/agent/run").write_text("changed")
        assert blanket.recipe_digest() != before


class TestBundle:
    def test_it_has_a_lock_for_everything_that_its_code_imports(self) -> None:
        """Besides them: the standard library, ourselves and libvirt."""
        locked = {
            name.replace("-", "_").lower()
            for name in re.findall(r"^([\w.-]+)==", bundle.LOCK.read_text(), re.MULTILINE)
        }
        allowed = set(sys.stdlib_module_names) | {"supercloud", "libvirt", "qemu", "re2", "yara"} | locked
        foreign = {
            (str(source.relative_to(bundle.PACKAGE)), name)
            for source in bundle.sources()
            for name in _imported(source)
            if name.lower() not in allowed
        }
        assert foreign == set()
        assert {"qemu_qmp", "google_re2", "yara_python"} <= locked

    def test_its_code_imports_no_part_of_ours_that_it_leaves_out(self) -> None:
        left_out = {
            (str(source.relative_to(bundle.PACKAGE)), name)
            for source in bundle.sources()
            for name in _imported(source, depth=2)
            if name.startswith("supercloud.") and name.split(".")[1] not in {*bundle.PARTS, "__version__"}
        }
        assert left_out == set()


def _imported(source: Path, *, depth: int = 1) -> set[str]:
    """The modules that a file imports, by their first `depth` names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} if "." in node.module else {f"{node.module}.{a.name}" for a in node.names}
    return {".".join(name.split(".")[:depth]) for name in found}
