"""What the command line starts and ends on this machine: the control plane and the key store."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from api_rig import Done, command_environment
from web_rig import fingerprint, insecure

from supercloud.cli.daemons import Daemon
from supercloud.model.errors import Failed

pytestmark = pytest.mark.contract


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "tmp").mkdir()
    yield tmp_path
    _command(tmp_path, "down")


def _command(home: Path, *arguments: str, **environment: str) -> Done:
    done = subprocess.run(
        [sys.executable, "-m", "supercloud.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        env=command_environment(home) | environment,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_up_and_down_and_back_from_a_backup(home: Path) -> None:
    environment: dict[str, str] = {}

    def ok(*arguments: str) -> Any:
        done = _command(home, *arguments, **environment)
        assert done.status == 0, (arguments, done, *[log.read_text()[-2000:] for log in home.glob("*.log")])
        return done

    said = ok("up", *_ports()).out
    assert "is up" in said and re.search(r"your key, made now: ed25519/[0-9a-f]{64}\n", said)
    assert str(home / "keys" / "operator.pem") in said
    first = {name: (home / f"{name}.pid").read_text() for name in ("controlplane", "keystore")}
    again = ok("up").out
    assert "was up already" in again and "key" not in again, "it is shown once"
    assert {name: (home / f"{name}.pid").read_text() for name in first} == first
    _serves_the_web(ok("web", "-o", "json").json)
    ok("provider", "add", "north", "--kind", "simulated")
    assert (
        "kinds: microhypervisor, qemu, simulated"
        in _command(home, "provider", "add", "x", "--kind", "mainframe").err
    )
    ok("cloud", "create", "kept")
    assert ok("backup", str(home / "b"), "-o", "json").json["size_bytes"] > 10_000
    assert _command(home, "backup", str(home / "b")).status == 4
    ok("cloud", "create", "later")
    assert "supercloud down" in _command(home, "restore", str(home / "b")).err
    assert "agents" in _command(home, "up", "--agents-port", "1").err, "blankets know it from birth"
    kept = (home / "ports.json").read_text()
    elsewhere = _command(home, "up", *_ports()[:2])
    assert elsewhere.status == 4 and "supercloud down" in elsewhere.err
    assert (home / "ports.json").read_text() == kept and ok("status")
    assert ok("down", "-o", "json").json == {"ended": True}
    assert "nothing was running" in ok("down").out
    (home / "broken").write_bytes(b"no backup")
    broken = _command(home, "restore", str(home / "broken"))
    assert broken.status == 2 and len(broken.err.splitlines()) == 2 and "is not a backup" in broken.err
    assert "error:" not in broken.err
    nowhere = _command(home, "backup", str(home / "no" / "folder"))
    assert nowhere.status == 7 and "No such file" in nowhere.err
    _ended_leaves_nothing(home)
    ok("restore", str(home / "b"))
    (home / "keys" / "operator.pem").rename(home / "lost.pem")
    began = time.monotonic()
    assert "your key, made now" in ok("up").out
    assert time.monotonic() - began < 60
    assert ok("cloud", "ls", "-o", "json").json == [], "what is there is the lost key's principal's"
    mended = ok("key", "new", "mended").out.strip()
    ok("principal", "rekey", "operator", "--key", mended)
    ok("token", "mint", "--for", "operator", "--into", str(home / "t"))
    ok("token", "use", "mended", "--token", str(home / "t"))
    environment["SUPERCLOUD_KEY"] = "mended"
    assert [one["name"] for one in ok("cloud", "ls", "-o", "json").json] == ["kept"]
    assert ok("status", "-o", "json").json["quarantine_left_s"] >= 0
    for path in [*home.rglob("*.pem"), *home.rglob("*.db"), *home.glob("*.log"), *home.rglob("*.key")]:
        assert path.stat().st_mode & 0o077 == 0, f"{path} is for its owner only"
    ok("down")
    left = [one.pid for one in psutil.process_iter(["environ"]) if _of(one, home)]
    assert not left


def _ended_leaves_nothing(home: Path) -> None:
    """A backup that is told to end in the middle of writing."""
    images = home / "controlplane" / "images"
    images.mkdir(exist_ok=True)
    with (images / ("0" * 64)).open("wb") as large:
        large.truncate(2 << 30)
    argv = [sys.executable, "-m", "supercloud.cli", "backup", str(home / "given-up")]
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with subprocess.Popen(argv, env=command_environment(home), stderr=subprocess.DEVNULL) as command:
            while not list(home.glob(".backup-*")):  # a file that is begun has no event
                time.sleep(0.01)
            command.send_signal(number)
            assert command.wait(60) == status
        assert not list(home.glob(".backup-*")) and not (home / "given-up").exists()
    (images / ("0" * 64)).unlink()


def _serves_the_web(said: dict[str, Any]) -> None:
    """The program puts its parts together so that a browser gets in."""
    page = httpx.get(said["url"], verify=insecure(), timeout=60)
    assert page.status_code == 200 and "Sign in as operator" in page.text
    assert fingerprint(httpx.URL(said["url"]).port or 0) == said["fingerprint"]


def _ports() -> tuple[str, ...]:
    """Free ones: the usual ones may be another worker's just now, or those of a cloud that is up here."""
    with socket.create_server(("127.0.0.1", 0)) as api, socket.create_server(("127.0.0.1", 0)) as agents:
        found = api.getsockname()[1], agents.getsockname()[1]
    return ("--api-port", str(found[0]), "--agents-port", str(found[1]))


def test_two_ups_at_once_start_one_control_plane(home: Path) -> None:
    ports = _ports()
    ups = [
        subprocess.Popen(
            [sys.executable, "-m", "supercloud.cli", "up", *ports],
            stdout=subprocess.PIPE,
            text=True,
            env=command_environment(home),
        )
        for _ in range(2)
    ]
    said = sorted(up.communicate(timeout=280)[0] for up in ups)
    assert [up.returncode for up in ups] == [0, 0]
    assert "is up" in said[0] and "was up already" in said[1]
    _command(home, "down")
    assert not [one.pid for one in psutil.process_iter(["environ"]) if _of(one, home)]


def test_the_end_of_what_is_started_is_noticed_at_once(tmp_path: Path) -> None:
    """However long it may take to be ready."""
    looks: list[float] = []
    daemon = Daemon("ends", tmp_path, ["supercloud.keystore", "--nonsense"])
    with pytest.raises(Failed, match=r"ends ended: .*nonsense"):
        daemon.start(lambda: False, timeout_s=10_000, waiting=lambda: looks.append(time.monotonic()))
    assert looks and daemon.process() is None

    slow = Daemon("slow", tmp_path, ["http.server", "--bind", "127.0.0.1", "0"])
    try:
        with pytest.raises(Failed, match="slow was not ready in 0 s"):
            slow.start(lambda: False, timeout_s=0)
        assert slow.process() is not None
    finally:
        slow.stop()


def _of(process: psutil.Process, home: Path) -> bool:
    return process.pid != os.getpid() and (process.info["environ"] or {}).get("SUPERCLOUD_HOME") == str(home)


def test_a_port_in_use_and_a_home_that_cannot_be(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--api-port", "--agents-port"):
            done = _command(home, "up", option, port)
            assert done.status == 4 and "used by another program" in done.err and option in done.err
        for refused in ("0", "-1", "99999", "x"):
            assert _command(home, "up", "--api-port", refused).status == 2
        assert _command(home, "up", "--api-port", port, "--agents-port", port).status == 2
    assert not (home / "ports.json").exists(), "what cannot be had is not kept"
    assert not list(home.glob("*.pid")), "and nothing was started"
    (home / "ports.json").write_text("{}")
    done = _command(home, "up")
    assert done.status == 2 and "remove it" in done.err
    long = home / ("x" * 90)
    done = _command(long, "up")
    assert done.status == 2 and "SUPERCLOUD_HOME" in done.err and not long.exists()
    blocked = home / "file"
    blocked.write_text("")
    done = _command(blocked / "below", "status")
    assert done.status == 6 and "supercloud up" in done.err
    done = _command(blocked / "below", "up")
    assert done.status == 1 and "Not a directory" in done.err.splitlines()[-1]
