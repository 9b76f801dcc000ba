"""The vertical loop with everything real but the VMs: packets, processes, nftables in a network namespace."""

from __future__ import annotations

import os
import subprocess
import sys

import loop_checks
import pytest

pytestmark = pytest.mark.contract


def test_a_scanner_is_contained_and_whose_address_was_forged_is_not() -> None:
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    argv = [*own, sys.executable, loop_checks.__file__]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.endswith("ok\n")
