"""What the demo's client saw, read from between whatever else its console says."""

from __future__ import annotations

import json

import pytest

from supercloud.cli.demo.load import seen

pytestmark = pytest.mark.unit


def line(start: float, answered: int) -> str:
    counts = {"sent": answered, "answered": answered, "lost": 0, "wrong": 0, "connections": 1}
    return "demo-client " + json.dumps({"start": start, **counts, "max_gap_ms": 20, "at": start + answered})


def test_lines_are_read_from_between_other_words() -> None:
    log = f"Started demo-client.service.\r\n{line(1, 5)}\r\n[ 1.0] noise{line(1, 6)}\r\n{line(1, 7)[:30]}"
    assert [one.answered for one in seen(log)] == [5, 6]


def test_a_client_that_was_started_again_counts_from_there() -> None:
    assert [one.answered for one in seen(f"{line(1, 500)}\n{line(9, 3)}\n{line(9, 4)}\n")] == [3, 4]


def test_a_client_that_said_nothing() -> None:
    assert seen("login: demo-client {}") == []
