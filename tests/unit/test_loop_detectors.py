"""What detectors make of what they see."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supercloud.agent.components import statuses
from supercloud.agent.ports import plugged
from supercloud.blanket.overlay.plan import NOTHING, InstancePort, Knowledge
from supercloud.model.findings import Severity
from supercloud.model.ocsf import DetectionFinding
from supercloud.security.detectors import components, ports
from supercloud.security.detectors.components import Components, Status
from supercloud.security.detectors.ports import Own, PortWatch, parsed
from supercloud.wire.codec import to_json

pytestmark = pytest.mark.unit
MAC, OTHER, IP = "02:00:00:00:00:01", "02:00:00:00:00:02", "10.20.0.1"


def frame(
    *,
    mac: str = MAC,
    source: str = IP,
    target: str = "10.20.0.2",
    port: int = 80,
    flags: int = 0x02,
    options: int = 0,
    fragment: int = 0,
) -> bytes:
    ethernet = bytes.fromhex("020000000009") + bytes.fromhex(mac.replace(":", "")) + b"\x08\x00"
    ip = struct.pack("!BBHHHBBH", 0x45 + options, 0, 40 + 4 * options, 1, fragment, 64, 6, 0)
    ends = IPv4Address(source).packed + IPv4Address(target).packed + bytes(4 * options)
    return ethernet + ip + ends + struct.pack("!HHIIBBHHH", 40000, port, 0, 0, 0x50, flags, 0, 0, 0)


def arp(
    *, mac: str = MAC, said: str = MAC, ip: str = IP, asks: str = "10.20.0.2", operation: int = 1
) -> bytes:
    sender = bytes.fromhex(said.replace(":", "")) + IPv4Address(ip).packed
    ethernet = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) + b"\x08\x06"
    asked = bytes(6) + IPv4Address(asks).packed
    return ethernet + struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender + asked


@pytest.fixture
def watch() -> PortWatch:
    found = PortWatch("boot")
    found.plugged([Own(device="tone", mac=MAC, ip=IP)])
    return found


def rules(events: list[dict[str, Any]]) -> list[str]:
    return [
        one["finding_info"]["analytic"]["uid"] if one["class_uid"] == 2004 else "connection" for one in events
    ]


def test_a_connection_that_begins_is_told_once_in_a_while(watch: PortWatch) -> None:
    (told,) = watch.sent("tone", frame(port=22), 100.0)
    assert told["dst_endpoint"] == {"ip": "10.20.0.2", "port": 22}
    assert told["src_endpoint"] == {"ip": IP, "port": 40000, "mac": MAC}
    assert watch.sent("tone", frame(port=22), 101.0) == []
    assert rules(watch.sent("tone", frame(port=23), 101.0)) == ["connection"]
    assert rules(watch.sent("tone", frame(port=22), 106.0)) == ["connection"]


def test_whom_it_asks_for_is_told_once_in_a_while(watch: PortWatch) -> None:
    (told,) = watch.sent("tone", arp(), 100.0)
    assert told["connection_info"]["protocol_name"] == "arp"
    assert (told["src_endpoint"], told["dst_endpoint"]) == ({"ip": IP, "mac": MAC}, {"ip": "10.20.0.2"})
    assert watch.sent("tone", arp(), 101.0) == []
    assert len(watch.sent("tone", arp(asks="10.20.0.3"), 101.0)) == 1
    assert len(watch.sent("tone", arp(), 106.0)) == 1


@pytest.mark.parametrize(
    "said",
    [arp(operation=2), arp(asks=IP), arp(ip="0.0.0.0")],  # noqa: S104
    ids=["answer", "of-itself", "without-an-address"],
)
def test_who_answers_or_tells_of_itself_asks_for_nobody(watch: PortWatch, said: bytes) -> None:
    assert watch.sent("tone", said, 1.0) == []


@pytest.mark.parametrize("said", [{"flags": 0x12}, {"flags": 0x10}, {"flags": 0x04}, {"fragment": 5}])
def test_what_begins_nothing_is_not_told(watch: PortWatch, said: dict[str, int]) -> None:
    assert watch.sent("tone", frame(**said), 1.0) == []  # type: ignore[arg-type]


def test_options_of_ip_hide_nothing(watch: PortWatch) -> None:
    (told,) = watch.sent("tone", frame(port=443, options=3), 1.0)
    assert told["dst_endpoint"]["port"] == 443


@pytest.mark.parametrize(
    "data",
    [
        frame(mac=OTHER),
        frame(source="10.20.0.9"),
        arp(mac=OTHER),
        arp(said=OTHER),
        arp(ip="10.20.0.9"),
    ],
    ids=["mac", "ip", "arp-frame", "arp-mac", "arp-ip"],
)
def test_anothers_address_is_a_finding_that_proves_nothing_of_it(watch: PortWatch, data: bytes) -> None:
    (told,) = watch.sent("tone", data, 1.0)
    assert rules([told]) == [ports.SPOOFED]
    assert told["resources"] == [{"uid": "tone"}], "it is about the port that sent it"
    assert told["evidences"][0]["data"]["proven"] is False
    assert watch.sent("tone", data, 2.0) == []
    (again,) = watch.sent("tone", data, 12.0)
    assert again["evidences"][0]["data"]["frames"] == 2


@pytest.mark.parametrize("data", [frame(source="0.0.0.0"), arp(ip="0.0.0.0")])  # noqa: S104
def test_who_has_no_address_yet_forges_none(watch: PortWatch, data: bytes) -> None:
    assert ports.SPOOFED not in rules(watch.sent("tone", data, 1.0))


def test_a_flood_is_one_finding_and_few_events(watch: PortWatch) -> None:
    events = [
        event
        for number in range(20_000)
        for event in watch.sent("tone", frame(port=number % 60_000 + 1), 5.0 + number / 40_000)
    ]
    found = rules(events)
    assert found.count(ports.FLOOD) == 1
    assert found.count("connection") == ports.PER_SECOND


def test_who_asks_for_everybody_gets_few_events(watch: PortWatch) -> None:
    asked = [watch.sent("tone", arp(asks=f"10.20.{one >> 8}.{one & 255}"), 5.0) for one in range(3, 2000)]
    assert sum(map(len, asked)) == ports.PER_SECOND


def test_an_own_address_from_another_blanket_is_a_second_copy(watch: PortWatch) -> None:
    assert watch.received("vx-1", frame(mac=OTHER), 1.0) == []
    assert watch.received("vx-1", arp(mac=MAC), 1.0) == []
    (told,) = watch.received("vx-1", frame(mac=MAC), 1.0 + ports.APART_S)
    assert rules([told]) == [ports.SECOND_COPY]
    assert told["severity_id"] == Severity.CRITICAL.rank


def test_what_is_plugged_is_read_as_the_overlay_writes_it(tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    assert plugged(known) == []
    port = InstancePort(instance="i", device="tone", network="n", mac=MAC, ip=IP)
    known.write_text(json.dumps(to_json(Knowledge, replace(NOTHING, ports=(port,)))))
    assert plugged(known) == [Own(device="tone", mac=MAC, ip=IP)]
    for other in ("{", "[]", "null", '{"ports": [{}]}', '{"ports": 1}'):
        known.write_text(other)
        assert plugged(known) == []


def heard(watch: PortWatch, *moments: float, link: str = "vx-1") -> list[str]:
    return [rule for at in moments for rule in rules(watch.received(link, frame(mac=MAC), at))]


def test_an_instance_that_moves_is_no_second_copy_where_it_comes_from_nor_where_it_goes(
    watch: PortWatch,
) -> None:
    """It has a port at both. Where it comes from hears a moment later that it is gone."""
    here, there = Own(device="tone", mac=MAC, ip=IP), Own(device="tone", mac=MAC, ip=IP, away="vx-1")
    watch.plugged([there])
    assert heard(watch, *range(60)) == [], "it comes, and is where it was until then"
    watch.plugged([here])
    assert heard(watch, 60.0) == [], "its last frame was under way"
    assert heard(watch, 1000.0, 1001.0, 1002.0) == [], "it went"
    watch.plugged([there])
    assert heard(watch, *range(1003, 1060)) == [], "and is told to be gone"
    assert heard(watch, 1060.0, 1066.0, link="vx-2") == [ports.SECOND_COPY], "but it is not in a third one"


def test_now_and_then_a_frame_is_no_second_copy(watch: PortWatch) -> None:
    assert heard(watch, *(at * ports.APART_OVER_S for at in range(10))) == []


def test_ports_that_stay_are_remembered_and_others_are_not_heard(watch: PortWatch) -> None:
    watch.sent("tone", frame(), 1.0)
    watch.plugged([Own(device="tone", mac=MAC, ip=IP), Own(device="ttwo", mac=OTHER, ip="10.20.0.2")])
    assert watch.sent("tone", frame(), 1.5) == []
    watch.plugged([])
    assert watch.sent("tone", frame(port=5), 1.6) == []


@given(st.binary(max_size=80))
def test_no_frame_is_too_odd(data: bytes) -> None:
    parsed(data)
    watch = PortWatch("boot")
    watch.plugged([Own(device="tone", mac=MAC, ip=IP)])
    for one in watch.sent("tone", data, 1.0):
        if one["class_uid"] == 2004:
            DetectionFinding.model_validate(one)


# ---------------------------------------------------------------- components


def looked(*steps: tuple[float, int, bool]) -> list[str]:
    watch = Components("boot")
    return [
        rule
        for at, pid, wanted in steps
        for rule in rules(watch.look({"keeper": Status(pid=pid, wanted=wanted)}, at))
    ]


def test_what_ended_by_itself_is_told() -> None:
    assert looked((0, 5, True), (1, 5, True), (2, 6, True), (3, 6, True)) == [components.CRASHED]


def test_what_was_told_to_end_is_not_told_unless_it_is_told_often() -> None:
    """An upgrade begins programs anew, and so does whoever lets tools in."""
    watch, seen = Components("boot"), list[str]()
    for at in range(1, 7):
        seen += rules(watch.look({"libvirtd": Status(pid=at, wanted=True, asked=True)}, float(at)))
        assert at == 6 or seen == []
    assert seen == [components.RESTARTING]


@pytest.mark.parametrize(
    ("ended", "asked"),
    [
        (b"0 0\n", True),
        (b"-1 15\n", True),
        (b"-1 9\n", False),
        (b"1 0\n", False),
        (b"", False),
        (b"0", False),
    ],
)
def test_how_it_ended_is_read_as_finish_keeps_it(tmp_path: Path, ended: bytes, asked: bool) -> None:
    service = tmp_path / "keeper"
    (service / "supervise").mkdir(parents=True)
    (service / "supervise" / "status").write_bytes(bytes(12) + (7).to_bytes(4, "little") + b"\0u\0\1")
    (service / "ended").write_bytes(ended)
    assert statuses(tmp_path) == {"keeper": Status(pid=7, wanted=True, asked=asked)}


def test_what_stays_down_is_told_once() -> None:
    steps = [(0.0, 5, True)] + [(float(at), 0, True) for at in range(1, 30)]
    assert looked(*steps) == [components.DOWN]


def test_what_nobody_wants_is_not_missed() -> None:
    assert looked((0, 5, True), (1, 0, False), (9, 0, False), (10, 7, True)) == []


def test_what_comes_and_goes_is_graver() -> None:
    found = looked(*((float(at), at, True) for at in range(1, 8)))
    assert found == [components.CRASHED] * 4 + [components.RESTARTING, components.CRASHED]


def test_statuses_are_read_as_runit_writes_them(tmp_path: Path) -> None:
    for name, data in {
        "agent": bytes(12) + (4711).to_bytes(4, "little") + b"\0u\0\1",
        "keeper": bytes(12) + bytes(4) + b"\0d\0\0",
        "torn": bytes(7),
    }.items():
        (tmp_path / name / "supervise").mkdir(parents=True)
        (tmp_path / name / "supervise" / "status").write_bytes(data)
    assert statuses(tmp_path) == {
        "agent": Status(pid=4711, wanted=True),
        "keeper": Status(pid=0, wanted=False),
    }
