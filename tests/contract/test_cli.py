"""The command line as a user has it: real processes against a real listener, over machines that dial in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import actuator_checks
import psutil
import pytest
from api_rig import Done, Served, command_environment, served
from control_rig import World, furnish, lost
from cyclopts import App
from evidence_rig import SECRET
from incident_rig import incident_event

from supercloud.cli.main import build
from supercloud.cli.output import TimeLeft, progress
from supercloud.cli.terminal import _one_word
from supercloud.cli.took import timed
from supercloud.model.names import MIB, new_id
from supercloud.model.reactions import Deed
from supercloud.services import inbox
from supercloud.services.requests import RegisterImage

pytestmark = pytest.mark.contract
#: What the product promises; each of these exists and says how to use it.
COMMANDS = (
    """
up|down|status|backup|restore|doctor|demo|demo attack|events
provider add|provider ls|provider show|provider rm|provider set|provider drain|provider undrain
provider accept
domain register|domain ls|domain show|domain set|domain machines|domain health|domain drain|domain undrain
domain drains
domain rm|domain plan|domain windows|domain unplan|domain events
domain report|domain findings|domain take|domain orders|domain answer|domain ask|domain acts|domain withdraw
domain perform|domain export
policy test|policy rules|policy set|policy show|policy history|policy rollback|policy unset
incident export|indicator import|incident ls|incident show|incident explain|incident close
incident allow|incident refuse
incident evidence ls|incident evidence fetch|incident evidence open|incident evidence rm
incident evidence scan
finding ls|finding show|order place|order kinds|order ls|order show|order cancel|act ls|act show|act refuse
act grant|act open|tpm trust|tpm ls|tpm forget
key new|key ls|key show
principal add|principal ls|principal show|principal rekey|principal rm
token mint|token attenuate|token hand-on|token show|token use|token ls|token revoke
cloud create|cloud ls|cloud show|cloud rm|cloud rotate-keys|cloud quota
trust grant|trust ls|trust show|trust revoke|trust approve|trust graph
blanket connect|blanket vms|vm adopt
blanket add|blanket ls|blanket show|blanket start|blanket stop|blanket rm|blanket console|blanket upgrade
image import|image ls|image show|image rm
network create|network ls|network show|network rm|network set-level
volume create|volume ls|volume show|volume attach|volume detach|volume resize|volume rm
volume snapshot|volume restore|volume backup|volume set-level
vm run|vm ls|vm show|vm start|vm stop|vm reboot|vm scan|vm restore|vm rm|vm console|vm ssh|vm migrate|vm logs
vm place|vm move|vm set-level
level ls|level explain
operation ls|operation show|operation wait|operation cancel
apply|diff|export|schema|web
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
#: These take over the terminal, or say what has one form only.
_NO_JSON = {
    "blanket console",
    "blanket connect",
    "vm console",
    "vm ssh",
    "vm logs",
    "schema",
    "incident export",
}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database is enough here."""
    return f"sqlite:///{tmp_path / 'supercloud.db'}"


@pytest.fixture
async def cli(world: World, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(world, tmp_path / "h") as made:
        yield made


@pytest.fixture
async def cloud(cli: Served, world: World) -> Served:
    """With an image, a network and a blanket."""
    await furnish(cli.bench, world.keys)
    await cli.bench.blanket("n1")
    return cli


def disk(folder: Path) -> Path:
    raw, made = folder / "disk.raw", folder / "disk.qcow2"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(200_000) + bytes(2 * MIB - 200_512))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", raw, made], check=True)
    return made


# ---------------------------------------------------------------- what there is


def test_every_command_says_how_to_use_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    # What lists all commands gives each a line of help in place of its own, for as long as a process lasts.
    for name in [one for one in sys.modules if one.startswith("supercloud.cli.commands.")]:
        monkeypatch.delitem(sys.modules, name)
    for command in COMMANDS:
        words = command.split()
        build(words)([*words, "--help"])
        said = capsys.readouterr().out
        assert f"Usage: supercloud {command}" in said, command
        assert f"supercloud {words[0]}" in said.partition("Example:")[2], f"{command} has no example"
        if command not in _NO_JSON:
            assert "--output" in said and "-o" in said, command
        for option, text in re.findall(r"^│ (?:\* )? +(--?[\w-]+)([^│]*)│", said, re.MULTILINE):
            # Neither its other names and its type nor what follows in brackets says what it is for.
            meant = re.sub(r"\[(required|default|choices)\b.*|--?[\w-]+|\b[A-Z]{2,}\b", "", text)
            assert re.search("[a-z]{3}", meant), f"{command}: {option} is not explained"


def test_the_whole_app_is_listed() -> None:
    """A command that is added is added to the list above, or is hidden on purpose."""
    hidden = {"bench", "vm proxy", "--install-completion", "--help", "-h", "--version"}

    def walk(app: App, words: tuple[str, ...]) -> Iterator[str]:
        for name in app:
            if name in hidden or " ".join((*words, name)) in hidden:
                continue
            below = list(walk(app[name], (*words, name)))
            if not below or app[name].default_command:
                yield " ".join((*words, name))
            yield from below

    assert set(walk(build([]), ())) == set(COMMANDS)


def test_completion_knows_every_command(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = tmp_path / shell
        done = subprocess.run(
            [sys.executable, "-m", "supercloud.cli", "--install-completion", "--shell", shell, "-o", script],
            check=False,
            capture_output=True,
            text=True,
            env=command_environment(tmp_path),
        )
        assert done.returncode == 0, done.stderr
        text = script.read_text()
        for command in COMMANDS:
            assert command.split()[-1] in text, f"{shell}: {command}"
    subprocess.run(["bash", "-n", tmp_path / "bash"], check=True)


def test_time_left_is_told_as_well_as_it_can_be() -> None:
    left = TimeLeft(99)
    assert left(10, 0.25) == "30 s left"
    assert left(30, 0.25) == "10 s left", "a step that takes long does not make the rest longer"
    assert left(50, 0.25) == "49 s left", "as usual, then"
    assert left(100, 0.25) == "usually takes 99 s"
    assert left(100, 0.8) == "25 s left"
    assert TimeLeft(25)(10, None) == TimeLeft(25)(10, 0.001) == "15 s left"
    assert TimeLeft(25)(30, None) == "usually takes 25 s"
    assert TimeLeft(None)(30, None) == "" and TimeLeft(None)(1, 0.0) == ""
    parts = TimeLeft(None)
    assert parts(60, 1.0) == "" and parts(60, 0.0) == ""
    assert parts(62, 0.5) == "2 s left", "of what began after the first part"


def test_what_took_so_long_before_has_so_long_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(folder: Path = tmp_path) -> str:
        with timed("up", "control plane", folder) as bar:
            bar("starting", None)
        return capsys.readouterr().err

    assert "left" not in once()
    assert not list(tmp_path.iterdir()), "it took no time"
    monkeypatch.setattr("supercloud.cli.took._WORTH_S", 0.0)
    (tmp_path / "took.json").write_text('{"up": 30.0}')
    assert once() == "control plane: starting, 30 s left\n"
    assert json.loads((tmp_path / "took.json").read_text())["up"] < 30
    with pytest.raises(KeyError), timed("up", "control plane", tmp_path):
        raise KeyError
    for broken in ("", "[]", '{"up": null}'):
        (tmp_path / "took.json").write_text(broken)
        assert "left" not in once()
    assert "left" not in once(tmp_path / "nowhere")


def test_a_line_that_says_nothing_new_is_said_seldom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0, *range(0, 130, 2), 131, 132])
    monkeypatch.setattr("supercloud.cli.output.time.monotonic", lambda: float(next(clock)))
    with progress("create blanket n1") as bar:
        for _ in range(0, 130, 2):
            bar("booting", 0.2)
        bar("booting", 0.5)
        bar("ready", None)
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == ["create blanket n1: booting 20%"] * 3, "once a minute"
    assert len(said) == 5 and "50%" in said[3] and said[4].startswith("create blanket n1: ready")


# ---------------------------------------------------------------- a life


async def test_a_life(cli: Served, tmp_path: Path) -> None:
    ok = cli.ok
    await ok("provider", "add", "north", "--kind", "simulated")
    await ok("provider", "add", "south", "--kind", "simulated")
    await ok("cloud", "create", "mine", "--right-length", "90")
    await ok("network", "create", "lan", "--cloud", "mine", "--cidr", "10.7.0.0/24")
    added = await asyncio.gather(
        ok("blanket", "add", "n1", "--cloud", "mine", "--provider", "north", "--memory", "1.5G"),
        ok("blanket", "add", "s1", "--cloud", "mine", "--provider", "south"),
    )
    assert all("is ready" in done.out for done in added) and "blanket n1: " in added[0].err
    imported = await ok("image", "import", str(disk(tmp_path)), "--name", "debian")
    assert imported.out.startswith("image debian imported: sha256:")
    assert "encrypting" in imported.err and "uploading" in imported.err
    assert not list((cli.home / "tmp").iterdir()), "the scratch is gone"

    run = ("vm", "run", "web", "--cloud", "mine", "--image", "debian", "--on", "n1", "--network", "lan")
    ran = await ok(*run, "--publish", "80", "--disk", "8M", "-o", "json")
    assert ran.json["state"] == "succeeded" and ran.json["kind"] == "instance.run" and not ran.err
    shown = (await ok("vm", "show", "web", "-o", "json")).json
    assert (shown["state"], shown["blanket"], shown["memory_mib"]) == ("running", "n1", 512)
    (key,) = (await cli.bench.control.instances())[0].volumes
    assert (await ok("volume", "show", key, "-o", "json")).json["size_bytes"] == 8 * MIB

    left = [(await ok("status", "-o", "json")).json["instances_list"][0]["right_left_s"] for _ in range(2)]
    assert 0 < left[1] < left[0] < 100, "a right is counted down"
    table = (await ok("status")).out
    assert re.search(r"instances running +1", table) and re.search(
        r"web +mine +running +n1 +1 +\d+\.\d", table
    )

    moved = await ok("vm", "migrate", "web", "--to", "s1")
    assert re.search(r"web runs on s1 in [\d.]+ s, 12 ms down", moved.out)
    for words in (("reboot", "web"), ("stop", "web"), ("start", "web")):
        assert "done" in (await ok("vm", *words)).out
    await ok("volume", "create", "data", "--cloud", "mine", "--size", "16M")
    await ok("volume", "attach", "data", "web")
    assert "has 1G" in (await ok("volume", "resize", "data", "1G")).out
    await ok("volume", "snapshot", "data", "first")
    assert (await ok("volume", "show", "data", "-o", "json")).json["snapshots"] == ["first"]
    wrong = await cli.wrong("volume", "restore", "data", "--snapshot", "first", status=4)
    assert "instance web has volume data and is running" in wrong
    assert "to what it goes back" in await cli.wrong("volume", "restore", "data", status=2)
    assert "runs as it was" in (await ok("vm", "restore", "web", "--image")).out
    assert "to image in-use" in (await ok("volume", "backup", "data", "--to", "in-use")).out
    await ok("volume", "detach", "data")
    assert "to image saved" in (await ok("volume", "backup", "data", "--to", "saved")).out
    assert "is as it was" in (await ok("volume", "restore", "data", "--snapshot", "first")).out
    for image in ("in-use", "saved"):
        assert (await ok("image", "show", image, "-o", "json")).json["complete"]
        await ok("image", "rm", image)
    await ok("volume", "rm", "data")
    await ok("cloud", "rotate-keys", "mine")
    assert (await ok("operation", "ls", "--limit", "1", "-o", "json")).json[0]["kind"] == "cloud.rotate-keys"

    assert "is stopped" in (await ok("blanket", "stop", "n1")).out
    assert "is ready" in (await ok("blanket", "start", "n1")).out
    assert "instance web runs" in await cli.wrong("blanket", "stop", "s1", status=4)
    for words in (("vm", "rm", "web", "--force"), ("blanket", "rm", "n1"), ("blanket", "rm", "s1")):
        await ok(*words)
    for words in (("network", "rm", "lan"), ("image", "rm", "debian"), ("cloud", "rm", "mine")):
        assert (await ok(*words, "-o", "json")).json == {"removed": words[2]}
    for thing in ("provider", "cloud", "blanket", "image", "network", "volume", "vm"):
        listed = await ok(thing, "ls", "-o", "json")
        assert len(listed.json) == (2 if thing == "provider" else 0), thing
    assert (await ok("vm", "ls")).err == "(none)\n"


@pytest.mark.parametrize("name", ["plain", "a b", 'a"b', "a'b", "a%hb", "a\\b", "ü"])
def test_ssh_keeps_host_keys_in_one_file_wherever_the_home_is(name: str) -> None:
    """As ssh itself understands what it is told."""
    path = Path("/home") / name / "known_hosts"
    argv = ["ssh", "-F", "none", "-G", "-o", f"UserKnownHostsFile={_one_word(path)}", "example"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert f"userknownhostsfile {path}" in done.stdout.splitlines()


async def test_streams_on_a_terminal_and_in_a_pipe(cloud: Served, tmp_path: Path) -> None:
    await cloud.bench.run(on="n1")
    command = await cloud.start("vm", "console", "web")
    await command.says("Ctrl-] leaves")
    stdin, stdout = command.process.stdin, command.process.stdout
    assert stdin is not None and stdout is not None
    stdin.write(b"hello")
    async with asyncio.timeout(20):
        assert await stdout.readexactly(5) == b"hello", "every port of a double is an echo"
    assert (await command.done(b"\x1d")).status == 0
    assert "no instance nobody" in await cloud.wrong("vm", "console", "nobody", status=3)

    # ssh is a program of the user's: what it is given is what counts.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    (programs / "ssh").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    done = await cloud.run("vm", "ssh", "web", "--user", "me", "--", "uname", "-a", PATH=path)
    words = done.out.splitlines()
    identity = (await cloud.bench.control.instance("web")).id
    assert done.status == 7 and f"HostKeyAlias={identity}.supercloud" in words
    assert words[-6:] == ["-l", "me", "--", "web", "uname", "-a"]
    proxy = next(word for word in words if word.startswith("ProxyCommand=")).partition("=")[2]
    process = await asyncio.create_subprocess_shell(
        proxy,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=command_environment(cloud.home),
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"SSH-2.0-x\r\n")
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"SSH-2.0-x\r\n"
    process.stdin.close()
    async with asyncio.timeout(60):
        assert await process.wait() == 0, "it does not outlive who it served"


# ---------------------------------------------------------------- what goes wrong


async def test_errors_are_one_line_that_says_what_to_do(cloud: Served, tmp_path: Path) -> None:
    wrong = cloud.wrong
    assert "supercloud cloud ls" in await wrong("cloud", "show", "nowhere", status=3)
    assert "supercloud vm ls" in await wrong("vm", "show", "nobody", status=3)
    assert "already" in await wrong("cloud", "create", "c", status=4)
    assert "--help" in await wrong("vm", "run", status=2)
    assert "--help" in await wrong("nonsense", status=2)
    assert "provider add --help" in await wrong("provider", "add", "x", "--colour", "red", status=2)
    assert "not a size" in await wrong("volume", "create", "d", "--cloud", "c", "--size", "big", status=2)
    assert "KEY=VALUE" in await wrong("provider", "add", "x", "--option", "novalue", status=2)
    assert "not PORT" in await wrong(*_run("--publish", "http"), status=2)
    assert "needs a --network" in await wrong(*_run("--publish", "80"), status=2)
    for cidr in ("fd00::/64", "10.0.0.0", "x", "10.0.0.0/8\n"):
        assert "such as 10" in await wrong("network", "create", "n", "--cloud", "c", "--cidr", cidr, status=2)
    await cloud.ok("volume", "create", "empty", "--cloud", "c", "--size", "2M")
    assert "(attach it" in await wrong("volume", "snapshot", "empty", "now", status=4)
    assert "has 2M and can only grow" in await wrong("volume", "resize", "empty", "1M", status=2)
    assert "(supercloud volume show empty" in await wrong(
        "volume", "create", "empty", "--cloud", "c", "--size", "2M", status=4
    )
    await cloud.ok("volume", "rm", "empty")
    assert "not a file" in await wrong("image", "import", str(tmp_path), "--name", "x", status=2)
    assert "not a file" in await wrong("restore", str(tmp_path / "none"), status=2)
    assert "cannot be read" in await wrong(*_run("--user-data", str(tmp_path / "none")), status=2)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (65 << 10))
    assert "more than 65536 bytes" in await wrong(*_run("--user-data", str(large)), status=2)
    large.write_bytes(b"\xff\xfe")
    assert "cannot be read" in await wrong(*_run("--user-data", str(large)), status=2)
    assert not await cloud.bench.control.instances() and not await cloud.bench.control.volumes()


def _run(*more: str) -> tuple[str, ...]:
    return ("vm", "run", "web", "--cloud", "c", "--image", "debian", *more)


async def test_no_control_plane_says_how_to_start_one(tmp_path: Path) -> None:
    lone = Served(None, None, tmp_path)  # type: ignore[arg-type]
    (tmp_path / "tmp").mkdir()
    assert "(supercloud up)" in await lone.wrong("vm", "ls", status=6)
    (tmp_path / "access.json").write_text("{")
    assert "broken (supercloud up rewrites it)" in await lone.wrong("vm", "ls", status=2)


async def test_ctrl_c_cancels_and_a_second_one_leaves_it(cloud: Served) -> None:
    await cloud.bench.blanket("s1")
    await cloud.bench.run(on="n1")
    cloud.bench.site.hold_transfers = True
    command = await cloud.start("vm", "migrate", "web", "--to", "s1")
    await command.says("transfer")
    command.interrupt()
    done = await command.done()
    assert done.status != 0 and "cancel" in done.err and len(_errors(done)) == 1, done
    (operation,) = await cloud.bench.control.operations(kind="instance.migrate")
    assert operation.state == "cancelled"
    assert (await cloud.bench.control.instance("web")).blanket == "n1"

    no_wait = await cloud.ok("vm", "migrate", "web", "--to", "s1", "--no-wait", "-o", "json")
    identity = no_wait.json["id"]
    assert f"supercloud operation cancel {identity}" in no_wait.err
    joined = await cloud.ok("vm", "migrate", "web", "--to", "s1", "--no-wait", "-o", "json")
    assert joined.json["id"] == identity, "asked for again, it is the same operation"
    assert f"operation wait {identity}" in await cloud.wrong("vm", "stop", "web", status=4)
    waiting = await cloud.start("operation", "wait", identity)
    await waiting.says("transfer")
    cloud.bench.site.hold_transfers = False
    waiting.interrupt()
    waiting.interrupt()
    left = await waiting.done()
    assert left.status in {0, 130} or "cancel" in left.err
    ended = await cloud.run("operation", "wait", identity, "-o", "json")
    seen = await cloud.bench.control.operation(identity)
    assert (ended.status == 0) == (seen.state == "succeeded")
    assert len(cloud.bench.site.running(seen.object)) == 1


async def test_a_migration_that_lost_the_memory_does_not_succeed(cloud: Served) -> None:
    south = await cloud.bench.blanket("s1")
    instance = await cloud.bench.run(on="n1")
    (north,) = (one for one in cloud.bench.site.machines.values() if one is not south)
    cloud.bench.site.hold_transfers = True
    command = await cloud.start("vm", "migrate", "web", "--to", "s1")
    await command.says("transfer")
    lost(north, south, instance)
    done = await command.done()
    assert done.status == 1 and "runs on s1" not in done.out, done
    (line,) = _errors(done)
    assert "lost its memory" in line and "vm show web" in line
    assert cloud.bench.site.running(instance) == ["n1"]


def _errors(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if line.startswith("supercloud: ")]


async def test_an_interrupted_import_leaves_nothing_and_can_be_run_again(
    cloud: Served, tmp_path: Path
) -> None:
    raw = tmp_path / "large.raw"
    with raw.open("wb") as file:
        file.write(bytes(510) + b"\x55\xaa")
        for _ in range(192):
            file.write(os.urandom(MIB))
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        command = await cloud.start("image", "import", str(raw), "--name", "large")
        await command.says("encrypting")
        child = await _qemu_img(command.process.pid)
        command.process.send_signal(number)
        assert (await command.done()).status == status
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert not list((cloud.home / "tmp").iterdir())
    raw.unlink()
    await cloud.bench.control.register_image(
        RegisterImage(name="half", digest="sha256:" + "1" * 64, size_bytes=9 * MIB, virtual_bytes=9 * MIB)
    )
    image = disk(tmp_path)
    assert (await cloud.ok("image", "import", str(image), "--name", "half", "-o", "json")).json["complete"]
    assert "supercloud image rm half" in await cloud.wrong(
        "image", "import", str(image), "--name", "half", "-o", "json", status=4
    )


async def _qemu_img(parent: int) -> psutil.Process:
    async with asyncio.timeout(30):
        while True:  # a program that starts has no event for others
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(parent).children(recursive=True):
                    if child.name() == "qemu-img":
                        return child
            await asyncio.sleep(0.01)


async def test_a_reader_that_leaves_is_no_error(cloud: Served) -> None:
    command = await cloud.start("operation", "ls", "-o", "json")
    assert command.process.stdout is not None
    command.process.stdout._transport.close()  # type: ignore[attr-defined]
    done = await command.done()
    assert done.status in {0, 141} and "Traceback" not in done.err and "Exception" not in done.err


async def test_evidence_is_fetched_sealed_goes_on_where_it_was_and_is_opened_on_demand(
    cloud: Served, tmp_path: Path
) -> None:
    double = next(iter(cloud.bench.site.machines.values()))
    of = (await cloud.bench.control.cloud("c")).id
    event = incident_event(double.incident, cloud=of, blanket=double.birth.blanket)
    await inbox.take(cloud.bench.parts.store, double.birth.blanket, of, [event], at=1.0)
    one = actuator_checks.command(Deed.KEEP, about=new_id())
    await double.evidence.do(one)
    (incident,) = [found.id for found in await cloud.bench.control.incidents()]
    say = ("incident", "evidence")
    (listed,) = (await cloud.ok(*say, "ls", incident, "-o", "json")).json
    assert (listed["id"], listed["whole"]) == (one.id, True)
    every = (await cloud.ok(*say, "ls", "-o", "json")).json
    assert every == {"evidence": [listed], "away": []}
    assert one.id in (await cloud.ok(*say, "ls", "--cloud", "c")).out
    file, part = tmp_path / "case.evidence", tmp_path / "case.evidence.part"
    source = cloud.bench.site.folder / f"{double.birth.blanket}.evidence" / f"{one.id}.evidence"
    part.write_bytes(source.read_bytes()[:5000])  # what came before it was interrupted
    await cloud.ok(*say, "fetch", incident, one.id, "--to", str(file))
    assert file.read_bytes() == source.read_bytes() and SECRET not in file.read_bytes()
    assert "is there already" in await cloud.wrong(
        *say, "fetch", incident, one.id, "--to", str(file), status=4
    )
    opened = (await cloud.ok(*say, "open", str(file), "-o", "json")).json
    assert (opened["whole"], opened["signed"], opened["digest"]) == (True, True, listed["digest"])
    memory = Path(opened["memory"])
    assert memory == tmp_path / "case" / "memory.elf" and SECRET * 3 in memory.read_bytes()
    assert memory.stat().st_mode & 0o777 == 0o600 and memory.parent.stat().st_mode & 0o777 == 0o700
    assert "Scan for open ports" in Path(opened["known"]).read_text()

    rules = tmp_path / "memory.yar"
    rules.write_text('rule secret { meta: severity = "low" strings: $a = "what a guest had" condition: $a }')
    (match,) = (await cloud.ok(*say, "scan", str(file), "--yara", str(rules), "-o", "json")).json
    assert (match["rule"], match["severity"], match["many"]) == ("secret", "low", 3)
    assert match["places"][0]["address"] == 2 * MIB + 5
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\n")
    await cloud.ok("policy", "set", str(policy), "--cloud", "c", "--yara", str(rules))
    assert (await cloud.ok("policy", "show", "--cloud", "c", "-o", "json")).json["yara"]
    assert "what a guest had" in (double.loop.said.rules or "")
    rules.write_text("rule {")
    wrong = await cloud.wrong("policy", "set", str(policy), "--cloud", "c", "--yara", str(rules), status=2)
    assert "memory.yar: YARA: line 1" in wrong

    cut = tmp_path / "cut.evidence"
    cut.write_bytes(file.read_bytes()[:-300])
    assert "cut off" in await cloud.wrong(*say, "open", str(cut), status=2)
    assert not list((tmp_path / "cut").iterdir()), "of what is not whole nothing stays"
    part.write_bytes(b"of something else")
    file.unlink()
    await cloud.ok(*say, "fetch", incident, one.id, "--to", str(file))
    assert file.read_bytes() == source.read_bytes()
    await cloud.ok(*say, "rm", incident, one.id)
    assert (await cloud.ok(*say, "ls", incident, "-o", "json")).json == []
    await cloud.wrong(*say, "fetch", incident, one.id, "--to", str(tmp_path / "no"), status=3)
