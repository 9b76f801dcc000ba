"""Work that nobody has to look at, recorded on real VMs by `tests/system/test_benign.py`, shown to the
detectors of today, with the usual rules: nothing is found in it. And something is, with an attack among it.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_loop_detectors import frame

from supercloud.cli.policy import Tried, tried
from supercloud.security import usual
from supercloud.security.detectors import COMPONENTS, GUEST, INTEGRITY, PORT
from supercloud.security.detectors.ports import APART_S
from supercloud.security.replay import Line, events, read

pytestmark = pytest.mark.unit
RECORDINGS = Path(__file__).with_name("recordings")
#: For which nothing was chosen; its number is in the guide.
BENIGN, OTHER = RECORDINGS / "benign", RECORDINGS / "other"
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "loop.md"


def replayed(lines: Iterable[Line]) -> Tried:
    return tried(usual.POLICY, usual.RULES, enumerate(events(lines), 1))


@pytest.fixture(scope="module")
def benign() -> list[Line]:
    return list(read([BENIGN]))


def calls(lines: Iterable[Line], detector: str, call: str) -> list[Line]:
    return [line for line in lines if (line.detector, line.call) == (detector, call)]


def test_nothing_is_found_in_benign_work(benign: list[Line]) -> None:
    found = replayed(benign)
    assert [incident["timeline"] for incident in found.incidents] == []
    assert found.refused == ()
    assert found.events > 40, "connections are events"


def test_what_was_done_is_in_the_recording(benign: list[Line]) -> None:
    """Otherwise it would say nothing that nothing is found."""
    assert not any(line.full for line in benign)
    for detector in (COMPONENTS, INTEGRITY):
        moments = [line.at for line in benign if line.detector == detector]
        assert moments[-1] - moments[0] > 900
        assert max(after - before for before, after in pairwise(moments)) < 60, "it went on all the time"
    looks = [line.given[1] for line in calls(benign, GUEST, "seen") if line.given]
    assert looks[0]["first"] and not looks[-1]["first"], "a guest booted, and was looked at again"
    assert "dpkg" in {process["name"] for process in looks[-1]["processes"]}, "packages were installed"
    plugged = [line.given[0] for line in calls(benign, PORT, "plugged") if line.given]
    assert any(own["away"] for ports in plugged for own in ports), "an instance was on its way here"
    assert len(calls(benign, PORT, "sent")) > 400, "connections began"


def test_false_positives_of_other_work_are_as_many_as_the_guide_says() -> None:
    found = replayed(read([OTHER]))
    said = re.search(r"false positives in work that [^|]*\| (\d+) ", GUIDE.read_text())
    assert said is not None and int(said[1]) == len(found.incidents)


# ---------------------------------------------------------------- and attacks are found among it


def _port(lines: list[Line]) -> tuple[float, dict[str, str]]:
    """When one was there, for a while."""
    line = next(line for line in calls(lines, PORT, "plugged") if line.given and line.given[0])
    assert line.given is not None
    return line.at + 1, line.given[0][0]


def _line(detector: str, at: float, call: str, *given: Any) -> Line:
    return Line(at=at, detector=detector, call=call, given=given)


def scan(lines: list[Line]) -> Iterator[Line]:
    at, own = _port(lines)
    for port in range(20):
        data = frame(mac=own["mac"], source=own["ip"], target="10.77.0.9", port=port + 1)
        yield _line(PORT, at + port / 4, "sent", own["device"], data.hex())


def sweep(lines: list[Line]) -> Iterator[Line]:
    at, own = _port(lines)
    for number in range(30):
        data = frame(mac=own["mac"], source=own["ip"], target=f"10.77.0.{number + 100}", port=22)
        yield _line(PORT, at + number / 4, "sent", own["device"], data.hex())


def forge(lines: list[Line]) -> Iterator[Line]:
    at, own = _port(lines)
    yield _line(PORT, at, "sent", own["device"], frame(mac=own["mac"], source="10.77.0.250").hex())


def copy(lines: list[Line]) -> Iterator[Line]:
    at, own = _port(lines)
    for later in (0, APART_S):
        yield _line(PORT, at + later, "received", "vx-none", frame(mac=own["mac"]).hex())


def _seen(lines: list[Line], **wrong: Any) -> Iterator[Line]:
    line = calls(lines, GUEST, "seen")[-1]
    assert line.given is not None
    about, seen = line.given
    yield _line(GUEST, line.at + 0.001, "seen", about, {**seen, **wrong})


def hide(lines: list[Line]) -> Iterator[Line]:
    hidden = {"pid": 666, "name": "miner", "parent": 1, "missing": "the list of tasks", "seen": "pids"}
    return _seen(lines, hidden=[hidden])


def hook(lines: list[Line]) -> Iterator[Line]:
    return _seen(lines, hooked=[{"number": 59, "leads": {"address": 4096, "symbol": "rootkit"}}])


def kill(lines: list[Line]) -> Iterator[Line]:
    line = calls(lines, COMPONENTS, "look")[-2]
    assert line.given is not None
    statuses = {**line.given[0], "keeper": {**line.given[0]["keeper"], "pid": 1, "asked": False}}
    yield _line(COMPONENTS, line.at + 0.001, "look", statuses)


def change(lines: list[Line]) -> Iterator[Line]:
    line = calls(lines, INTEGRITY, "look")[-1]
    mark = {"mode": 0o100755, "owner": 0, "group": 0, "size": 9, "changed_ns": 1}
    implanted = {"usr/lib/supercloud/boot": [mark, {**mark, "size": 18, "changed_ns": 2}]}
    yield _line(INTEGRITY, line.at + 0.001, "look", implanted, {})


@pytest.mark.parametrize(
    ("attack", "title"),
    [
        (scan, "Scan for open ports"),
        (sweep, "Sweep over addresses"),
        (forge, "It speaks under another's address"),
        (copy, "An address of this instance speaks from another blanket"),
        (hide, "A process is hidden from the list of tasks: miner"),
        (hook, "System call 59 leads to rootkit"),
        (kill, "keeper ended by itself and was begun anew"),
        (change, "usr/lib/supercloud/boot is not as in the image"),
    ],
)
def test_an_attack_among_it_is_found(
    attack: Callable[[list[Line]], Iterator[Line]], title: str, benign: list[Line]
) -> None:
    found = replayed(heapq.merge(benign, attack(benign), key=lambda line: line.at))
    assert [incident["title"] for incident in found.incidents] == [title]
