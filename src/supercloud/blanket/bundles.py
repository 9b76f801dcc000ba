"""The code of this blanket's programs: a read-only image that another one is mounted over.

runit starts the keeper and the agent from there, so that a restart of both is all that an upgrade takes; the
instances' processes are nobody's children. What is mounted last is used. One whose agent is not welcomed in
time is taken away again, by a program that outlives the agent; and a reboot begins with the platform's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

from supercloud.blanket.commands import run
from supercloud.model.errors import Failed
from supercloud.model.names import Digest

_MOUNTED = Path("/opt/supercloud")
_TRIED = "import supercloud.agent.__main__, supercloud.keeper.main, supercloud.observer.inside"
#: How long the new agent may take until the control plane welcomes it; less than a right's length.
_WELCOME_S = 45
#: new image's mount, where it belongs, the keeper's socket, the mark, seconds
_SWITCH = """
next=$1 here=$2 keeper=$3 welcomed=$4 seconds=$5
restart() {
    touch "$welcomed.began"
    sv term keeper
    for _ in $(seq 30); do
        [ "$keeper" -nt "$welcomed.began" ] && break
        sleep 0.5
    done
    sv term agent observer
}
rm -f "$welcomed"
mount --move "$next" "$here" || exit 1
restart
for _ in $(seq "$seconds"); do
    [ -e "$welcomed" ] && exit
    sleep 1
done
umount -l "$here"
restart
"""


class MountedBundles:
    """ports.hypervisor.Bundles."""

    def __init__(self, *, data: Path, run: Path, keeper: Path, mounted: Path = _MOUNTED) -> None:
        self._folder = data / "bundles"
        self._next = run / "next-bundle"
        self._welcomed = run / "welcomed"
        self._keeper = keeper
        self._mounted = mounted

    def path(self, digest: Digest) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    async def running(self) -> Digest | None:
        return await asyncio.to_thread(_digest_of_mounted, self._mounted)

    async def try_out(self, digest: Digest) -> None:
        await self._forget_next()
        self._next.mkdir(parents=True, exist_ok=True)
        await run("modprobe", "loop")
        await run(
            "mount", "-t", "squashfs", "-o", "loop,ro,nosuid,nodev", str(self.path(digest)), str(self._next)
        )
        try:
            await run("env", f"PYTHONPATH={self._next / 'site'}", "python3", "-c", _TRIED)
        except BaseException:
            await self._forget_next()
            raise

    async def switch(self, digest: Digest) -> None:
        if not self._next.is_mount():
            await self.try_out(digest)
        arguments = (self._next, self._mounted, self._keeper, self._welcomed, _WELCOME_S)
        # Not waited for: it ends this process.
        await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            _SWITCH,
            "upgrade",
            *(str(one) for one in arguments),
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
        )

    async def confirm(self) -> None:
        self._welcomed.touch()
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if not await asyncio.to_thread(_is_mounted, path):
                path.unlink()

    async def _forget_next(self) -> None:
        while self._next.is_mount():
            await run("umount", str(self._next))


def _sources() -> dict[str, str]:
    """What is mounted where, the last one of each place."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {place: source for source, place, *_ in (line.split() for line in mounts)}


def _digest_of_mounted(place: Path) -> Digest | None:
    source = _sources().get(str(place))
    if source is None or not source.startswith("/dev/"):
        return None
    try:
        with Path(source).open("rb") as device:
            return "sha256:" + hashlib.file_digest(device, "sha256").hexdigest()
    except OSError as error:
        raise Failed(f"cannot read the bundle: {error}") from error


def _is_mounted(path: Path) -> bool:
    """Whether a loop device is made of this file."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if path.samefile(backing.read_text().strip()):
                return True
    return False
