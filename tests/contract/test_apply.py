"""`apply`, `diff` and `export` as a user has them, over the real API and machines that dial in."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from api_rig import Served, served
from control_rig import World, furnish

from supercloud.model.errors import Exhausted
from supercloud.model.names import MIB
from supercloud.services.views import WantedCloud

pytestmark = pytest.mark.contract
ROOT = Path(__file__).parents[2]
CLOUD = """\
version: 1
cloud:
  name: mine
  rightLength: 90
providers:
  north: {kind: simulated}
  south: {kind: simulated, options: {memory_mib: 65536}}
blankets:
  n1: {provider: north, memory: 1.5G}
  s1: {provider: south}
networks:
  lan: {cidr: 10.7.0.0/24}
volumes:
  data: {size: 16M}
  spare: {size: 8M, blanket: s1}
instances:
  web:
    image: debian
    blanket: n1
    disk: 64M
    networks: [lan]
    publish: [80]
    volumes: [data]
    userDataFile: web.yaml
    sshKeys: [ssh-ed25519 AAAA me@here]
  db:
    image: debian
    memory: 256M
    networks: [lan]
"""
SMALL = """\
version: 1
cloud: {name: mine}
providers: {north: {kind: simulated}}
blankets:
  n1: {provider: north}
  s1: {provider: north}
networks: {lan: {cidr: 10.7.0.0/24}}
instances:
  web: {image: debian, blanket: n1, networks: [lan]}
"""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database is enough here."""
    return f"sqlite:///{tmp_path / 'supercloud.db'}"


@pytest.fixture
async def cli(world: World, tmp_path: Path) -> AsyncIterator[Served]:
    """With an image."""
    async with served(world, tmp_path / "h") as made:
        await furnish(made.bench, world.keys)
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "web.yaml").write_text("#cloud-config\nhostname: web\n")
    made = tmp_path / "cloud.yaml"
    made.write_text(CLOUD)
    return made


async def wanted(cli: Served) -> WantedCloud:
    return await cli.bench.control.wanted_cloud("mine")


def seeds(world: World) -> dict[str, bytes | None]:
    """What each instance was given for its first boot, in clear."""
    return {name: one for machine in world.site.machines.values() for name, one in machine.seeds.items()}


async def test_a_cloud_from_its_file_and_back(cli: Served, world: World, file: Path) -> None:
    would = await cli.run("diff", "-f", str(file))
    assert would.status == 8 and "+ create cloud mine" in would.out and "10 to make, 1 to change" in would.out
    assert [one.name for one in await cli.bench.control.clouds()] == ["c"], "diff does nothing"
    done = await cli.ok("apply", "-f", str(file))
    assert done.out.endswith(f"cloud mine is as {file} says\n")
    assert "create blanket n1: booting" in done.err and "attach volume data: done" in done.err
    shown = {one.name: one for one in await cli.bench.control.instances(cloud="mine")}
    assert (shown["web"].blanket, shown["web"].state) == ("n1", "running")
    assert shown["web"].volumes == ("web-root", "data")
    first = await wanted(cli)
    assert first.user_data == ("web",) and {one.user_data for one in first.instances} == {None}
    assert seeds(world) == {shown["web"].id: b"#cloud-config\nhostname: web\n", shown["db"].id: None}
    for written in file.parent.glob("supercloud.db*"):
        assert b"hostname: web" not in written.read_bytes(), "the control plane never had it in clear"

    operations = len(await cli.bench.control.operations())
    again = await cli.ok("apply", "-f", str(file))
    assert again.out == f"cloud mine is as {file} says already\n"
    assert len(await cli.bench.control.operations()) == operations, "the second time does nothing"

    back, as_json = file.with_name("back.yaml"), file.with_name("back.json")
    lacks = (
        "user data is not in an export: to make the like elsewhere, add `userData` or `userDataFile` to web"
    )
    assert (await cli.ok("export", "mine", "-f", str(back))).err == f"{lacks}\n"
    assert back.read_text().startswith(f"# {lacks}\n") and "hostname" not in back.read_text()
    assert back.stat().st_mode & 0o777 == 0o600
    assert "exists" in await cli.wrong("export", "mine", "-f", str(back), status=4)
    as_json.write_text((await cli.ok("export", "mine", "-o", "json")).out)
    for exported in (back, as_json):
        assert not (await cli.ok("diff", "--prune", "-f", str(exported), "-o", "json")).json["differs"]
    jsonschema_rs.validator_for((await cli.ok("schema", "cloud")).json).validate(
        yaml.safe_load(back.read_text())
    )

    nothing = file.with_name("nothing.yaml")
    nothing.write_text("version: 1\ncloud: {name: mine, rightLength: 90}\n")
    assert "left alone" in (await cli.ok("apply", "-f", str(nothing))).out and await wanted(cli) == first
    assert "--yes" in (await cli.run("apply", "-f", str(nothing), "--prune")).err
    assert await wanted(cli) == first, "nobody said yes"
    pruned = await cli.ok("apply", "-f", str(nothing), "--prune", "--yes", "-o", "json")
    assert all(step["outcome"] == "done" for step in pruned.json["steps"])
    assert await wanted(cli) == WantedCloud(
        cloud=first.cloud, blankets=(), networks=(), volumes=(), instances=(), attached={}
    )
    await cli.bench.control.remove_cloud("mine")
    await cli.ok("apply", "-f", str(back))
    assert await wanted(cli) == replace(first, user_data=()), "what was exported makes the same cloud"
    refused = await cli.run("apply", "-f", str(file))
    assert refused.status == 4 and "made without user data" in refused.out, refused


async def test_changes(cli: Served, file: Path) -> None:
    await cli.ok("apply", "-f", str(file))
    text = CLOUD.replace("blanket: n1", "blanket: s1").replace("disk: 64M", "disk: 1G")
    text = text.replace("[data]", "[data, spare]").replace("16M", "1G")
    file.write_text(text)
    done = await cli.ok("apply", "-f", str(file), "-o", "json")
    steps = {step["step"]: step for step in done.json["steps"]}
    assert set(steps) == {
        "migrate instance web",
        "resize volume web-root",
        "resize volume data",
        "attach volume spare",
    }
    assert {step["outcome"] for step in steps.values()} == {"done"} and not done.err
    shown = await cli.bench.control.instance("web", cloud="mine")
    assert (shown.blanket, shown.epoch, shown.volumes) == ("s1", 2, ("web-root", "data", "spare"))
    sizes = {one.name: one.size_bytes for one in await cli.bench.control.volumes(cloud="mine")}
    assert (sizes["web-root"], sizes["data"], sizes["spare"]) == (1024 * MIB, 1024 * MIB, 8 * MIB)

    file.write_text(text.replace("10.7.0.0/24", "10.8.0.0/24").replace("memory: 256M", "memory: 512M"))
    before = await wanted(cli)
    said = await cli.run("apply", "-f", str(file))
    assert said.status == 4 and "(and 1 more); nothing was done" in said.err, said
    assert "! network lan " in said.out and f"{file}:12:9: cidr is 10.7.0.0/24, not 10.8.0.0/24" in said.out
    assert re.search(
        rf"! instance db +{file}:\d+:5: memory is 256M, not 512M, and cannot be changed", said.out
    )
    assert await wanted(cli) == before
    assert (await cli.run("diff", "-f", str(file), "-o", "json")).json["refused"][0]["at"] == f"{file}:12:9"


async def test_levels_are_raised_kept_and_lowered_by_word_only(cli: Served, file: Path) -> None:
    file.write_text(SMALL)
    await cli.ok("apply", "-f", str(file))
    higher = SMALL.replace("lan: {cidr", "lan: {level: baseline, cidr").replace(
        "  web: {", "  web: {level: baseline, "
    )
    assert higher.count("baseline") == 2
    file.write_text(higher)
    done = await cli.ok("apply", "-f", str(file), "-o", "json")
    assert [step["step"] for step in done.json["steps"]] == ["raise network lan", "raise instance web"]
    exported = yaml.safe_load((await cli.ok("export", "mine")).out)
    assert exported["networks"]["lan"]["level"] == exported["instances"]["web"]["level"] == "baseline"
    file.write_text(SMALL)
    assert not (await cli.run("diff", "-f", str(file))).status, "what the file does not say stays as it is"
    file.write_text(higher.replace("level: baseline", "level: open"))
    refused = await cli.run("apply", "-f", str(file))
    assert refused.status == 4 and "lowers the security level of network lan, instance web" in refused.err
    assert (await cli.bench.control.network("lan", cloud="mine")).level == "baseline"
    await cli.ok("apply", "-f", str(file), "--yes")
    assert (await cli.bench.control.network("lan", cloud="mine")).level == "open"
    file.write_text(SMALL.replace("  web: {", "  web: {hold: true, level: hardened, "))
    wrong = await cli.run("diff", "-f", str(file))
    assert wrong.status == 2 and "hold, not strict" in wrong.err


async def test_a_failed_step_is_told_and_the_rest_goes_on(
    cli: Served, world: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = world.platform.create

    async def fails(machine):  # type: ignore[no-untyped-def]
        if machine.id == (await cli.bench.control.blanket("n1")).id:
            raise Exhausted("no room for it")
        return await create(machine)

    monkeypatch.setattr(world.platform, "create", fails)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        extra = f"  db: {{image: debian, blanket: s1, networks: [lan], publish: ['{port}:5432']}}\n"
        file.write_text(SMALL + extra)
        failed = await cli.run("apply", "-f", str(file))
        assert failed.status == Exhausted.exit_status and "apply again to go on" in failed.err
        assert re.search(r"create blanket n1 +failed: no room for it", failed.out)
        assert re.search(r"create blanket s1 +done", failed.out)
        assert re.search(r"create instance web +not begun: needs create blanket n1", failed.out)
        assert re.search(r"create instance db +failed: .*port", failed.out), failed.out
    monkeypatch.undo()
    done = await cli.ok("apply", "-f", str(file), "-o", "json")
    assert [step["step"] for step in done.json["steps"]] == [
        "clear blanket n1",
        "create instance db",
        "create blanket n1",
        "create instance web",
    ]
    assert {one.state for one in await cli.bench.control.instances(cloud="mine")} == {"running"}


async def test_ctrl_c_cancels_and_the_next_apply_goes_on(cli: Served, file: Path) -> None:
    file.write_text(SMALL)
    await cli.ok("apply", "-f", str(file))
    file.write_text(SMALL.replace("blanket: n1", "blanket: s1"))
    cli.bench.site.hold_transfers = True
    command = await cli.start("apply", "-f", str(file))
    await command.says("transfer")
    command.interrupt()
    done = await command.done()
    assert done.status == 130 and "migrate instance web  cancelled" in done.out, done
    assert (await cli.bench.control.instance("web", cloud="mine")).blanket == "n1"

    no_wait = await cli.ok("vm", "migrate", "web", "--cloud", "mine", "--to", "s1", "--no-wait", "-o", "json")
    waiting = await cli.start("apply", "-f", str(file))
    await waiting.says("wait instance web")
    cli.bench.site.hold_transfers = False
    ended = await waiting.done()
    assert "~ wait instance web  instance.migrate is under way" in ended.out, ended
    seen = await cli.bench.control.operation(no_wait.json["id"], wait_s=10)
    assert (ended.status == 0) == (seen.state == "succeeded"), ended
    await cli.ok("apply", "-f", str(file))
    assert (await cli.bench.control.instance("web", cloud="mine")).blanket == "s1"


async def test_wrong_files_reach_nobody(cli: Served, file: Path) -> None:
    file.write_text(SMALL.replace("blanket: n1", "blanket: n2").replace("version: 1", "version: 2"))
    said = await cli.run("apply", "-f", str(file))
    assert said.status == 2 and not said.out
    assert [line.partition(";")[0] for line in said.err.splitlines()] == [
        f"{file}:1:10: this is version 2 of the format, and version 1 is read",
        f"{file}:9:33: there is no blanket n2 in this file",
        f"supercloud: {file}: 2 things are wrong in it (nothing was done)",
    ]
    assert "cannot be read" in await cli.wrong("apply", "-f", str(file.with_name("none")), status=2)
    assert "no cloud nowhere" in await cli.wrong("export", "nowhere", status=3)
    command = await cli.start("diff", "-f", "-")
    done = await command.done(SMALL.encode())
    assert done.status == 8 and "+ create cloud mine" in done.out


@pytest.mark.parametrize("document", ["examples/two-domains.yaml", "docs/guide/apply.md"])
async def test_the_examples_can_be_applied(document: str, cli: Served, file: Path) -> None:
    text = (ROOT / document).read_text()
    if document.endswith(".md"):
        (text,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file.write_text(text.replace('"8080:80"', f'"{port}:80"'))  # which somebody may have here
    jsonschema_rs.validator_for((await cli.ok("schema")).json).validate(yaml.safe_load(file.read_text()))
    await cli.ok("apply", "-f", str(file))
    assert (await cli.run("diff", "-f", str(file))).status == 0
    assert {one.state for one in await cli.bench.control.instances(cloud="mine")} == {"running"}


TRUST = """\
trust:
  jobs-reach-lan: {to: lab, kind: connect, network: lan, toNetwork: jobs, lasts: 8h}
  lab-may-restart: {to: lab, kind: order-reactions, reactions: ["restart:device"], delegable: true}
  lab-may-come: {to: lab, kind: migrate-to, blanket: n1}
"""


async def test_what_others_may_do_is_granted_kept_written_and_revoked_when_pruned(
    cli: Served, file: Path
) -> None:
    await cli.ok("cloud", "create", "lab")
    await cli.ok("network", "create", "jobs", "--cloud", "lab", "--cidr", "10.9.0.0/24")
    file.write_text(SMALL + TRUST)
    await cli.ok("apply", "-f", str(file))

    async def granted() -> dict[str, tuple[str, bool]]:
        found = (await cli.ok("trust", "ls", "--cloud", "mine", "--state", "active", "-o", "json")).json
        return {one["kind"]: (one["thing"], one["delegable"]) for one in found}

    both = {"connect": ("lan", False), "order-reactions": ("mine", True), "migrate-to": ("n1", False)}
    assert await granted() == both
    assert "already" in (await cli.ok("apply", "-f", str(file))).out
    written = yaml.safe_load((await cli.ok("export", "mine")).out)["trust"]
    assert written == {
        "connect-lan-lab": {"to": "lab", "kind": "connect", "network": "lan", "toNetwork": "jobs"},
        "order-reactions-mine-lab": {
            "to": "lab",
            "kind": "order-reactions",
            "reactions": ["restart:device"],
            "delegable": True,
        },
        "migrate-to-n1-lab": {"to": "lab", "kind": "migrate-to", "blanket": "n1"},
    }
    file.write_text(SMALL + TRUST.replace(", delegable: true", ""))  # narrower: another one, beside it
    shown = (await cli.run("diff", "-f", str(file))).out
    assert "+ create trust lab-may-restart" in shown and "left alone" in shown
    await cli.ok("apply", "-f", str(file), "--prune", "--yes")
    assert await granted() == {**both, "order-reactions": ("mine", False)}
    file.write_text(SMALL)
    await cli.ok("apply", "-f", str(file))
    assert len(await granted()) == 3
    await cli.ok("apply", "-f", str(file), "--prune", "--yes")
    assert await granted() == {}


async def test_all_that_depends_on_each_other_is_pruned_and_after_an_error_the_rest(
    cli: Served, world: World, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blanket inside another, trust about what goes, and a quota for what is left alone."""
    await cli.ok("cloud", "create", "lab")
    await cli.ok("network", "create", "jobs", "--cloud", "lab", "--cidr", "10.9.0.0/24")
    head = "cloud: {name: mine, quota: {vcpus: %d, blankets: %d, domains: 1}}"
    inner = "  n1: {provider: north, memory: 4G}\n  inner: {in: n1, vcpus: 1, memory: 512M, disk: 4G}\n"
    text = SMALL.replace("cloud: {name: mine}", head % (1, 3)).replace("  n1: {provider: north}\n", inner)
    text = text.replace("networks: [lan]}", "networks: [lan], volumes: [data], publish: [80]}")
    text += "  db: {image: debian, blanket: inner, memory: 128M}\n"
    file.write_text(text.replace(head % (1, 3), head % (2, 3)) + "volumes: {data: {size: 16M}}\n" + TRUST)
    await cli.ok("apply", "-f", str(file))
    destroy = world.platform.destroy
    last = (await cli.bench.control.blanket("n1", cloud="mine")).id

    async def fails(machine: str) -> None:
        if machine == last:  # all the rest goes before it
            raise Exhausted("its platform is busy")
        await destroy(machine)

    monkeypatch.setattr(world.platform, "destroy", fails)
    file.write_text("version: 1\n" + head % (0, 0) + "\n")
    failed = await cli.run("apply", "-f", str(file), "--prune", "--yes")
    assert failed.status == Exhausted.exit_status and "apply again to go on" in failed.err
    assert re.search(r"remove instance db +done", failed.out), failed.out
    assert re.search(r"remove blanket n1 +failed: its platform is busy", failed.out), failed.out
    assert re.search(r"shrink cloud mine +not begun: needs remove blanket n1", failed.out), failed.out
    assert "not-found" not in failed.out and "no such" not in failed.out
    monkeypatch.setattr(world.platform, "destroy", destroy)
    done = await cli.ok("apply", "-f", str(file), "--prune", "--yes", "-o", "json")
    assert {step["outcome"] for step in done.json["steps"]} == {"done"}
    left = await wanted(cli)
    assert (left.blankets, left.networks, left.volumes, left.instances) == ((), (), (), ())
    assert (left.cloud.quota.vcpus, left.cloud.quota.blankets) == (0, 0)
    assert (await cli.ok("trust", "ls", "--cloud", "mine", "--state", "active", "-o", "json")).json == []
    assert "already" in (await cli.ok("apply", "-f", str(file), "--prune", "--yes")).out
