"""The peer of `bench migration`: `virsh migrate` as a person would run it, by the shortest way there is.

QEMU and libvirt talk over TCP inside the mesh, without a forwarder but one socat before the target's libvirt,
which listens on no network. Flags, disk format, encryption and the longest downtime are those of ours.
"""

from __future__ import annotations

import gzip
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from supercloud.cli.bench.twin import NAME, TAP, Twin, twin_of
from supercloud.cli.shell import Shell
from supercloud.model.errors import SupercloudError
from supercloud.model.names import Id, Ipv4, new_id

_RUN, _DATA = "/run/supercloud/bench", "/var/lib/supercloud/bench"
_LIBVIRT, _MEMORY, _DISK = 16509, 49300, 49301
_BOOT_S, _MOVE_S = 900.0, 600.0  # under emulation, beside others
#: As in blanket/libvirt/migration.py.
_FLAGS = "--live --p2p --copy-storage-inc --auto-converge --abort-on-error"
_MAX_DOWNTIME_MS = 150


@dataclass(frozen=True, slots=True)
class Side:
    """A blanket: its console, and its address in the mesh."""

    shell: Shell
    address: Ipv4


class Plain:
    """One guest, in one of two blankets at a time."""

    def __init__(self, sides: Mapping[str, Side]) -> None:
        self._sides = sides
        self._twin: Twin | None = None
        self.where = ""

    @property
    def id(self) -> Id:
        return self._made.id

    @property
    def _made(self) -> Twin:
        if self._twin is None:
            raise RuntimeError("make() comes first")
        return self._twin

    def make(self, instance: Id, *, at: str, size_bytes: int) -> None:
        """Boot the twin of an instance beside it, and wait until somebody could log in.

        Raises (all methods): what Shell raises.
        """
        here = self._sides[at].shell
        # virsh also complains that nobody could be asked for leave; nobody has to be.
        xml = here.run(f"virsh dumpxml --migratable sc-{instance} 2>/dev/null")
        self._twin = twin_of(xml, instance=instance, twin=new_id(), run=_RUN, data=_DATA)
        self._size = size_bytes
        seed = here.get(f"/run/supercloud/seeds/{instance}.iso")
        base_key = here.get(f"/run/supercloud/keys/volumes/{self._made.base_secret}.key")
        for side in self._sides.values():
            self._settle(side, seed, base_key)
        self.prepare(at)
        here.put(f"{_RUN}/plain.xml", self._made.xml.encode())
        here.run(f"virsh create {_RUN}/plain.xml")
        here.run(
            f"until grep -q 'login:' {self._made.console}; do sleep 1; done", timeout_s=_BOOT_S
        )  # a console tells of a boot's end by its text alone
        self.where = at

    def prepare(self, to: str) -> float:
        """Make the copy at `to` that a migration fills, under a new key; seconds that it took."""
        began = time.monotonic()
        run, made = self._sides[to].shell.run, self._made
        key = f"{_RUN}/disk.key"
        self._sides[to].shell.put(key, secrets.token_hex(32).encode())
        for secret, file in ((made.id, key), (made.base_secret, f"{_RUN}/base.key")):
            # Defined each time: the agent may have had libvirt forget the image's, when its last user left.
            run(f"virsh secret-define {_RUN}/{secret}.xml")
            run(f"virsh secret-set-value {secret} --file {file} --plain")
        options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"
        create = (
            f"qemu-img create -q -f qcow2 -u -b {made.base} -F qcow2"
            f" --object secret,id=key,file={key} -o {options} {made.disk} {self._size}"
        )
        # At times qemu-img cannot tell how fast this processor is, and gives up.
        run(f"for n in 1 2 3 4 5 6 7 8; do rm -f {made.disk}; {create} && break; done && test -e {made.disk}")
        return time.monotonic() - began

    def move(self, to: str) -> float:
        """`virsh migrate`; seconds from its start to its end."""
        here, there = self._sides[self.where], self._sides[to]
        here.shell.run(f"virsh migrate-setmaxdowntime {NAME} {_MAX_DOWNTIME_MS}")
        began = time.monotonic()
        here.shell.run(
            f"virsh migrate {NAME} qemu+tcp://{there.address}:{_LIBVIRT}/system {_FLAGS}"
            f" --listen-address {there.address} --migrateuri tcp://{there.address}:{_MEMORY}"
            f" --disks-uri tcp://{there.address}:{_DISK}",
            timeout_s=_MOVE_S,
        )
        took = time.monotonic() - began
        here.shell.run(f"rm -f {self._made.disk}")
        self.where = to
        return took

    def end(self) -> None:
        """End the guest, if it was made."""
        if self.where:
            self._sides[self.where].shell.run(f"virsh destroy {NAME}")

    def _settle(self, side: Side, seed: bytes, base_key: bytes) -> None:
        """What a blanket needs once: directories, seed, secrets, tap, and a way in for its peer."""
        run, made = side.shell.run, self._made
        run(f"install -d -m 0711 {_RUN} {_DATA}")
        side.shell.put(f"{_RUN}/base.key", base_key)
        side.shell.put(f"{_RUN}/seed.iso.gz", gzip.compress(seed))
        run(f"gunzip -f {_RUN}/seed.iso.gz")
        for secret in (made.id, made.base_secret):
            text = f"<secret ephemeral='yes' private='yes'><uuid>{secret}</uuid></secret>"
            side.shell.put(f"{_RUN}/{secret}.xml", text.encode())
        run(f"ip tuntap add dev {TAP} mode tap user libvirt-qemu && ip link set {TAP} mtu 1370 up")
        for peer in (one.address for one in self._sides.values() if one is not side):
            for port in (_LIBVIRT, _MEMORY, _DISK):
                run(f"nft add element inet supercloud grants '{{ {peer} . {port} timeout 1d }}'")
        listen = f"TCP-LISTEN:{_LIBVIRT},bind={side.address},reuseaddr,fork"
        run(f"setsid socat {listen} UNIX-CONNECT:/run/libvirt/libvirt-sock </dev/null >/dev/null 2>&1 & true")


def resident_kib(shell: Shell, program: str) -> int | None:
    """Of a supervised program of a blanket; None if it cannot be told."""
    try:
        pid = shell.run(f"cat /etc/service/{program}/supervise/pid").strip()
        return int(shell.run(f"grep VmRSS /proc/{int(pid)}/status").split()[1])
    except (SupercloudError, ValueError, IndexError):
        return None
