"""The command line as a user has it: domains, levels, quotas, and where instances come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from api_rig import Done, Served
from control_rig import World, furnish

pytestmark = pytest.mark.contract


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database is enough here."""
    return f"sqlite:///{tmp_path / 'supercloud.db'}"


async def test_a_provider_and_its_domain(api: Served, world: World) -> None:
    ok, wrong = api.ok, api.wrong
    await furnish(api.bench, world.keys)
    key = (await ok("key", "new", "acme", "-o", "json")).json["key"]
    await ok("principal", "add", "acme", "--key", key, "--provider")
    await ok("token", "mint", "--for", "acme", "--into", str(api.home / "minted"))
    await ok("token", "use", "acme", "--token", str(api.home / "minted"))

    async def acme(*words: str) -> Done:
        done = await api.run(*words, SUPERCLOUD_KEY="acme")
        assert not done.status, (words, done)
        return done

    said = await acme(
        "domain", "register", "edge", "--kind", "simulated", "--machines", "2", "--memory", "8G"
    )
    assert "an operator accepts it" in said.out
    assert "not for principals of role provider" in (await api.run("vm", "ls", SUPERCLOUD_KEY="acme")).err
    assert "is accepted" in (await ok("provider", "accept", "edge")).out
    await ok("blanket", "add", "e1", "--cloud", "c", "--provider", "edge")
    shown = (await acme("domain", "show", "edge", "-o", "json")).json
    assert shown["capacity"] == {"machines": 2, "vcpus": None, "memory_mib": 8192}
    assert shown["rented"] == {"machines": 1, "vcpus": 2, "memory_mib": 2048}
    listed = await acme("domain", "machines", "edge")
    assert re.search(r"[0-9a-f-]{36} +ready +yes +2 +2048", listed.out) and "e1" not in listed.out.split()
    assert (await acme("domain", "health", "edge", "-o", "json")).json["running"] == 1
    await acme("domain", "set", "edge", "--machines", "none", "--location", "de")
    assert (await acme("domain", "ls", "-o", "json")).json[0]["capacity"]["machines"] is None
    assert "is drained; 0 machines are in use" in (await acme("domain", "drain", "edge")).out
    assert "is open again" in (await acme("domain", "undrain", "edge")).out
    begun = (await acme("domain", "drain", "edge", "--no-wait", "-o", "json")).json
    assert begun["id"] in [one["id"] for one in (await acme("domain", "drains", "-o", "json")).json]
    await acme("domain", "undrain", "edge")
    assert (await acme("domain", "drains", "--state", "failed", "-o", "json")).json == []
    window = (
        await acme(
            "domain", "plan", "edge", "--begin", "2h", "--end", "4h", "--drain-ahead", "30m", "-o", "json"
        )
    ).json
    assert (window["state"], window["drain_ahead_s"]) == ("planned", 1800.0)
    assert window["id"] in (await acme("domain", "windows", "edge", "--state", "planned")).out
    assert (await acme("domain", "windows", "--state", "over", "-o", "json")).json == []
    await acme("domain", "unplan", window["id"])
    refused = await api.run("domain", "rm", "edge", SUPERCLOUD_KEY="acme")
    assert refused.status == 4 and "1 machines are rented there" in refused.err
    await ok("blanket", "rm", "e1")
    await acme("domain", "rm", "edge")
    assert (await acme("domain", "ls", "-o", "json")).json == []
    assert "is no operator" in await wrong(
        "principal", "add", "x", "--key", key, "--provider", "--operator", status=2
    )


async def test_security_levels(api: Served, world: World) -> None:
    ok, wrong = api.ok, api.wrong
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    assert re.search(r"hardened +apart-on-platform +instance,network,volume", (await ok("level", "ls")).out)
    listed = (await ok("level", "ls", "-o", "json")).json
    assert {one["level"] for one in listed} == {"open", "baseline", "hardened", "isolated"}
    run = ("vm", "run", "web", "--cloud", "c", "--image", "debian", "--network", "lan")
    no = "the platform's accelerator is simulated, not kvm"
    assert no in await wrong(*run, "--level", "hardened", status=4)
    await ok(*run, "--level", "baseline")
    assert re.search(r"web +c +running +n1 +baseline", (await ok("vm", "ls")).out)
    assert (await ok("volume", "show", "web-root", "-o", "json")).json["level"] == "baseline"
    await ok("volume", "create", "data", "--cloud", "c", "--size", "1M", "--level", "hardened")
    await ok("network", "create", "dmz", "--cloud", "c", "--cidr", "10.8.0.0/24", "--level", "isolated")
    listed = {one["name"]: one["level"] for one in (await ok("network", "ls", "-o", "json")).json}
    assert listed == {"lan": "open", "dmz": "isolated"}

    raised = await ok("network", "set-level", "lan", "hardened")
    assert raised.out.startswith("network lan is hardened, and was open\n")
    assert "instance web has to leave blanket n1: network lan is hardened" in raised.out and no in raised.out
    line = await wrong("network", "set-level", "lan", "open", status=4)
    assert "is hardened, which is higher than open" in line and "--lower" in line
    await ok("network", "set-level", "lan", "open", "--lower")
    said = (await ok("vm", "set-level", "web", "isolated", "-o", "json")).json
    assert (said["was"], said["level"], said["must_move"][0]["blanket"]) == ("baseline", "isolated", "n1")
    assert "vm set-level web" in await wrong("volume", "set-level", "web-root", "open", status=4)
    await ok("volume", "set-level", "data", "isolated")

    explained = (await ok("level", "explain", "vm", "web")).out
    assert re.search(r"n1 in p +instance web +encrypted-disks +yes +LUKS", explained)
    assert re.search(rf"n1 in p +instance web +apart-on-platform +no +not given: {no}", explained)
    assert re.search(r"n1 in p +network lan +encrypted-traffic +yes +WireGuard", explained)
    assert "n1 in p, where it is, cannot: instance web is isolated" in explained
    as_if = (await ok("level", "explain", "vm", "web", "--level", "baseline")).out
    assert "n1 in p, where it is, can hold all of it" in as_if and "not given" not in as_if
    found = (await ok("level", "explain", "network", "dmz", "-o", "json")).json
    assert (found["thing"], found["level"], found["places"][0]["allowed"]) == ("network", "isolated", False)
    await wrong("vm", "set-level", "web", "secret", status=2)


async def test_quotas_placement_groups_and_drains(api: Served, world: World) -> None:
    ok, wrong = api.ok, api.wrong
    await furnish(api.bench, world.keys)
    await ok("provider", "add", "q", "--kind", "simulated", "--location", "FR")
    terms = ("--location", "de-by", "--vcpu-hour", "0.01", "--currency", "eur")
    assert (
        "location de-by, an hour 0.01 a vCPU, 0 a GiB, EUR" in (await ok("provider", "set", "p", *terms)).out
    )
    priced = (await ok("provider", "set", "p", "--gib-hour", "0.002", "-o", "json")).json
    assert priced["price"] == {"currency": "EUR", "vcpu_hour": "0.01", "gib_hour": "0.002"}
    assert "needs a --currency" in await wrong("provider", "set", "q", "--vcpu-hour", "1", status=2)
    assert "location not said" in (await ok("provider", "set", "q", "--no-location")).out
    await ok("provider", "set", "q", "--location", "fr")

    limits = ("--vcpus", "4", "--memory", "4G", "--disk", "1G", "--blankets", "2", "--domains", "2")
    await ok("cloud", "quota", "c", *limits)
    table = (await ok("cloud", "quota", "c", "--disk", "none")).out
    assert re.search(r"memory +0 +4G", table) and re.search(r"disk +0 +none", table)
    assert "neither a number nor none" in await wrong("cloud", "quota", "c", "--vcpus", "many", status=2)
    await ok("blanket", "add", "n1", "--cloud", "c", "--provider", "p")
    await ok("blanket", "add", "s1", "--cloud", "c", "--provider", "q")
    full = await wrong("blanket", "add", "n2", "--cloud", "c", "--provider", "p", status=4)
    assert "the quota of cloud c for blankets is 2: 2 used, 1 asked" in full
    slices = ("--vcpus", "1", "--memory", "1G", "--blankets", "0", "--domains", "0")
    assert "for blankets" in await wrong("cloud", "create", "t", "--in", "c", *slices[:4], status=4)
    await ok("cloud", "create", "t", "--in", "c", *slices)
    assert (await ok("cloud", "show", "c", "-o", "json")).json["used"]["vcpus"] == 1

    run = ("vm", "run", "--cloud", "c", "--image", "debian", "--group", "g")
    ran = await ok(*run, "web", "--location", "de", "--max-cost", "0.02 EUR")
    assert "web is running in n1: the only blanket that fits, 1 does not" in ran.out
    assert "s1: domain q does not say what it costs" in await wrong(
        *run, "x", "--max-cost", "0.001eur", status=4
    )
    assert "not an amount and a currency" in await wrong(*run, "x", "--max-cost", "cheap", status=2)
    assert "running in s1" in (await ok(*run, "db", "--apart-from", "web")).out
    listed = {
        ("vm", "ls", "--group", "g"): ["db", "web"],
        ("vm", "ls", "--group", "g", "--on", "s1"): ["db"],
        ("vm", "ls", "--on", "n1", "--cloud", "c", "--state", "running"): ["web"],
        ("vm", "ls", "--state", "stopped"): [],
        ("blanket", "ls", "--state", "ready"): ["n1", "s1"],
        ("blanket", "ls", "--state", "unreachable"): [],
    }
    for words, names in listed.items():
        assert [one["name"] for one in (await ok(*words, "-o", "json")).json] == names, words
    assert "no blanket n9" in await wrong("vm", "ls", "--on", "n9", status=3)
    done = (await ok("operation", "ls", "--kind", "instance.run", "--cloud", "c", "-o", "json")).json
    assert {(one["object_name"], one["state"]) for one in done} >= {("web", "succeeded"), ("db", "succeeded")}
    assert (await ok("operation", "ls", "--state", "failed", "--cloud", "t", "-o", "json")).json == []
    stays = await api.run("vm", "move", "--group", "g", "--cloud", "c", "--to", "s1")
    assert stays.status == 1 and "web: stayed in n1: " in stays.err and "db: there in s1" in stays.err
    assert "1 of 2 instances did not move" in stays.err.splitlines()[-1]
    await ok("vm", "rm", "db", "--force")
    await ok("vm", "place", "web", "--group", "g")
    assert (await ok("vm", "move", "--group", "g", "--cloud", "c")).out == "web: n1 to s1\n"
    assert (await ok("provider", "drain", "q")).out == "web: s1 to n1\n"
    drained = (await ok("provider", "ls", "-o", "json")).json
    assert [one["draining"] for one in drained] == [False, True]
    refused = await wrong("vm", "migrate", "web", "--to", "s1", status=4)
    assert "domain q is being drained" in refused
    assert "takes instances again" in (await ok("provider", "undrain", "q")).out
