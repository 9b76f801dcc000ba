"""Whatever stands on the command line: a status and one line, never a trace, and nothing is sent or made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.cli.main import run
from supercloud.cli.sizes import parse_size
from supercloud.model.units import format_size

pytestmark = pytest.mark.unit

odd = st.text(max_size=70) | st.sampled_from(
    [
        "",
        "-",
        "--",
        "-x",
        "UPPER",
        "a b",
        "a/../b",
        "é",
        "a\n",
        "a\x00b",
        "x" * 64,
        "-lead",
        "trail-",
        "$(id)",
        "%00",
        "?cloud=other",
        "sha256:00",
        "\x1b[31m",
        "{}",
        "[]",
        "0",
        "-1",
        "1e9",
        "nan",
        "99999999999999999999",
        "10.0.0.0/8",
        "8080:80",
        "1.5G",
    ]
)
#: Each `?` is replaced; what takes the terminal over or starts programs is left out.
FORMS = [
    "provider add ? --kind ? --option ?",
    "provider show ?",
    "cloud create ? --cpu-model ? --right-length ? --right-margin ?",
    "cloud rm ?",
    "blanket add ? --cloud ? --provider ? --flavour ? --memory ? --disk ? --vcpus ?",
    "blanket rm ? --cloud ?",
    "image import ? --name ? --format ?",
    "image import ? --name a",
    "network create ? --cloud ? --cidr ?",
    "volume create ? --cloud ? --size ? --image ?",
    "volume resize ? ?",
    "volume attach ? ?",
    "volume snapshot ? ?",
    "vm run ? --cloud ? --image ? --memory ? --disk ? --network ? --publish ?",
    "vm run ? --cloud ? --image ? --user-data ? --ssh-key ?",
    "vm migrate ? --to ?",
    "vm ssh ? ? ?",
    "vm console ?",
    "vm proxy ? ?",
    "apply --file ? --at-once ?",
    "diff -f ? ?",
    "export ?",
    "export ? -o ?",
    "schema ?",
    "operation ls --limit ?",
    "operation wait ?",
    "status --output ?",
    "restore ?",
    "?",
    "vm ?",
    "vm ls ? ?",
]


@settings(
    max_examples=250,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(form=st.sampled_from(FORMS), words=st.lists(odd, min_size=7, max_size=7))
def test_no_argument_is_a_bug(
    form: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SUPERCLOUD_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    given_words = iter(words)
    argv = [next(given_words) if word == "?" else word for word in form.split()]
    status = run(argv)
    said = capsys.readouterr()
    assert status in {0, 1, 2, 3, 6}, argv
    assert "a bug" not in said.err and "Traceback" not in said.err, (argv, said.err)
    if status:
        lines = [line for line in said.err.splitlines() if line.startswith("supercloud: ")]
        assert len(lines) == 1 and lines[0].isprintable(), (argv, said.err)
    else:
        assert said.out, f"{argv} can only have asked for help"
    assert not list(tmp_path.iterdir()), "nothing was made"


@given(st.text(max_size=30))
@settings(deadline=None)
def test_a_size_is_read_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 <= size < 1 << 90


@given(st.integers(0, 1023), st.sampled_from(["", "K", "M", "G", "T"]))
def test_a_size_is_written_as_it_is_read(number: int, unit: str) -> None:
    size = parse_size(f"{number}{unit}")
    assert parse_size(format_size(size)) == size
