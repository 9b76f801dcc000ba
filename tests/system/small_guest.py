"""A guest that is no more than its boot sector, for where a kernel takes minutes to boot: emulated blankets.
It counts aloud on its console, about once a second, for as long as it runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from supercloud.model.names import MIB

_PROGRAM = Path(sys.executable).with_name("supercloud")
#: What it says, and then a number of five digits that grows.
SAYS = b"small guest "
_SAID = SAYS + b"00000\r\n\0"
_LOADED_AT = 0x7C00
#: Writes what is at `text` to the first serial port, up to a zero; adds one to the digits there, of which the
#: last is at `digit`; waits for 18 ticks of the BIOS's clock; and so on.
_CODE = (
    "31c0 8ed8 8ed0 bc007c fb"  # ax, ds, ss = 0; sp = 0x7c00; interrupts on
    "be{text} ac 84c0 7406 baf803 ee ebf5"  # si = text; while (al = *si++) out(0x3f8, al)
    "bf{digit} fe05 803d3a 7506 c60530 4f ebf3"  # di = digit; while (++*di == ':') *di-- = '0'
    "b91200 f4 e2fd ebda"  # cx = 18; do halt while --cx; once more
)


def make_small_guest(path: Path) -> Path:
    """Its disk, raw, of 1 MiB."""
    size = len(bytes.fromhex(_CODE.format(text="0000", digit="0000")))
    text = _LOADED_AT + size
    digit = text + _SAID.index(b"\r") - 1
    code = bytes.fromhex(_CODE.format(text=_word(text), digit=_word(digit)))
    path.write_bytes((code + _SAID).ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512))
    return path


def counts(environment: Mapping[str, str], name: str, cloud: str) -> tuple[int, int]:
    """The first two numbers that its console says from now on."""
    console = subprocess.Popen(
        [_PROGRAM, "vm", "console", name, "--cloud", cloud],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert console.stdout is not None and console.stderr is not None
    said, found = b"", list[bytes]()
    try:
        while len(found) < 2:
            chunk = console.stdout.read1(4096)
            assert chunk, said[-2000:] + console.stderr.read()
            said += chunk
            found = re.findall(SAYS + rb"(\d{5})\r", said)
    finally:
        console.kill()
        console.communicate()
    return int(found[0]), int(found[1])


def _word(value: int) -> str:
    return value.to_bytes(2, "little").hex()
