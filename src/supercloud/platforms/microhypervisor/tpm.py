"""A TPM beside the machine: Debian's `swtpm`, as its hardware would have one.

It is told to QEMU by a connection that both inherit, and ends with it. What makes it this TPM and no other is
kept in the machine's directory, so that it is the same one at each start.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supercloud.platforms.qemu import process

PROGRAM = "swtpm"
_STATE, _LOG = "tpm", "tpm.log"
_ENDS_S = 10.0


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


@contextmanager
def started(directory: Path) -> Iterator[int]:
    """A TPM's process, and the connection to it, for the machine's QEMU to inherit. Where that does not
    start, nobody has its end, and the TPM ends."""
    (directory / _STATE).mkdir(mode=0o700, exist_ok=True)
    of_machine, of_tpm = socket.socketpair()
    with of_machine, of_tpm:
        at = of_tpm.fileno()
        argv = [PROGRAM, "socket", "--tpm2", "--tpmstate", f"dir={_STATE},mode=0600"]
        argv += ["--ctrl", f"type=unixio,clientfd={at}", "--terminate"]
        process.spawn(argv, directory=directory, log=directory / _LOG, pass_fds=[at])
        yield of_machine.fileno()


async def ended(directory: Path) -> None:
    """Wait for the end of a TPM whose machine has ended: its state is one process's at a time."""
    pid = process.search(PROGRAM, directory)
    found = None if pid is None else process.Process.find(pid, PROGRAM, directory)
    if found is not None:
        with found:
            if not await found.wait(_ENDS_S):
                found.kill()
                await found.wait(_ENDS_S)
