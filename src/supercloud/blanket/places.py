"""Where things are in a blanket. One value, so that a test can put two blankets on one machine."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from supercloud.model.names import Digest, Id

#: Who has a QMP monitor of its own in each QEMU, besides libvirt.
MONITORS = ("keeper", "observer", "agent")
#: Where detectors reach the loop.
LOOP_SOCKET = Path("/run/supercloud/loop/loop.sock")
#: The owner's rules over guests' memory, as the loop was told them; not there: there are none.
YARA_RULES = Path("/run/supercloud/loop/rules.yar")
#: Detectors that begin while this folder is there write into it what they are shown; usually it is not.
RECORDING = Path("/run/supercloud/recording")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`run` is tmpfs and holds whatever must not reach a disk: keys, seeds, sockets, console logs."""

    run: Path = Path("/run/supercloud")
    data: Path = Path("/var/lib/supercloud")

    def make(self, *, user: str | None = "libvirt-qemu") -> None:
        """Make the directories below `run` and `data`.

        QEMU runs as `user`: it may pass through those whose files it is given, and makes sockets in one.
        """
        self.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.consoles.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.disks, self.seeds, self.qmp, self.transfers, self.volumes, self.images):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o711)
        if user is not None:
            shutil.chown(self.qmp, user)

    @property
    def keys(self) -> Path:
        return self.run / "keys" / "volumes"

    @property
    def disks(self) -> Path:
        """Links from a volume's id to this blanket's copy: the same path in every blanket."""
        return self.run / "disks"

    @property
    def seeds(self) -> Path:
        return self.run / "seeds"

    @property
    def qmp(self) -> Path:
        return self.run / "qmp"

    @property
    def consoles(self) -> Path:
        return self.run / "consoles"

    @property
    def transfers(self) -> Path:
        """Of one operation each: the UNIX socket that leads to the peer's libvirt, and where QEMUs meet."""
        return self.run / "transfers"

    @property
    def volumes(self) -> Path:
        return self.data / "volumes"

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def evidence(self) -> Path:
        """What was kept of instances, sealed to the owner."""
        return self.data / "evidence"

    @property
    def machines(self) -> Path:
        """Of blankets inside this one, a directory each."""
        return self.data / "machines"

    @property
    def machine_files(self) -> Path:
        """Parts of blanket images, by their digests."""
        return self.data / "machine-files"

    def disk(self, volume: Id) -> Path:
        return self.disks / f"{volume}.qcow2"

    def seed(self, instance: Id) -> Path:
        return self.seeds / f"{instance}.iso"

    def console_log(self, instance: Id) -> Path:
        return self.consoles / f"{instance}.log"

    def copy(self, volume: Id, copy: Id) -> Path:
        return self.volumes / f"{volume}.{copy}.qcow2"

    def image(self, digest: Digest) -> Path:
        return self.images / f"{digest.removeprefix('sha256:')}.qcow2"

    def monitor(self, instance: Id, client: str) -> Path:
        """QEMU's extra QMP monitor for `client`, one of `MONITORS`."""
        return self.qmp / f"{instance}.{client}.sock"
