"""The benches' arithmetic, and what they make of others' words."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.blanket.domain_xml import domain
from supercloud.blanket.places import Places
from supercloud.cli.bench import authz, containment, containment_plot, footprint, introspect, loop, report
from supercloud.cli.bench.migration import MigrationResult, Move, downtime_ms, uncertain_s
from supercloud.cli.bench.statistics import interval, median, percentile, ratio
from supercloud.cli.bench.twin import MAC, NAME, TAP, twin_of
from supercloud.model.errors import Failed, InvalidInput
from supercloud.model.findings import Object, ObjectKind
from supercloud.model.names import MIB, new_id
from supercloud.model.reactions import Command, Deed
from supercloud.observer.timeline import Fact
from supercloud.ports.agent import Disk, InstanceSpec, Nic
from supercloud.ports.hypervisor import VolumeSource
from supercloud.ports.platform import Flavour

pytestmark = pytest.mark.unit

_SAMPLES = st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=200)


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1.0), (50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(one) for one in range(100, 0, -1)], percent) == expected


@given(_SAMPLES, st.floats(min_value=0.1, max_value=100))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(samples: list[float], percent: float) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(one <= found for one in samples) >= percent / 100 * len(samples)
    assert sum(one < found for one in samples) < percent / 100 * len(samples)


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="samples"):
        median([])
    for percent in (0, 101):
        with pytest.raises(ValueError, match="percentage"):
            percentile([1.0], percent)


def test_a_ratio_is_of_medians() -> None:
    assert ratio([1.0, 2.0, 300.0], [4.0, 4.0, 4.0, 0.0]) == 0.5


# ---------------------------------------------------------------- migration


def _move(by: str, total_s: float, downtime: float, **more: float) -> Move:
    return Move(
        by=by,
        source="n1",
        target="s1",
        total_s=total_s,
        downtime_ms=downtime,
        clocks_uncertain_ms=1.0,
        **more,
    )


def test_migration_compares_medians_with_and_without_preparation() -> None:
    plain = [_move("virsh", total, down, prepare_s=2.0) for total, down in ((8, 100), (10, 120), (30, 90))]
    ours = [
        _move("supercloud", total, down, commit_ms=commit, round_trip_ms=trip)
        for total, down, commit, trip in ((12, 150, 5, 10), (11, 160, 6, 20), (9, 170, 30, 40))
    ]
    said = MigrationResult((*plain, *ours)).public()
    assert (said["total_ratio"], said["total_ratio_prepared"]) == (1.1, round(11 / 12, 3))
    assert (said["downtime_ratio"], said["added_downtime_ms"]) == (1.6, 60)
    assert said["round_trip_plus_commit_ms"] == 26
    assert [one["by"] for one in said["runs"]] == ["virsh"] * 3 + ["supercloud"] * 3
    assert said["runs"][0]["prepare_s"] == 2.0 and "commit_ms" not in said["runs"][0]
    assert "prepare_s" not in said["runs"][3]


def _facts(*seen: tuple[float, str, bool]) -> list[Fact]:
    return [
        Fact(at_s=at, uncertain_s=0.002, blanket=blanket, instance="guest", running=running)
        for at, blanket, running in seen
    ]


def test_downtime_is_from_the_sources_stop_to_the_targets_resume() -> None:
    facts = _facts(
        (0.0, "n", True), (10.0, "n", False), (10.25, "s", True), (20.0, "s", False), (20.5, "n", True)
    )
    there = downtime_ms(facts, "guest", source="n", target="s", since_s=5.0)
    back = downtime_ms(facts, "guest", source="s", target="n", since_s=15.0)
    assert (there, back) == (pytest.approx(250), pytest.approx(500))
    assert uncertain_s(facts, "guest") == 0.004 and uncertain_s(facts, "other") == 0


def test_downtime_is_not_known_before_the_target_went_on() -> None:
    facts = _facts((0.0, "n", True), (10.0, "n", False))
    assert downtime_ms(facts, "guest", source="n", target="s", since_s=5.0) is None
    late = _facts((0.0, "s", True), (1.0, "s", False), (2.0, "n", True), (10.0, "n", False))
    assert downtime_ms(late, "guest", source="n", target="s", since_s=5.0) is None, "an earlier visit"


def test_two_copies_at_once_show_as_a_negative_downtime() -> None:
    facts = _facts((0.0, "n", True), (9.0, "s", True), (10.0, "n", False))
    assert downtime_ms(facts, "guest", source="n", target="s", since_s=5.0) == pytest.approx(-1000)


# ---------------------------------------------------------------- the twin


def _instance(places: Places) -> tuple[InstanceSpec, str]:
    volume, base_secret = new_id(), new_id()
    spec = InstanceSpec(
        id=new_id(),
        name="web",
        cloud=new_id(),
        vcpus=1,
        memory_mib=256,
        cpu_model="Westmere",
        disks=(Disk(volume=volume, size_bytes=1 << 30, boot=True),),
        nics=(Nic(network=new_id(), mac="02:00:00:00:00:01", ip="10.0.0.2"),),
    )
    source = VolumeSource(
        volume=volume,
        path=places.disk(volume),
        secret=volume,
        base_path=Path("/var/lib/supercloud/images/base.qcow2"),
        base_secret=base_secret,
    )
    return spec, domain(spec, sources=lambda _: source, places=places, flavour=Flavour.KVM)


def test_the_twin_has_everything_of_the_instance_but_what_makes_it_ours() -> None:
    spec, xml = _instance(Places())
    made = twin_of(xml, instance=spec.id, twin=(twin := new_id()), run="/run/b", data="/data/b")
    root = ET.fromstring(made.xml)  # noqa: S314 - our own
    assert (root.findtext("name"), root.findtext("uuid")) == (NAME, twin)
    for ours in (spec.id, spec.disks[0].volume, "keeper", spec.nics[0].mac):
        assert ours in xml and ours not in made.xml, ours
    arguments = [one.get("value") for one in root.iterfind("{*}commandline/{*}arg")]
    assert arguments == [
        argument
        for client in ("observer", "agent")
        for argument in (
            "-chardev",
            f"socket,id=sc-{client},path=/run/supercloud/qmp/{twin}.{client}.sock,server=on,wait=off",
            "-mon",
            f"chardev=sc-{client},mode=control",
        )
    ]
    secrets = [one.get("uuid") for one in root.iterfind("devices/disk//secret")]
    assert secrets == [twin, made.base_secret]
    files = [one.get("file") for one in root.iterfind("devices/disk/source")]
    assert files == [made.disk, made.seed] == ["/data/b/disk.qcow2", "/run/b/seed.iso"]
    assert made.base == "/var/lib/supercloud/images/base.qcow2"
    nic = root.find("devices/interface")
    assert nic is not None and nic.find("mac") is not None and nic.find("target") is not None
    assert (nic.find("mac").get("address"), nic.find("target").get("dev")) == (MAC, TAP)  # type: ignore[union-attr]
    same = ("memory", "vcpu", "os/type", "cpu/model")
    ours_root = ET.fromstring(xml)  # noqa: S314 - our own
    assert [root.findtext(one) for one in same] == [ours_root.findtext(one) for one in same]


def test_a_domain_of_another_make_has_no_twin() -> None:
    with pytest.raises(Failed, match="not as expected"):
        twin_of("<domain><name>x</name></domain>", instance=new_id(), twin=new_id(), run="/r", data="/d")


# ---------------------------------------------------------------- the report

_FOOTPRINT = {
    "instances": 10,
    "fresh_control_plane_rss_mb": 100.0,
    "control_plane_rss_mb": 160.0,
    "keystore_rss_mb": 50.0,
    "agent_rss_mb": 60.0,
    "limit_agent_rss_mb": 50.0,
    "agent_where": "here",
}


def test_an_aim_is_held_up_to_its_value_and_missed_above() -> None:
    control_plane, agent, keystore = report.lines("footprint", _FOOTPRINT)
    assert (control_plane.held, agent.held, keystore.held) == ("NO", "yes", "-")
    assert replace(agent, value=None).held == "-"
    assert "160 MB (at most 150 MB: NO; 100 MB just started)" in control_plane.text()


def test_the_agent_is_measured_beside_its_libraries_alone() -> None:
    limit = footprint.libraries_alone()
    assert 20 * MIB < limit < 200 * MIB
    assert "50 MB its libraries alone" in report.lines("footprint", _FOOTPRINT)[1].text()


def test_tokens_are_measured_beside_the_bare_library_and_a_floor_is_held_from_its_value() -> None:
    found = authz.measure(lambda *_: None, rounds=1).public()
    assert set(found) == {"tokens", "per_s", "limit_per_s", "requests_per_s", "ratio"}
    assert found["ratio"] == pytest.approx(found["per_s"] / found["limit_per_s"], rel=0.01)
    assert min(found.values()) > 0
    for value, held in ((authz.RATIO_AIM, "yes"), (authz.RATIO_AIM - 0.01, "NO")):
        _, line, _ = report.lines("authz", {**found, "ratio": value})
        assert line.held == held and "at least 0.5" in line.text() and "at least 0.5" in report.table([line])


def test_the_interval_of_a_median_is_of_the_samples_themselves() -> None:
    assert interval([3.0]) == (3.0, 3.0) and interval([2.0, 1.0]) == (1.0, 2.0)
    assert interval([float(one) for one in range(1, 6)]) == (1.0, 5.0)  # too few for 95 %
    assert interval([float(one) for one in range(1, 16)]) == (4.0, 12.0)  # as tables have it
    with pytest.raises(ValueError):
        interval([])


def test_what_looks_cost_is_held_by_its_median_and_shown_with_its_interval() -> None:
    found = introspect.IntrospectResult(
        passes=50,
        pass_ms=30.0,
        pass_p99_ms=40.0,
        first_ms=900.0,
        processes=50,
        code_kib=14344,
        looks_per_s=1.0,
        every_s=10.0,
        pairs=15,
        guest_ratio=1.01,
        guest_ratio_low=0.99,
        guest_ratio_high=1.03,
    ).public()
    *_, cost = report.lines("introspect", found)
    assert cost.held == "yes" and "0.99 to 1.03 with 95 %" in cost.beside
    *_, dear = report.lines("introspect", {**found, "guest_ratio": 1.03})
    assert dear.held == "NO"


def test_docs_get_the_latest_results_in_their_section_only(tmp_path: Path) -> None:
    docs = tmp_path / "benchmarks.md"
    marks = "<!-- results: footprint -->\nold\n<!-- end of results: footprint -->"
    docs.write_text(f"before\n{marks}\nafter\n<!-- results: api -->\nkept\n<!-- end of results: api -->\n")
    report.write_docs(docs, "footprint", _FOOTPRINT)
    report.write_docs(docs, "footprint", {**_FOOTPRINT, "agent_where": r"a \1 backslash"})
    text = docs.read_text()
    assert text.startswith("before\n<!-- results: footprint -->\n") and "old" not in text
    assert "\nafter\n<!-- results: api -->\nkept\n" in text
    found = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert found["agent_where"] == r"a \1 backslash"
    assert text.count("| agent | 60 MB |") == 1


def test_docs_without_a_section_are_left_alone(tmp_path: Path) -> None:
    docs = tmp_path / "other.md"
    docs.write_text("mine\n")
    for path in (docs, tmp_path / "missing.md"):
        with pytest.raises(InvalidInput):
            report.write_docs(path, "api", {})
    assert docs.read_text() == "mine\n"


def test_the_loop_is_measured_whole_and_nothing_is_lost_or_done_twice() -> None:
    """A small run of the real thing: processes, TLS, the disk, nftables, SIGKILL."""
    found = loop.measure(lambda *_: None, reactions=20, findings=1000, kills=4).public()
    assert (found["reactions"], found["kills"], found["acknowledged"]) == (20, 4, 1000)
    assert (found["lost"], found["duplicate_effects"]) == (0, 0)
    assert found["effects"] >= 20 + 5 + 1000 // 50
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["limit_ms"] == pytest.approx(3 * (found["commit_ms"] + found["round_trip_ms"]), abs=0.01)
    shown = {line.what: line.held for line in report.lines("loop", {**found, "lost": 1})}
    assert shown["lost of 1000 acknowledged"] == "NO"


# ---------------------------------------------------------------- containment


def test_a_worm_is_the_same_each_time_and_loops_leave_less_of_it() -> None:
    terms = containment.Terms(
        blankets=60, domains=6, instances=600, space=8000, vulnerable=0.5, first=4, lasts_s=60
    )
    found = containment.measure(lambda *_: None, terms)
    assert found == containment.measure(lambda *_: None, terms)
    share = found.infected_share
    assert share["none"] > 0.9, "nothing stops it"
    assert share["both"] <= share["vertical"] < share["none"]
    assert share["horizontal"] < share["none"]
    assert found.contained["none"] == found.denied["none"] == found.denied["vertical"] == 0
    assert found.denied["horizontal"] > 0 and found.contained["vertical"] > 0
    for curve in found.curve.values():
        assert len(curve) == 61 and curve == sorted(curve), "nobody recovers"


def test_what_is_contained_or_denied_infects_nobody() -> None:
    terms = containment.Terms(
        blankets=4, domains=2, instances=40, space=40, vulnerable=1.0, first=0, lasts_s=1
    )
    world = containment.Outbreak(terms, frozenset({"vertical", "horizontal"}))
    one, other = (next(iter(side.holds.values())) for side in world.sides[:2])
    about = Object(kind=ObjectKind.INSTANCE, id=one.instance)
    assert world._reaches(one, other)
    other.side.ordered(Command(id=new_id(), deed=Deed.DENY, about=about, until=5.0, net=one.net))
    assert not world._reaches(one, other)
    assert world._reaches(other, one)
    one.side.ordered(Command(id=new_id(), deed=Deed.CONTAIN, about=about, until=5.0))
    assert not world._reaches(other, one), "neither way"
    world.now = 6.0
    assert world._reaches(one, other), "until its time is over"


def test_the_picture_is_svg(tmp_path: Path) -> None:
    curve = {name: [0.0, 0.5, 1.0] for name in containment.WAYS}
    drawn = ET.fromstring(containment_plot.svg(curve, title="a < b"))  # noqa: S314 - our own
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 4
    (tmp_path / "pictures").mkdir()
    found = {"terms": {"instances": 1, "blankets": 1}, "curve": curve}
    report.draw(tmp_path / "benchmarks.md", "containment", found)
    assert (tmp_path / "pictures" / "containment.svg").exists()
    report.draw(tmp_path / "elsewhere" / "x.md", "loop", {})
