"""What libvirt's statistics of a transfer mean."""

from __future__ import annotations

import pytest

from supercloud.blanket.libvirt import migration

pytestmark = pytest.mark.unit


def test_a_downtime_is_told_once_it_was_had() -> None:
    stats = {"data_total": 10, "data_processed": 5, "downtime": 150}
    expected, had = migration._progress(stats), migration._progress(stats, over=True)
    assert expected is not None and expected.downtime_ms is None
    assert had is not None and had.downtime_ms == 150
