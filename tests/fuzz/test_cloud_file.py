"""Whatever bytes a cloud's file holds: it is read, or every line says where what is wrong; never a trace."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supercloud.cli.declared.read import Document, Wrong, read
from supercloud.cli.declared.tree import parse
from supercloud.cli.main import run

pytestmark = pytest.mark.unit
WHOLE = """\
version: 1
cloud: {name: mine, rightLength: 90}
providers:
  north: {kind: qemu, options: {sandbox: true}}
blankets:
  n1: {provider: north, memory: 1.5G}
networks:
  lan: {cidr: 10.7.0.0/24}
volumes:
  data: {size: 16M}
instances:
  web:
    image: debian
    networks: [lan]
    publish: ["8080:80"]
    volumes: [data]
    userData: |
      #cloud-config
"""
_LINE = re.compile(r"c:(\d+):(\d+): .+; .+")
_marks = st.sampled_from([*"{}[]:,-?&*!|>'\"%@`#\n\t \\~<=", "---\n", "...\n", "<<: *a", "!!str ", "\\u0000"])
_odd = st.text(st.characters() | st.sampled_from(string.printable), max_size=30)
_yaml = st.lists(_marks | _odd | st.sampled_from(WHOLE.splitlines(keepends=True)), max_size=30).map("".join)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _odd,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(_odd, below, max_size=4),
    max_leaves=20,
)
_keys = st.sampled_from(
    [
        *("version", "cloud", "providers", "blankets", "networks", "volumes", "instances", "web", "n1"),
        *("name", "image", "publish", "size", "cidr", "userDataFile", "options", "blanket", "memory"),
    ]
)
_near = st.recursive(
    st.none()
    | st.integers()
    | st.sampled_from(["mine", "1G", "10.0.0.0/8", "80:80", "..", "/etc/passwd", "\ud800"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(_keys, below, max_size=8),
    max_leaves=40,
)
much = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def check(content: bytes, folder: Path = Path("/nowhere")) -> None:
    try:
        assert isinstance(read(content, "c", folder), Document)
    except Wrong as error:
        lines = content.decode("utf-8-sig", "replace").splitlines() or [""]
        assert error.lines
        for line in error.lines:
            found = _LINE.fullmatch(line)
            assert line.isprintable() and (found or re.fullmatch(r"c: and \d+ more", line)), line
            assert found is None or 1 <= int(found[1]) <= len(lines) + 1, line
            assert len(line) < 1000


@much
@given(st.binary(max_size=200))
@example(b"\xff\xfe\x00")
@example(b"%YAML 9999999999999999999999.1\n---\na")
@example(b"%YAML 1." + b"9" * 5000 + b"\n--- a")
@example(b'"\\UFFFFFFFF"')
@example(b'"\\ud83d\\ude00"')
@example(b"- " * 5000)
@example(b"{" * 5000)
@example(b"a: &a [*a, *a]")
@example(b"? ? ? ? ?")
@example(b"!<tag:\xc3\xa9> a")
@example(b"!%ff a")
@example(b"k: " + b"1" * 5000)
@example(b"k: 0x" + b"f" * 30)
@example(b"\xef\xbb\xbf\xef\xbb\xbfversion: 1")
def test_bytes(content: bytes) -> None:
    check(content)


@much
@given(_yaml)
def test_what_looks_like_yaml(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@much
@given(_near | _json)
def test_values_of_any_shape(value: object) -> None:
    """As JSON, in which a lone surrogate and NaN can be written, and as YAML."""
    check(json.dumps(value).encode())
    try:
        written = yaml.safe_dump(value, allow_unicode=True)
    except (yaml.YAMLError, UnicodeEncodeError):
        return
    check(written.encode("utf-8", "surrogatepass"))


@much
@given(st.data())
def test_a_whole_file_with_damage(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(WHOLE)))
    end = data.draw(st.integers(start, min(len(WHOLE), start + 12)))
    damage = data.draw(_marks | _odd)
    check((WHOLE[:start] + damage + WHOLE[end:]).encode("utf-8", "surrogatepass"))


def test_a_bomb_is_small() -> None:
    """A billion laughs, and as many brackets as a file can have."""
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    tree = parse("\n".join(lines).encode())
    assert len(tree.problems) == 78 and len(tree.values) < 200
    assert len(parse(b"[" * (1 << 20)).problems) == 1
    assert len(parse(b"[" * (1 << 12) + b"]" * (1 << 12)).problems) == 1


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=st.binary(max_size=60) | _yaml.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_the_command_says_so_in_lines(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERCLOUD_HOME", str(tmp_path / "none"))
    file = tmp_path / "cloud.yaml"
    file.write_bytes(content)
    assert run(["diff", "-f", str(file)]) in {2, 6}
    said = capsys.readouterr()
    assert not said.out and "a bug" not in said.err and "Traceback" not in said.err, said.err
    lines = said.err.splitlines()
    assert lines[-1].startswith("supercloud: ") and all(line.isprintable() for line in lines)
    assert all(line.startswith(str(file)) for line in lines[:-1])
