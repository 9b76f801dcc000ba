"""Evidence: taken once, of what there is, sealed; whole or not there; fetched by whose cloud it is alone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import actuator_checks as checks
import psutil
import pytest
from api_rig import problem
from blanket_double import Double
from control_rig import Bench
from evidence_rig import SECRET, Machine, Memory
from incident_rig import incident_event
from provider_rig import Estate, estate
from still_qemu import MARK, qemu

from supercloud.agent import evidence as agents
from supercloud.agent.evidence import Evidence
from supercloud.blanket.guest_memory import open_memory
from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.names import GIB, MIB, new_id
from supercloud.model.reactions import Command, Deed
from supercloud.ports.agent import RunState
from supercloud.ports.evidence import EvidenceRef, EvidenceReport
from supercloud.services import evidence_lists, inbox
from supercloud.trust.evidence import Opening, Trailer, known_and_rest, open_key

pytestmark = pytest.mark.contract
HANGS = ("-c", "import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(600)")


class Nobody:
    """Whom nothing is sent to here."""

    def stream(self, stream: str) -> Any:
        raise AssertionError(stream)


def keeping(machine: Machine, folder: Path, **more: Any) -> Evidence:
    hands = {name: more.pop(name) for name in ("memory", "hypervisor") if name in more}
    return Evidence(machine.hands(**hands), folder, Nobody(), **more)


def opened(machine: Machine, file: Path) -> tuple[Any, bytes, Trailer]:
    """What was known, the memory as an ELF core, and what the blanket signed."""
    with file.open("rb") as sealed:
        opening = Opening(sealed)
        of = opening.header
        key = open_key(of.key, key=machine.owner, cloud=of.cloud, blanket=of.blanket, evidence=of.evidence)
        known, rest = known_and_rest(opening.clear(key))
        memory = b"".join(rest)
        return json.loads(known), memory, opening.end(machine.identity.public)


def at(core: bytes, address: int, length: int) -> bytes:
    """What an ELF core has there."""
    (many,) = struct.unpack_from("<H", core, 56)
    for number in range(many):
        where = struct.unpack_from("<IIQQQQQQ", core, 64 + 56 * number)
        if where[4] <= address < where[4] + where[5]:
            begin = where[2] + address - where[4]
            return core[begin : begin + length]
    raise AssertionError(f"nothing is at {address:#x}")


def readelf(core: Path) -> str:
    return subprocess.run(["readelf", "-lW", core], capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------- taken


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda one: one.__name__)
async def test_it_is_an_actuator(check: checks.Check, tmp_path: Path) -> None:
    machine = Machine(stands={checks.NOWHERE: RunState.ABSENT})
    await check(keeping(machine, tmp_path), Deed.KEEP)


@pytest.mark.parametrize(("size", "where"), [(64 * MIB, 0x10_0000), (3 * GIB, 4 * GIB + MIB)])
async def test_a_real_qemus_memory_is_kept_and_opened_by_its_owner(
    tmp_path: Path, size: int, where: int
) -> None:
    machine = Machine()
    with qemu(tmp_path, size, at=where) as made:
        kept = keeping(machine, tmp_path / "kept", memory=lambda one: open_memory(one, tmp_path))
        one = checks.command(Deed.KEEP, about=made.instance)
        await kept.do(one)
        (report,) = await kept.list()
    assert (report.instance, report.incident, report.whole) == (made.instance, machine.incident, True)
    file = tmp_path / "kept" / f"{one.id}.evidence"
    assert report.size_bytes == file.stat().st_size < 64 * MIB, "what was never written to is not in it"
    assert file.stat().st_mode & 0o777 == 0o600
    assert MARK.to_bytes(8, "little") not in file.read_bytes()
    known, core, _ = opened(machine, file)
    assert known["incident"]["title"] == "Scan for open ports"
    assert at(core, where, 8) == MARK.to_bytes(8, "little")
    (tmp_path / "core").write_bytes(core)
    said = await asyncio.to_thread(readelf, tmp_path / "core")
    assert "Elf file type is CORE" in said and f"{where & ~0xFFFFF:#018x}" in said


async def test_it_is_taken_once_however_often_it_is_ordered(tmp_path: Path) -> None:
    machine, one = Machine(), checks.command(Deed.KEEP)
    kept = keeping(machine, tmp_path)
    await asyncio.gather(*(kept.do(one) for _ in range(5)))
    before = (tmp_path / f"{one.id}.evidence").read_bytes()
    await keeping(machine, tmp_path).do(one)
    assert (tmp_path / f"{one.id}.evidence").read_bytes() == before, "a fresh key would show"
    known, core, end = opened(machine, tmp_path / f"{one.id}.evidence")
    assert SECRET * 3 in core and end.whole and known["incident"]["id"] == machine.incident
    assert SECRET not in before and b"Scan for" not in before


async def test_killed_between_the_file_and_its_note_it_is_not_taken_again(tmp_path: Path) -> None:
    machine, one = Machine(), checks.command(Deed.KEEP)
    await keeping(machine, tmp_path).do(one)
    before = (tmp_path / f"{one.id}.evidence").read_bytes()
    (tmp_path / "done" / checks.HERE).unlink()
    kept = keeping(machine, tmp_path)
    assert not await kept.look(one)
    await kept.do(one)
    assert await kept.look(one) and (tmp_path / f"{one.id}.evidence").read_bytes() == before


async def test_what_runs_is_torn_and_said_to_be(tmp_path: Path) -> None:
    """A processor that ran for a moment, too, though it was paused before and after."""
    machine = Machine(stands={checks.HERE: RunState.RUNNING})
    await keeping(machine, tmp_path).do(checks.command(Deed.KEEP))

    class Moved(Memory):
        def executed_ns(self) -> int:
            self.executed += 1
            return self.executed

    other = checks.command(Deed.KEEP, 2, about=str(uuid.UUID(int=8)))
    kept = keeping(machine, tmp_path, memory=lambda _: Moved())
    await kept.do(other)
    assert [one.whole for one in await kept.list()] == [False, False]


async def test_half_a_file_is_none_and_is_swept_away(tmp_path: Path) -> None:
    """The agent is killed while it is written: with it goes who writes."""
    one, part = checks.command(Deed.KEEP), f"{checks.command(Deed.KEEP).id}.part"
    script = (
        "import asyncio, sys; from pathlib import Path; sys.path[:0] = sys.argv[1:3];"
        "import test_evidence as here;"
        "kept = here.keeping(here.Machine(), Path(sys.argv[3]), argv=here.HANGS);"
        "asyncio.run(kept.do(here.checks.command(here.Deed.KEEP)))"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(tmp_path)]
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *folders, stderr=asyncio.subprocess.PIPE
    )
    assert agent.stderr is not None
    async with asyncio.timeout(60):
        while b"here" not in await agent.stderr.readline():
            pass
    writers = psutil.Process(agent.pid).children()
    agent.send_signal(signal.SIGKILL)
    for left in writers:  # that one hangs on purpose; a taker ends with who began it
        left.kill()
    await agent.wait()
    assert (tmp_path / part).exists() and not await keeping(Machine(), tmp_path).list()
    assert not (tmp_path / part).exists()
    kept = keeping(Machine(), tmp_path)
    assert not await kept.look(one)
    await kept.do(one)
    assert len(await kept.list()) == 1


async def test_who_writes_has_no_right_but_that_and_ends_with_who_began_it(tmp_path: Path) -> None:
    machine, memory, pipe = Machine(), Memory(), os.pipe()
    one = checks.command(Deed.KEEP)
    question = keeping(machine, tmp_path)._question(one, memory, 64 * MIB)
    beginner = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, *sys.argv[3:], *sys.argv[1:3]],"
        " pass_fds=[int(n) for n in sys.argv[1:3]], stdin=0); print(p.pid, flush=True); time.sleep(600)"
    )
    os.set_inheritable(pipe[1], True)
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", beginner, str(memory.descriptor), str(pipe[1]), *agents.TAKER),
        pass_fds=(memory.descriptor, pipe[1]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert agent.stdin is not None and agent.stdout is not None
    os.close(pipe[1])
    agent.stdin.write(json.dumps(question).encode() + b"\n")
    writer = psutil.Process(int(await agent.stdout.readline()))
    begun = await asyncio.to_thread(os.read, pipe[0], 64)  # and then nobody reads on: it waits
    assert begun.startswith(b"supercloud evidence 1\n")
    status = Path(f"/proc/{writer.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    if os.geteuid() == 0:
        assert "Uid:\t64900\t64900\t64900\t64900" in status and "CapEff:\t0000000000000000" in status
    agent.kill()
    await agent.wait()
    async with asyncio.timeout(20):
        while writer.is_running() and writer.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    os.close(pipe[0])
    memory.close()


async def test_so_many_are_kept_and_one_instance_has_its_part_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "MOST", 5)
    machine = Machine()
    kept = keeping(machine, tmp_path)

    async def take(number: int, about: str) -> Command:
        one = checks.command(Deed.KEEP, number, about=about)
        await kept.do(one)
        await kept.undo(one)  # its time is over: it may be taken again, and what was taken stays
        return one

    first = [await take(number, checks.HERE) for number in range(1, 5)]
    with pytest.raises(Refused, match="that is all that can be"):
        await take(5, checks.HERE)
    other = str(uuid.UUID(int=7))
    await take(6, other)
    with pytest.raises(Refused, match="that is all that can be"):
        await take(7, other)
    assert len(await kept.list()) == 5
    await kept.remove(EvidenceRef(evidence=first[0].id))
    await kept.remove(EvidenceRef(evidence=first[0].id))
    await take(7, other)


@pytest.mark.parametrize("sealed_to", [None, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "no key"])
async def test_what_cannot_be_sealed_to_its_owner_is_not_kept(tmp_path: Path, sealed_to: str | None) -> None:
    machine = Machine(sealed_to=sealed_to)
    with pytest.raises(Refused):
        await keeping(machine, tmp_path).do(checks.command(Deed.KEEP))
    assert not [*tmp_path.glob("*.part"), *tmp_path.glob("*.evidence")]


async def test_where_there_is_no_room_none_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 12 * MIB})
    monkeypatch.setattr(agents.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Refused, match="more than half of the room"):
        await keeping(Machine(), tmp_path).do(checks.command(Deed.KEEP))
    assert not list(tmp_path.glob("*.part"))


async def test_a_second_reaction_waits_for_the_first_ones_time(tmp_path: Path) -> None:
    kept = keeping(Machine(), tmp_path)
    await kept.do(checks.command(Deed.KEEP, 1))
    with pytest.raises(Conflict, match="by another reaction"):
        await kept.do(checks.command(Deed.KEEP, 2))


async def test_what_does_not_run_has_no_memory(tmp_path: Path) -> None:
    machine = Machine(stands={checks.HERE: RunState.DEFINED})
    with pytest.raises(NotFound, match="is defined here"):
        await keeping(machine, tmp_path).do(checks.command(Deed.KEEP))


# ---------------------------------------------------------------- fetched


@pytest.fixture
async def people(database_url: str, tmp_path: Path) -> AsyncIterator[Estate]:
    async with estate(database_url, tmp_path) as made:
        yield made


async def kept_at(people: Estate) -> tuple[str, Double, str]:
    """An incident at Alice's blanket, that blanket, and evidence of the incident that it keeps."""
    bench: Bench = people.api.bench
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    double = bench.site.machines[blanket]
    event = incident_event(double.incident, cloud=cloud, blanket=blanket)
    await inbox.take(bench.parts.store, blanket, cloud, [event], at=1.0)
    one = checks.command(Deed.KEEP, about=new_id())
    await double.evidence.do(one)
    (incident,) = (await people.alice.get("/incidents")).json()
    return incident["id"], double, one.id


async def test_it_is_listed_and_removed_by_whose_cloud_it_is_and_nobody_else(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    path = f"/incidents/{incident}/evidence"
    (found,) = (await people.alice.get(path)).json()
    assert (found["id"], found["incident"], found["whole"]) == (evidence, incident, True)
    for who in (people.bob, people.carol):
        problem(await who.get(path), 404, "not-found")
        problem(await who.delete(f"{path}/{evidence}"), 404, "not-found")
    problem(await people.alice.delete(f"{path}/{new_id()}"), 404, "not-found")
    assert len(await double.evidence.list()) == 1
    assert (await people.alice.delete(f"{path}/{evidence}")).status_code == 204
    assert (await people.alice.get(path)).json() == []


async def test_all_that_is_kept_is_in_one_list_and_what_is_away_is_said(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    (found,) = (await people.alice.get(f"/incidents/{incident}/evidence")).json()
    for query in ({}, {"cloud": "c"}, {"blanket": "c1"}, {"cloud": "c", "blanket": "c1"}):
        listed = (await people.alice.get("/evidence", params=query)).json()
        assert listed == {"evidence": [found], "away": []}, query
    assert (await people.alice.get("/evidence", params={"blanket": "c2"})).json()["evidence"] == []
    assert (await people.alice.get(f"/evidence/{evidence}")).json() == found
    file = people.api.bench.site.folder / f"{double.birth.blanket}.evidence" / f"{evidence}.evidence"
    with file.open("rb") as sealed:
        body, _, _ = sealed.read()[:-1].rpartition(b"\n")
    assert found["digest"] == hashlib.sha256(body).hexdigest(), "what its blanket signed"
    for who in (people.bob, people.carol):
        assert (await who.get("/evidence")).json() == {"evidence": [], "away": []}
        problem(await who.get(f"/evidence/{evidence}"), 404, "not-found")
        problem(await who.get("/evidence", params={"blanket": people.machines["c1"]}), 404, "not-found")
    problem(await people.alice.get(f"/evidence/{new_id()}"), 404, "not-found")
    problem(await people.alice.get("/evidence/what"), 422, "invalid-input")
    await double.end()
    await people.api.bench.gone("c1")
    away = (await people.alice.get("/evidence")).json()
    assert away["evidence"] == [] and [one["blanket"] for one in away["away"]] == ["c1"]
    problem(await people.alice.get(f"/evidence/{evidence}"), 503, "unavailable")
    assert (await people.bob.get("/evidence")).json()["away"] == []


async def test_however_many_look_at_lists_a_blanket_is_asked_once(
    people: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    incident, double, evidence = await kept_at(people)
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    asked, full, real = [0], threading.Event(), Evidence._reports

    def counted(self: Evidence) -> Iterator[EvidenceReport]:
        asked[0] += 1
        if full.is_set():
            raise Refused("its disk is full")
        return real(self)

    monkeypatch.setattr(Evidence, "_reports", counted)

    async def listed() -> list[str]:
        return [one["id"] for one in (await people.alice.get("/evidence")).json()["evidence"]]

    assert await asyncio.gather(*(listed() for _ in range(20))) == [[evidence]] * 20
    assert await listed() == [evidence] and asked == [1]
    await double.evidence.do(checks.command(Deed.KEEP, 2, about=new_id()))
    event = incident_event(double.incident, cloud=cloud, blanket=blanket, version=2)
    await inbox.take(people.api.bench.parts.store, blanket, cloud, [event], at=2.0)
    before, asked[0] = set(await listed()), 0
    assert len(before) == 2, "as its incident went on it was asked again"
    assert (await people.alice.delete(f"/incidents/{incident}/evidence/{evidence}")).status_code == 204
    assert set(await listed()) == before - {evidence} and asked[0] == 2, "to remove it, and to list the rest"
    monkeypatch.setattr(evidence_lists, "FAILED_COUNTS_S", 0.0)
    full.set()
    people.api.bench.parts.feed.broken()
    away = (await people.alice.get("/evidence")).json()["away"]
    assert [one["why"] for one in away] == ["its disk is full"], "what was not told may have been of this"
    full.clear()
    assert set(await listed()) == before - {evidence}, "an error is not kept for long"


async def test_another_incident_has_none_of_it(people: Estate) -> None:
    incident, _, evidence = await kept_at(people)
    blanket, cloud = people.machines["c1"], people.clouds["c"]
    event = incident_event(new_id(), cloud=cloud, blanket=blanket)
    await inbox.take(people.api.bench.parts.store, blanket, cloud, [event], at=1.0)
    (other,) = [one["id"] for one in (await people.alice.get("/incidents")).json() if one["id"] != incident]
    assert (await people.alice.get(f"/incidents/{other}/evidence")).json() == []
    problem(await people.alice.delete(f"/incidents/{other}/evidence/{evidence}"), 404, "not-found")


async def test_its_bytes_come_as_they_are_from_wherever_one_stopped(people: Estate) -> None:
    incident, double, evidence = await kept_at(people)
    file = people.api.bench.site.folder / f"{double.birth.blanket}.evidence" / f"{evidence}.evidence"
    whole, got = file.read_bytes(), io.BytesIO()
    stream = await people.api.bench.control.evidence_stream(incident, evidence, offset=1000)
    async for data in stream:
        got.write(data)
    assert got.getvalue() == whole[1000:]
