"""What a program says is kept, and bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
LIMIT, LINES = 20_000, 2_000
_PROGRAM = f"""
import structlog
from supercloud.logs import configure
configure(file_bytes={LIMIT})
for number in range({LINES}):
    structlog.get_logger("x").info("said", number=number)
"""


def said(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_a_log_file_keeps_what_was_said_last_and_no_more_than_its_bound(tmp_path: Path) -> None:
    log = tmp_path / "program.log"
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", _PROGRAM], check=True, stderr=file)
    before = log.with_name("program.log.1")
    kept = said(before) + said(log)
    assert kept == list(range(kept[0], LINES)), "nothing is missing between the two"
    assert kept[0] > 0 and max(log.stat().st_size, before.stat().st_size) < 2 * LIMIT
    assert sorted(tmp_path.iterdir()) == [log, before]


def test_what_is_no_file_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert len(done.stderr.splitlines()) == LINES
