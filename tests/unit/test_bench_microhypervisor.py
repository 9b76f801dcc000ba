"""What the bench of the micro-hypervisor makes of the counts of its machines."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from supercloud.cli.bench import microhypervisor_sides, report
from supercloud.cli.bench.microhypervisor import Cost, Workload, read, result
from supercloud.cli.bench.microhypervisor_sides import Side, code_of
from supercloud.model.errors import Failed

pytestmark = pytest.mark.unit

_MARKS = Path(__file__).parents[2] / "microhypervisor/bench/marks.h"


def _said(*, instructions: int = 1000, own: int = 0, entries: int = 0, inner: int = 0, times: int = 2) -> str:
    """A meter's lines: each workload `times` times, each time with the same differences."""
    lines, at = [], [7, 7, 7, 7, 7]
    for number, _ in enumerate(Workload, 1):
        for _ in range(times):
            lines.append([number, *at])
            differs = (instructions, own, entries, inner, 2_000_000_000)
            at = [now + more for now, more in zip(at, differs, strict=True)]
            lines.append([number | 0x80, *at])
            at = [now + 5 for now in at]  # what lies between workloads is nobody's
    return "".join(" ".join(map(str, line)) + "\n" for line in lines)


def test_a_workload_is_what_was_counted_between_its_marks() -> None:
    found = read(_said(instructions=1000, own=40, entries=3, inner=1))
    assert list(found) == list(Workload)
    expected = Cost(instructions=1000, own=40, entries=3, inner_entries=1, seconds=2.0)
    assert all(costs == [expected, expected] for costs in found.values())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no end: l1_cpu, l1_memory"),
        ("1 0 0 0 0 0\n", "no end"),
        ("129 0 0 0 0 0\n", "before it began"),
        ("9 0 0 0 0 0\n", "something else"),
        ("1 0 0 0\n", "something else"),
        ("qemu says hello\n", "something else"),
    ],
)
def test_counts_that_are_none_are_refused(text: str, why: str) -> None:
    with pytest.raises(Failed, match=why):
        read(text)


def test_numbers_of_marks_are_the_workloads() -> None:
    of_c = re.findall(r"^ +MARK_(L\w+?)(?: = 1)?,", _MARKS.read_text(), re.MULTILINE)
    assert [name.lower() for name in of_c] == [str(one) for one in Workload]


def test_an_l0_is_beside_none_and_beside_kvm() -> None:
    sides = {
        Side.BARE: read(_said(instructions=1000, entries=10)),
        Side.MICROHYPERVISOR: read(_said(instructions=1100, own=90, entries=25, inner=10)),
        Side.KVM: read(_said(instructions=1500, entries=50, inner=10)),
    }
    found = result(sides, times=2).public()
    assert found["l1_cpu_ratio"] == found["l2_network_ratio"] == 1.1
    assert found["exits_per_l2_exit"] == 2.5
    assert (found["instructions_per_exit"], found["own_instructions_per_exit"]) == (4, round(90 / 25))
    assert found["wall_clock"]["l2_boot"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert found["three_level"]["l2_disk_ratio"] == 1.5
    assert found["three_level"]["exits_per_l2_exit"] == 5.0
    assert found["counts"]["kvm"]["l2_cpu"] == {
        "instructions": 3000,
        "exits": 100,
        "inner_exits": 20,
        "own_instructions": 0,
    }
    lines = {line.what: line for line in report.lines("microhypervisor", found)}
    assert lines["L1 cpu: instructions, over L0 / without"].held == "NO"
    assert lines["L2 boot: instructions, over L0 / without"].held == "-"
    assert lines["L0 exits for each L2 exit"].held == "yes"
    assert lines["L2 disk: exits, over ours / over KVM as L0"].value == 0.5


def test_without_three_levels_nothing_is_said_of_them() -> None:
    sides = {side: read(_said(entries=4, inner=2)) for side in (Side.BARE, Side.MICROHYPERVISOR)}
    found = result(sides, times=1).public()
    assert found["three_level"] is None
    assert not any("KVM" in line.text() for line in report.lines("microhypervisor", found))


def test_the_code_of_an_image_is_its_executable_segment() -> None:
    header = b"\x7fELF\x01".ljust(28, b"\0") + struct.pack("<I", 52)
    header = header.ljust(42, b"\0") + struct.pack("<HH", 32, 2)
    data = struct.pack("<8I", 1, 0, 0, 0x200000, 9, 9, 6, 0)
    code = struct.pack("<8I", 1, 0, 0x100000, 0x100000, 0x123, 0x123, 5, 0)
    assert code_of(header.ljust(52, b"\0") + data + code) == range(0x100000, 0x100123)
    with pytest.raises(Failed, match="no code"):
        code_of(header.ljust(52, b"\0") + data + data)
    with pytest.raises(Failed, match="ELF"):
        code_of(b"\x7fELF\x02" + bytes(100))


def _awaited(script: str) -> None:
    microhypervisor_sides._await_done(["sh", "-c", script])


def test_a_machine_that_is_done_is_ended() -> None:
    _awaited("echo 'bench: L1 is done'; exec sleep 1000")


def test_a_failure_comes_with_what_was_said_before_it() -> None:
    said = "begins; insmod: unknown symbol; virtio: Unknown symbol virtio_break_device; bench: failed: virtio"
    with pytest.raises(Failed, match=re.escape(said.removeprefix("begins; "))) as failed:
        _awaited("".join(f"echo '{line}'; " for line in said.split("; ")) + "echo; exec sleep 1000")
    assert "begins" not in str(failed.value)


def test_one_that_ends_before_it_is_done_has_its_last_words() -> None:
    with pytest.raises(Failed, match=r"end: panic$"):
        _awaited("echo panic")


def test_one_that_hangs_is_ended_by_what_it_does_not_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microhypervisor_sides, "_LONGEST_IDLE_S", 0.2)
    with pytest.raises(Failed, match="waits; it hangs, after 0 s of a processor"):
        _awaited("echo waits; exec sleep 1000")
    monkeypatch.setattr(microhypervisor_sides, "_LONGEST_CPU_S", 0.01)
    with pytest.raises(Failed, match=r"it hangs, after . s of a processor"):
        _awaited("while :; do :; done")
