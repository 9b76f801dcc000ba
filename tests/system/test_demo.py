"""The main job on real VMs: what the demo promises, and what may not be left behind by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import BLANKETS, CLOUD, SERVER, Estate

pytestmark = [pytest.mark.system, pytest.mark.timeout(3000)]


def test_three_migrations_there_and_back(estate: Estate) -> None:
    moves = [(move["from"], move["to"]) for move in estate.report["migrations"]]
    assert moves == [("n1", "s1"), ("s1", "n1"), ("n1", "s1")]
    assert all(move["downtime_ms"] > 0 and move["total_s"] > 0 for move in estate.report["migrations"])


def test_the_client_lost_nothing_over_one_connection(estate: Estate) -> None:
    assert estate.report["requests_answered"] > 0
    assert estate.report["requests_lost"] == 0
    assert estate.report["connection_kept"] is True


def test_the_observer_never_saw_two_copies(estate: Estate) -> None:
    """By the RESUME and STOP events of every QEMU in every blanket."""
    assert estate.report["max_copies"] == 1


def test_a_killed_controller_carried_its_migration_on(estate: Estate) -> None:
    assert estate.report["controller_recovered"] is True


def test_a_cut_off_domain_was_fenced(estate: Estate) -> None:
    assert estate.report["domain_fenced"] is True


def test_it_is_still_up(estate: Estate) -> None:
    shown = json.loads(estate.run("vm", "show", SERVER, "--cloud", CLOUD, "-o", "json").stdout)
    assert shown["state"] in ("running", "stopped")
    blankets = json.loads(estate.run("blanket", "ls", "-o", "json").stdout)
    assert {blanket["name"] for blanket in blankets} == set(BLANKETS)
    assert all(blanket["confidentiality"] == "procedural" for blanket in blankets)


def test_no_key_is_in_the_control_planes_files(estate: Estate) -> None:
    """The demo's user data names the server's address; its keys are hex that only the key store may hold."""
    state = estate.place.home / "controlplane"
    files = [
        path for path in state.rglob("*") if path.is_file() and path.suffix in (".db", ".db-wal", ".log")
    ]
    files += list(estate.place.home.glob("*.log"))
    assert len(files) >= 2
    for path in files:
        _holds_no_private_key(path)


def _holds_no_private_key(path: Path) -> None:
    content = path.read_bytes()
    assert b"PRIVATE KEY" not in content, path
    assert b"passphrase" not in content, path
