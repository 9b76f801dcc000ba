"""The real matrix of faults judges right: what a guest said of its disk, and which cells there are."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))

from faults.cells import Kind, Moment, Side, matrix, sample
from faults.guest import compare, told

pytestmark = pytest.mark.unit


def said(boot: str, whole: int, mark: str = "clean", *, synced: int | None = None) -> str:
    lines = [f"fault-subject boot {boot}\r", f"[ 1.0] noisedemo-checksum whole {whole} {mark}\r"]
    return "\n".join(lines + ([f"demo-checksum synced {synced}\r"] if synced is not None else [])) + "\n"


BEFORE = told(said("one", 8, synced=9))
BOOTS = BEFORE.boots


def test_it_is_read_from_between_other_words() -> None:
    assert (BEFORE.synced, [(look.boot, look.whole) for look in BEFORE.looks]) == (9, [("one", 8)])


def test_a_guest_that_went_on_has_to_show_more_than_it_had_synced() -> None:
    assert compare(BEFORE, BOOTS, told(said("one", 10))) is None
    disk = compare(BEFORE, BOOTS, told(said("one", 10) + said("one", 12)))
    assert disk is not None and disk.whole and not disk.anew


def test_a_guest_that_booted_is_judged_by_its_first_look() -> None:
    """What it writes afterwards would make up for what was lost."""
    lost = compare(BEFORE, BOOTS, told(said("one", 8) + said("two", 5) + said("two", 50)))
    assert lost is not None and not lost.whole and lost.anew
    kept = compare(BEFORE, BOOTS, told(said("two", 10)))
    assert kept is not None and kept.whole and kept.anew


def test_what_it_said_when_it_was_in_that_blanket_before_says_nothing() -> None:
    boots = BOOTS | {"old"}
    assert compare(BEFORE, boots, told(said("old", 99))) is None
    assert compare(BEFORE, boots, told(said("old", 99) + said("one", 10))) is None
    live = compare(BEFORE, boots, told(said("old", 99) + said("one", 12)))
    assert live is not None and live.whole and not live.anew


def test_a_broken_block_is_found() -> None:
    broken = compare(BEFORE, BOOTS, told(said("one", 7, "BROKEN") + said("one", 30)))
    assert broken is not None and not broken.whole


def test_every_kind_of_fault_is_tried_on_both_sides_of_the_commit() -> None:
    cells = matrix()
    assert len({cell.name for cell in cells}) == len(cells)
    for moment in Moment:
        assert {cell.kind for cell in cells if cell.moment is moment} == set(Kind)
    assert all(cell.expected for cell in cells)


def test_two_copies_are_allowed_in_one_cell_only() -> None:
    (cell,) = [cell for cell in matrix() if cell.copies > 1]
    assert (cell.kind, cell.side, cell.moment) == (Kind.BLANKET_ROLLED_BACK, Side.SOURCE, Moment.AFTER)


@pytest.mark.parametrize("seed", range(20))
def test_a_sample_has_both_sides_of_the_commit_and_needs_no_shell(seed: int) -> None:
    cells = sample(seed)
    assert cells == sample(seed)
    assert [cell.moment for cell in cells] == [Moment.BEFORE] * 2 + [Moment.AFTER] * 2
    assert len({cell.kind for cell in cells}) == 4 and not any(cell.needs_shell for cell in cells)
