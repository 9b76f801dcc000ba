"""The commit point's table: what both sides of a migration add up to."""

import pytest

from supercloud.model.migration import Outcome, Source, Target, settle

pytestmark = pytest.mark.unit

WAIT, ABORT, COMMIT, COLD = Outcome.WAIT, Outcome.ABORT, Outcome.COMMIT, Outcome.COLD_START

#: For each pair: while the transfer runs, and when it is over.
TABLE = {
    (Source.ALIVE, Target.COMPLETE): (WAIT, ABORT),
    (Source.ALIVE, Target.INCOMING): (WAIT, ABORT),
    (Source.ALIVE, Target.LOST): (WAIT, ABORT),
    (Source.ALIVE, Target.UNKNOWN): (WAIT, ABORT),
    (Source.PARKED, Target.COMPLETE): (COMMIT, COMMIT),
    (Source.PARKED, Target.INCOMING): (WAIT, ABORT),
    (Source.PARKED, Target.LOST): (WAIT, ABORT),
    (Source.PARKED, Target.UNKNOWN): (WAIT, ABORT),
    (Source.GONE, Target.COMPLETE): (COMMIT, COMMIT),
    (Source.GONE, Target.INCOMING): (WAIT, COLD),
    (Source.GONE, Target.LOST): (COLD, COLD),
    (Source.GONE, Target.UNKNOWN): (WAIT, WAIT),
    (Source.UNKNOWN, Target.COMPLETE): (WAIT, WAIT),
    (Source.UNKNOWN, Target.INCOMING): (WAIT, WAIT),
    (Source.UNKNOWN, Target.LOST): (WAIT, WAIT),
    (Source.UNKNOWN, Target.UNKNOWN): (WAIT, WAIT),
}


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("target", Target)
def test_what_both_sides_add_up_to(source: Source, target: Target) -> None:
    runs, over = TABLE[source, target]
    assert settle(source, target, transfer_over=False) is runs
    assert settle(source, target, transfer_over=True) is over
