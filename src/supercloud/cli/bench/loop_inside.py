"""Inside the bench's namespace: starts the processes, kills them, and counts what nft and the journal say."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supercloud.blanket import nft
from supercloud.blanket.overlay import filter as packet_filter
from supercloud.cli.bench.loop_sides import PORT, where
from supercloud.cli.bench.statistics import median, percentile
from supercloud.model.findings import Layer
from supercloud.model.names import new_id
from supercloud.security.events import Stand, finding_id
from supercloud.security.journal import Journal
from supercloud.trust.authority import Authority
from supercloud.trust.keys import IdentityKey, SealingKey, key_of_csr
from supercloud.trust.tls import CONTROLLER_NAME

_SIDES = "supercloud.cli.bench.loop_sides"
_FLOOD, _KILLED = 1_000_000, 2_000_000
_LASTS_S = 86400.0
_ELEMENT = re.compile(r'(?:add|create) element bridge supercloud isolated .*comment "([0-9a-f-]{36})"')


def main(folder: Path, wanted: dict[str, int]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    blanket, cloud = _credentials(folder)
    asyncio.run(_filter())
    with _monitor() as effects:
        commit_s, trip_s = _commit_s(folder), asyncio.run(_round_trip_s(folder))
        with _serving(folder):
            found = json.loads(_detect(folder, "latency", 0, wanted["reactions"]))["s"]
            rate = json.loads(_detect(folder, "flood", _FLOOD, wanted["findings"]))["per_s"]
        verified_s = _verified_s(folder)
        kills, acknowledged = _killed(folder, wanted["findings"], wanted["kills"])
        stand = Stand(detector="port", layer=Layer.L2, domain=blanket, cloud=cloud, objects=_nobody)
        lost = _lost(folder, stand, acknowledged)
        time.sleep(1.0)  # what the kernel told last is on its way through the monitor
        seen = Counter(effects())
    result = {
        "reactions": len(found),
        "p50_ms": median(found) * 1000,
        "p99_ms": percentile(found, 99) * 1000,
        "limit_ms": 3 * (commit_s + trip_s) * 1000,
        "commit_ms": commit_s * 1000,
        "round_trip_ms": trip_s * 1000,
        "verified_p50_ms": verified_s * 1000,
        "findings": wanted["findings"],
        "findings_per_s": rate,
        "kills": kills,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "effects": len(seen),
        "duplicate_effects": sum(many - 1 for many in seen.values()),
    }
    _check(seen, folder)
    (folder / "result.json").write_text(json.dumps(result))


def _nobody(_: str | None) -> None:
    return None


def _check(seen: Counter[str], folder: Path) -> None:
    """That the witness saw what the loop says that it did: one that missed it would find no duplicate."""
    with sqlite3.connect(folder / "journal" / "loop.sqlite") as db:
        done = {
            json.loads(said)["command"]["id"]
            for (said,) in db.execute("SELECT said FROM reactions")
            if json.loads(said)["done_at"] is not None
        }
    if not done or not done <= set(seen):
        raise AssertionError(f"nft monitor saw {len(seen)} effects of {len(done)} that were done")


# ---------------------------------------------------------------- what there is


def _credentials(folder: Path) -> tuple[str, str]:
    """Of the loop and of its detectors, by an authority of the bench's own."""
    now, blanket, cloud = time.time(), new_id(), new_id()
    authority, loop, detector = Authority.new(at=now), IdentityKey.new(), IdentityKey.new()
    certificates = {
        "loop": (
            authority.controller(key_of_csr(loop.csr()), addresses=(), at=now, lifetime_s=_LASTS_S),
            loop,
        ),
        "detector": (
            authority.blanket(
                key_of_csr(detector.csr()),
                cloud=cloud,
                blanket=blanket,
                sealing_key=SealingKey.new().public,
                at=now,
                lifetime_s=_LASTS_S,
            ),
            detector,
        ),
    }
    (folder / "authority.pem").write_text(authority.certificate_pem)
    for name, (certificate, key) in certificates.items():
        (folder / f"{name}.pem").write_text(certificate)
        (folder / f"{name}.key").touch(mode=0o600)
        (folder / f"{name}.key").write_text(key.to_pem())
    return blanket, cloud


async def _filter() -> None:
    t = {"family": "bridge", "name": packet_filter.TABLE}
    await nft.run({"nftables": [{"add": {"table": t}}, *packet_filter.reaction_sets()]})


@contextmanager
def _monitor() -> Iterator[Any]:
    """What the kernel says was added, by the ids of commands; told by a program that knows only nftables."""
    lines: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(
        ["nft", "monitor", "new", "elements"], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as monitor:

        def read() -> None:
            for line in monitor.stdout or ():
                lines.put(line)

        reader = threading.Thread(target=read)
        reader.start()
        probe = "element bridge supercloud denied { 192.0.2.1 }"
        while lines.empty():  # until it listens
            for verb in ("add", "delete"):
                subprocess.run(["nft", f"{verb} {probe}"], check=True)
            time.sleep(0.05)

        def effects() -> list[str]:
            found = []
            while not lines.empty():
                if match := _ELEMENT.search(lines.get()):
                    found.append(match[1])
            return found

        try:
            yield effects
        finally:
            monitor.kill()
            reader.join()


def _start(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", _SIDES, *arguments], text=True, **more)


@contextmanager
def _serving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    loop = _start("serve", str(folder))
    try:
        yield loop
    finally:
        loop.kill()
        loop.wait()


def _detect(folder: Path, what: str, start: int, many: int) -> str:
    argv = [sys.executable, "-m", _SIDES, "detect", str(folder), what, str(start), str(many)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout


# ---------------------------------------------------------------- the limit


def _commit_s(folder: Path) -> float:
    """One row, durable: on the same disk, as the journal does it."""
    db = sqlite3.connect(folder / "limit.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE one (said TEXT)")
    found = []
    for _ in range(300):
        begun = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO one VALUES (?)", ("x" * 1000,))
        db.execute("COMMIT")
        found.append(time.perf_counter() - begun)
    db.close()
    return median(found)


async def _round_trip_s(folder: Path) -> float:
    """An event there and an answer back, over mutual TLS, between processes that do nothing with it."""
    argv = [sys.executable, "-m", _SIDES, "echo", str(folder)]
    echo = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        if echo.stdout is not None:
            await echo.stdout.readline()
        to = where(folder)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", PORT, ssl=to.context, server_hostname=CONTROLLER_NAME
        )
        found, line = [], b"x" * 700 + b"\n"
        for _ in range(500):
            begun = time.perf_counter()
            writer.write(line)
            await reader.readline()
            found.append(time.perf_counter() - begun)
        writer.close()
    finally:
        echo.kill()
        await echo.wait()
    return median(found)


# ---------------------------------------------------------------- what it says of itself, and what is lost


def _verified_s(folder: Path) -> float:
    """From a decision to the proof, by the loop's own clock."""
    with sqlite3.connect(folder / "journal" / "loop.sqlite") as db:
        found = []
        for (said,) in db.execute("SELECT said FROM incidents"):
            timeline = json.loads(said)["timeline"]
            proofs = [one["at"] for one in timeline if one["kind"] == "proof"]
            decided = [one["at"] for one in timeline if one["kind"] == "decision"]
            if proofs and decided:
                found.append(proofs[0] - decided[0])
    return median(found)


def _killed(folder: Path, many: int, kills: int) -> tuple[int, set[str]]:
    """A flood in which loop and detector are killed by turns: how often, and what was acknowledged."""
    acknowledged: set[str] = set()
    chance = random.Random(7)  # noqa: S311 - when to kill is no secret
    done, begun = 0, _KILLED
    loop = _start("serve", str(folder))
    detector = _watched(folder, begun, many, acknowledged)
    try:
        while detector.process.poll() is None or done < kills:
            time.sleep(chance.uniform(0.05, 0.6))
            if done < kills and done % 2 == 0:
                os.kill(loop.pid, signal.SIGKILL)
                loop.wait()
                loop = _start("serve", str(folder))
                done += 1
            elif done < kills and len(acknowledged) > 0:
                os.kill(detector.process.pid, signal.SIGKILL)
                detector.end()
                # It has no memory of its own: it sends all of it again, and what it did not come to.
                detector = _watched(folder, begun, many, acknowledged)
                done += 1
            if done >= kills and detector.process.poll() not in {None, 0}:
                raise AssertionError("the detector ended by itself")
        detector.end()
    finally:
        detector.process.kill()
        loop.kill()
        loop.wait()
    return done, acknowledged


class _watched:  # noqa: N801 - used as a function
    """A detector, of which each number that it heard to be durable is noted."""

    def __init__(self, folder: Path, start: int, many: int, acknowledged: set[str]) -> None:
        self.process = _start("detect", str(folder), "killed", str(start), str(many), stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, args=(acknowledged,))
        self._reader.start()

    def _read(self, acknowledged: set[str]) -> None:
        for line in self.process.stdout or ():
            if line.endswith("\n"):
                acknowledged.add(line.strip())

    def end(self) -> None:
        self.process.wait()
        self._reader.join()


def _lost(folder: Path, stand: Stand, acknowledged: set[str]) -> int:
    """How many of these the journal has not."""
    journal = Journal(folder / "journal" / "loop.sqlite")
    names = [finding_id(stand, uid) for uid in sorted(acknowledged)]
    there = 0
    for at in range(0, len(names), 500):
        there += len(journal.known(names[at : at + 500]))
    journal.close()
    return len(names) - there


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
