"""What detectors are shown is written down, and shown again to the same ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_loop_detectors import IP, MAC, frame

from supercloud.cli.main import run
from supercloud.cli.policy import replayed
from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Severity
from supercloud.security import usual
from supercloud.security.detectors import COMPONENTS, GUEST, INTEGRITY, MEMORY, PORT
from supercloud.security.detectors.components import Components, Status
from supercloud.security.detectors.guests import Guests
from supercloud.security.detectors.integrity import Integrity, Mark
from supercloud.security.detectors.memory import Scans
from supercloud.security.detectors.ports import Own, PortWatch
from supercloud.security.introspection.look import HiddenProcess, Seen
from supercloud.security.introspection.sockets import Socket
from supercloud.security.introspection.tasks import Task
from supercloud.security.memoryscan import Match, Place
from supercloud.security.recording import recorded
from supercloud.security.replay import events, read

pytestmark = pytest.mark.unit
#: After a recording begins, whenever that is.
T = 2e9
ABOUT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
EXAMPLE = Path(__file__).parents[2] / "examples" / "security"


def looked(*hidden: HiddenProcess) -> Seen:
    return Seen(
        release="6.1.0",
        first=True,
        ms=1.5,
        processes=(Task(pid=1, name="init", parent=0, begun=1, address=1),),
        sockets=(Socket(protocol="tcp", address="0.0.0.0", port=22),),  # noqa: S104
        modules=("ext4",),
        pages=10,
        hidden=hidden,
    )


def show_ports(folder: Path) -> list[dict[str, Any]]:
    watch = recorded(PortWatch("then"), PORT, folder)
    watch.plugged([Own(device="tone", mac=MAC, ip=IP)])
    assert watch.devices == {"tone"}
    told = [one for port in range(1, 31) for one in watch.sent("tone", frame(port=port), T + port / 100)]
    told += watch.received("vx-1", frame(mac=MAC), T + 2.0004)
    return told + watch.sent("tone", frame(source="10.20.0.9"), T + 3)


def show_components(folder: Path) -> list[dict[str, Any]]:
    watch = recorded(Components("then"), COMPONENTS, folder)
    pids = {0: 5, 1: 5, 2: 6, 3: 0, 4: 0, 5: 0, 6: 0}
    return [
        one
        for at, pid in pids.items()
        for one in watch.look({"keeper": Status(pid=pid, wanted=True)}, T + at)
    ]


def show_guests(folder: Path) -> list[dict[str, Any]]:
    watch = recorded(Guests("then"), GUEST, folder)
    watch.there([ABOUT])
    told = watch.seen(ABOUT, looked(), T)
    told += watch.seen(ABOUT, looked(HiddenProcess(pid=7, name="x", parent=1, missing="a", seen="b")), T + 1)
    return told + watch.failed(ABOUT, "no sense", T + 2) + watch.cannot(ABOUT, "it is away", T + 3)


def show_memory(folder: Path) -> list[dict[str, Any]]:
    watch = recorded(Scans("then"), MEMORY, folder)
    match = Match(
        rule="implant", severity=Severity.HIGH, many=1, places=(Place(address=9, string="$a", length=4),)
    )
    return watch.found(ABOUT, [match], T) + watch.cannot(ABOUT, "too long", T + 1)


def show_files(folder: Path) -> list[dict[str, Any]]:
    watch = recorded(Integrity("then"), INTEGRITY, folder)
    image, asked = Mark(0o755, 0, 0, 5, 1), list[str]()

    def same(path: str) -> bool:
        asked.append(path)
        return path.endswith("touched")

    differ = {f"usr/bin/{name}": (image, Mark(0o755, 0, 0, 5, 2)) for name in ("touched", "changed")} | {
        "usr/bin/gone": (image, None),
        "usr/bin/implant": (None, image),
    }
    told = watch.look(differ, same, T) + watch.look(differ, same, T + 10)
    assert asked == ["usr/bin/touched", "usr/bin/changed"]
    return told


SHOWN: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    PORT: show_ports,
    COMPONENTS: show_components,
    GUEST: show_guests,
    MEMORY: show_memory,
    INTEGRITY: show_files,
}


def same(told: dict[str, Any]) -> dict[str, Any]:
    """Without the ids of events, which are of one process, and what only a replay says."""
    text = json.dumps({name: value for name, value in told.items() if name != "unmapped"})
    uid = str(told["metadata"]["uid"])
    found: dict[str, Any] = json.loads(text.replace(uid, "uid"))
    return found


@pytest.mark.parametrize("detector", SHOWN)
def test_shown_again_a_detector_tells_the_same(detector: str, tmp_path: Path) -> None:
    told = SHOWN[detector](tmp_path)
    assert told
    again = list(events(read([tmp_path])))
    assert [same(one) for one in again] == [same(one) for one in told]
    assert (tmp_path / f"{detector}.jsonl").stat().st_mode & 0o777 == 0o600


def test_nothing_is_written_where_nobody_asked_for_it(tmp_path: Path) -> None:
    watch = PortWatch("boot")
    assert recorded(watch, PORT, tmp_path / "none") is watch
    assert not (tmp_path / "none").exists()


def test_several_are_one_by_their_moments_and_what_they_tell_becomes_incidents(tmp_path: Path) -> None:
    for show in SHOWN.values():
        show(tmp_path)
    moments = [line.at for line in read([tmp_path]) if not line.begins]
    assert moments == sorted(moments)
    found = replayed(usual.POLICY, None, [tmp_path])
    assert found.refused == ()
    rules = {one["says"] for incident in found.incidents for one in incident["timeline"]}
    for expected in ("Scan for open ports", "A process is hidden", "keeper is down", "usr/bin/changed"):
        assert any(expected in says for says in rules), rules


def test_what_is_as_before_is_written_once(tmp_path: Path) -> None:
    watch = recorded(Components("then"), COMPONENTS, tmp_path)
    for at in range(100):
        watch.look({"keeper": Status(pid=5, wanted=True)}, T + at)
    lines = (tmp_path / "components.jsonl").read_text().splitlines()
    assert sum('"given"' in line for line in lines) == 1
    assert len(list(read([tmp_path]))) == len(lines) == 101


def test_a_recording_is_bounded_and_the_detector_goes_on(tmp_path: Path) -> None:
    watch = recorded(PortWatch("then"), PORT, tmp_path, most_bytes=3000)
    watch.plugged([Own(device="tone", mac=MAC, ip=IP)])
    told = [watch.sent("tone", frame(port=port), T) for port in range(1, 60)]
    assert all(told)
    lines = list(read([tmp_path]))
    assert lines[-1].full and (tmp_path / "port.jsonl").stat().st_size < 3200
    assert recorded(PortWatch("later"), PORT, tmp_path, most_bytes=3000).devices == frozenset()


def test_who_begins_anew_remembers_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        watch = recorded(Components("then"), COMPONENTS, tmp_path)
        watch.look({"keeper": Status(pid=5 + _, wanted=True)}, T)
    assert list(events(read([tmp_path]))) == [], (
        "that it has another process now is seen by who saw the first"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "1: that is no line"),
        ('{"at": 1, "detector": "port", "call": "sent"}', "the line before is missing"),
        ('{"at": 1, "detector": "other", "call": "sent", "given": []}', "no detector other"),
        ('{"at": 1, "detector": "port", "call": "_uid", "given": []}', "shown nothing by _uid"),
        ('{"at": 1, "detector": "port", "call": "sent", "given": ["t"]}', "it was not shown that"),
        ('{"at": 1, "detector": "port", "call": "sent", "given": ["t", "zz"]}', "it was not shown that"),
        (
            '{"at": 1, "detector": "integrity", "call": "look",'
            ' "given": [{"a": [{"mode":1,"owner":0,"group":0,"size":1,"changed_ns":1},'
            ' {"mode":1,"owner":0,"group":0,"size":1,"changed_ns":2}]}, {}]}',
            "it was not shown that",
        ),
    ],
)
def test_what_is_no_recording_is_said(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(InvalidInput, match=said):
        list(events(read([tmp_path])))


def test_a_policy_is_tried_on_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shown").mkdir()
    show_ports(tmp_path / "shown")
    packed = tmp_path / "one.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "shown" / "port.jsonl").read_bytes()))
    arguments = ["policy", "test", str(EXAMPLE / "policy.yaml"), "--recording", str(packed), "-o", "json"]
    capsys.readouterr()
    assert run(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(
        one["reaction"] == "contain:device"
        for incident in found["incidents"]
        for one in incident["reactions"]
    )
    assert run([*arguments, "--events", str(EXAMPLE / "scan.jsonl")]) == 2
    assert run(["policy", "test", str(EXAMPLE / "policy.yaml")]) == 2
    assert run(["policy", "test", str(EXAMPLE / "policy.yaml"), "--recording", str(tmp_path / "none")]) == 2
