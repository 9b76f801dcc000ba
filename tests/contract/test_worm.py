"""The worm of `demo attack`, real sockets and real ARP, against the blanket's own detector and rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract


@pytest.mark.skipif(not Path("/dev/ttyS0").exists(), reason="what it says it says on a serial console")
def test_a_worm_spreads_is_cut_off_before_its_last_host_and_crosses_once_it_is_let_go(
    tmp_path: Path,
) -> None:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    apart = ["unshare", *own, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    checks = Path(__file__).with_name("worm_checks.py")
    ended = subprocess.run(
        [*apart, sys.executable, checks, tmp_path], capture_output=True, text=True, check=False, timeout=200
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert '"hops": 0' in seen["held"]["first"] and '"hops": 1' in seen["held"]["next"], (
        "it spreads by itself"
    )
    assert seen["found"] == ["neighbour-sweep"] and seen["cut"] == ["vfirst", "vnext"]
    assert "demo-worm" not in seen["held"]["abroad"]
    assert seen["crossed"]
