"""What a program has freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit
_KEEPS_MIB = 30
#: As when an image is fetched: a large block is freed, frames follow, and something small stays behind them.
_PROGRAM = f"""
import psutil, sys
from supercloud import heap
if sys.argv[1:]:
    heap.give_back()
before = psutil.Process().memory_info().rss
block = b"x" * (20 << 20)
del block
frames = [b"x" * (1 << 20) for _ in range({_KEEPS_MIB})]
stays = b"x" * 100_000
del frames
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def _kept_mib(*argv: str) -> int:
    return int(
        subprocess.run([sys.executable, "-c", _PROGRAM, *argv], check=True, capture_output=True).stdout
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_is_freed_goes_back_and_would_not_by_itself() -> None:
    assert _kept_mib() >= _KEEPS_MIB - 2
    assert _kept_mib("gives back") <= 2
