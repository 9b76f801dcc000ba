"""The instance that faults are tried on: it syncs numbered blocks, and reads them all back from its disk."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: A service, because a seed's script runs at the first boot only. Before each look at the file the page cache
#: is told to forget it, so that what is checked comes from the disk.
USER_DATA = r"""#!/bin/sh
cat >/usr/local/bin/fault-subject <<'END'
#!/bin/sh
look() {
    dd if=/var/lib/demo-checksum iflag=nocache count=0 2>/dev/null
    printf 'fault-subject boot %s\r\n' "$(cat /proc/sys/kernel/random/boot_id)" >/dev/ttyS0
    demo-checksum verify
}
[ -e /var/lib/demo-checksum ] && look
demo-checksum write &
while sleep 5; do look; done
END
chmod +x /usr/local/bin/fault-subject
printf '[Service]\nExecStart=/usr/local/bin/fault-subject\n[Install]\nWantedBy=multi-user.target\n' \
    >/etc/systemd/system/fault-subject.service
systemctl enable fault-subject
sync
systemctl start --no-block fault-subject
"""

_LINE = re.compile(
    r"demo-checksum (synced) (\d+)|fault-subject (boot) (\S+)|demo-checksum (whole) (\d+) (\w+)"
)


@dataclass(frozen=True, slots=True)
class Look:
    """One reading of the file: so many blocks from the first on are whole."""

    boot: str
    whole: int
    clean: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What the guest said on its console: the last block that it had synced, and its looks."""

    synced: int
    looks: tuple[Look, ...]

    @property
    def boots(self) -> frozenset[str]:
        return frozenset(look.boot for look in self.looks)


@dataclass(frozen=True, slots=True)
class Disk:
    """What was synced before is there, or not. `anew`: the guest booted since."""

    whole: bool
    anew: bool
    said: str


def told(log: str) -> Told:
    synced, boot = -1, ""
    looks = []
    for match in _LINE.finditer(log):
        if match[1]:
            synced = max(synced, int(match[2]))
        elif match[3]:
            boot = match[4]
        elif boot:
            looks.append(Look(boot, int(match[6]), match[7] == "clean"))
    return Told(synced, tuple(looks))


def compare(before: Told, boots: frozenset[str], after: Told) -> Disk | None:
    """None while the guest has not said enough. `boots`: every boot that was heard of before.

    A boot after the fault shows what was on the disk by its first look, before it writes more; a guest that
    went on, by a look that holds more than was synced before. A blanket keeps what the guest said when it was
    there before: that is older, and says nothing.
    """
    if not after.looks:
        return None
    needed = before.synced + 1
    last = after.looks[-1].boot
    looks = [look for look in after.looks if look.boot == last]
    if last not in boots:
        first = looks[0]
        whole = first.clean and first.whole >= needed
        return Disk(whole, True, f"{first.whole} blocks after a boot, {needed} were synced")
    if last != before.looks[-1].boot:
        return None
    for look in looks:
        if not look.clean:
            return Disk(False, False, f"block {look.whole} is broken")
    most = max(look.whole for look in looks)
    if most > needed:
        return Disk(True, False, f"{most} blocks, {needed} were synced before")
    return None
