"""YARA's rules over memory: found wherever it lies, once, bounded, and never with what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.agent.taker import Part, elf, segments
from supercloud.cli.policy import yara_of
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound
from supercloud.model.findings import Severity
from supercloud.model.names import MIB
from supercloud.security import memoryscan
from supercloud.security.detectors.memory import AGAIN_S, Scans
from supercloud.security.memoryscan import Match, Place, Scan, compiled, names, scanned, windows

pytestmark = pytest.mark.unit
NEEDLE = b"a needle, and nothing else"
RULE = """
private rule helper { strings: $n = "needle" condition: $n }
rule needle : tag {
  meta: severity = "Critical"
  strings: $a = "a needle, and nothing else"
  condition: helper and $a
}
"""


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memoryscan, "WINDOW_BYTES", 4096)
    monkeypatch.setattr(memoryscan, "OVERLAP_BYTES", 64)


def test_what_matches_is_told_by_name_and_place_and_not_what_is_there() -> None:
    memory = b"\0" * 5000 + NEEDLE + b"\0" * 100
    (found,) = scanned(compiled(RULE), [(0x10_0000, memory)], seconds=20)
    assert found == Match(
        rule="needle",
        severity=Severity.CRITICAL,
        many=1,
        places=(Place(address=0x10_0000 + 5000, string="$a", length=len(NEEDLE)),),
    )
    assert "needle, and" not in json.dumps(asdict(found))
    assert names(RULE) == ["needle"], "what is private is a part of others"


@given(at=st.integers(0, 20_000), cut=st.integers(1, 5000))
@settings(max_examples=80, deadline=None)
def test_wherever_it_lies_it_is_found_once(at: int, cut: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        memory = b"\0" * at + NEEDLE + b"\0" * 9000
        pieces = [(7 * MIB + begin, memory[begin : begin + cut]) for begin in range(0, len(memory), cut)]
        (found,) = scanned(compiled(RULE), pieces, seconds=20)
        assert [(one.address, found.many) for one in found.places] == [(7 * MIB + at, 1)]


@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=5), gap=st.sampled_from([0, 4096]))
@settings(max_examples=80, deadline=None)
def test_windows_are_all_of_it_in_order(lengths: list[int], gap: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        pieces, at = list[tuple[int, bytes]](), 0
        for number, length in enumerate(lengths):
            pieces.append((at, bytes([number + 1]) * length))
            at += length + gap
        seen = dict[int, int]()
        for address, data, fresh in windows(iter(pieces)):
            assert len(data) <= 4096 and fresh < len(data)
            for offset, byte in enumerate(data):
                assert seen.setdefault(address + offset, byte) == byte
        assert seen == {begin + offset: byte for begin, data in pieces for offset, byte in enumerate(data)}


def test_a_gap_is_no_place_for_a_string() -> None:
    half = len(NEEDLE) // 2
    assert not scanned(compiled(RULE), [(0, NEEDLE[:half]), (MIB, NEEDLE[half:])], seconds=20)


def test_places_and_rules_are_told_up_to_a_bound_and_counted() -> None:
    many = "\n".join(
        f'rule r{number} {{ strings: $a = "x{number}y" condition: $a }}' for number in range(100)
    )
    memory = b"".join(b"x%dy" % number for number in range(100)) + b"x7y" * 50
    found = scanned(compiled(many), [(0, memory)], seconds=20)
    assert len(found) == memoryscan.RULES
    seven = {one.rule: one for one in scanned(compiled(many), [(0, b"x7y" * 50)], seconds=20)}["r7"]
    assert (len(seven.places), seven.many, seven.severity) == (memoryscan.PLACES, 50, Severity.HIGH)


@pytest.mark.parametrize(
    "source",
    [
        "rule {",
        'include "/etc/passwd"',
        "rule a { condition: nobody }",
        "rule a { strings: $a = /(/ condition: $a }",
    ],
)
def test_what_are_no_rules_is_said(source: str) -> None:
    with pytest.raises(InvalidInput, match="YARA: "):
        compiled(source)


def test_rules_that_take_too_long_end() -> None:
    slow = "rule slow { condition: for all i in (1..10000000000) : (uint8(i % 100) < 300) }"
    with pytest.raises(Exhausted, match="more time"):
        scanned(compiled(slow), [(0, b"x" * 4096)], seconds=2.5)


def test_what_a_library_meets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def match(self, **_: object) -> None:
            raise memoryscan.yara.Error("internal error: 30")

    with pytest.raises(Failed, match="internal error"):
        Scan(Broken(), seconds=10).see(0, b"")


def test_rules_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """A scanner's standard output is its answer."""
    scanned(compiled('import "console" rule a { condition: console.log("here") }'), [(0, b"x")], seconds=10)
    assert capfd.readouterr().out == ""


# ---------------------------------------------------------------- findings

MATCH = Match(
    rule="needle", severity=Severity.HIGH, many=3, places=(Place(address=255, string="$a", length=6),)
)


def test_a_match_is_a_finding_with_its_rule_and_places_and_told_again_after_a_while() -> None:
    watch = Scans("boot")
    (event,) = watch.found("one", [MATCH], 1000.0)
    assert event["finding_info"]["analytic"]["uid"] == "yara:needle"
    assert event["severity_id"] == Severity.HIGH.rank and event["resources"] == [{"uid": "one"}]
    places = [{"address": "0xff", "string": "$a", "length": 6}]
    assert event["evidences"] == [{"data": {"rule": "needle", "many": 3, "places": places}}]
    assert watch.found("one", [MATCH], 1001.0) == []
    assert len(watch.found("other", [MATCH], 1001.0)) == 1
    assert len(watch.found("one", [MATCH], 1000.0 + AGAIN_S)) == 1
    watch.there(["other"])
    assert len(watch.found("one", [MATCH], 1000.0 + AGAIN_S + 1)) == 1, "another of that name"
    watch.anew()
    assert len(watch.found("other", [MATCH], 1002.0)) == 1, "there are other rules"


def test_what_cannot_be_scanned_is_told_once() -> None:
    watch = Scans("boot")
    (event,) = watch.cannot("one", "the rules take more time than a scan has", 1.0)
    assert event["finding_info"]["analytic"]["uid"] == "cannot-scan"
    assert watch.cannot("one", "again", 2.0) == []


# ---------------------------------------------------------------- files


def test_files_and_folders_of_rules_are_one_text(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yar").write_text("rule a { condition: true }")
    (tmp_path / "b.yara").write_text("rule b { condition: true }")
    (tmp_path / "notes.txt").write_text("no rule")
    assert sorted(names(yara_of([tmp_path]))) == ["a", "b"]
    (tmp_path / "c.yar").write_text("rule a { condition: false }")
    with pytest.raises(InvalidInput, match="duplicated"):
        yara_of([tmp_path])
    (tmp_path / "c.yar").write_text("rule {")
    with pytest.raises(InvalidInput, match=r"c\.yar: YARA: line 1"):
        yara_of([tmp_path])
    with pytest.raises(NotFound):
        yara_of([tmp_path / "no.yar"])
    with pytest.raises(InvalidInput, match="no YARA rules"):
        yara_of([_empty(tmp_path)])


def _empty(folder: Path) -> Path:
    made = folder / "empty"
    made.mkdir()
    return made


def test_evidence_is_read_as_the_machine_had_it() -> None:
    parts, memory = [Part(0, 0, 8), Part(4096, 8, 2 * MIB)], b"12345678" + b"x" * (2 * MIB)
    whole = elf(parts) + memory

    def by(length: int) -> Iterator[bytes]:
        for at in range(0, len(whole), length):
            yield whole[at : at + length]

    for length in (100, 100_000, len(whole)):
        found = list(segments(by(length)))
        assert found[0] == (0, b"12345678") and found[1][0] == 4096 and found[2][0] == 4096 + MIB
        assert b"".join(data for _, data in found) == memory
    for wrong in (b"", b"\x7fELF", whole[:-1], b"x" * 5000):
        with pytest.raises(InvalidInput):
            list(segments(iter([wrong])))
