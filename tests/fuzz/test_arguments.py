"""Whatever stands on the command line: a status and one line, never a trace, and nothing is sent or made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclopts import App
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.cli.main import build, run
from supercloud.cli.sizes import parse_size
from supercloud.model.errors import Unavailable
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


#: What these begin is no matter of arguments, so it is not begun; and one makes what it is told to.
BEGINS = {
    "up": "supercloud.cli.control.ControlPlane.up",
    "doctor": "supercloud.platforms.doctor.examine",
    "demo": "supercloud.cli.demo.scenario.Demo.run",
    "demo attack": "supercloud.cli.demo.attack.Attack.run",
    "bench": "supercloud.cli.commands.bench.progress",
    "backup": "supercloud.cli.control.ControlPlane.archive",
    "restore": "supercloud.cli.control.ControlPlane.archive",
}
_MAKES = "key new"


@dataclass(frozen=True)
class Command:
    """One of the command line, what it needs, and what it may be given besides."""

    words: tuple[str, ...]
    places: int
    options: tuple[str, ...]


def _commands(app: App, words: tuple[str, ...] = ()) -> Iterator[Command]:
    for name in app:
        if name.startswith("-"):
            continue
        below = list(_commands(app[name], (*words, name)))
        if not below or app[name].default_command:
            arguments = app[name].assemble_argument_collection()
            names = [one.names[0] for one in arguments if one.show]
            options = tuple(one for one in names if one.startswith("-"))
            yield Command((*words, name), len(names) - len(options), options)
        yield from below


COMMANDS = list(_commands(build([])))
#: Now and then one that is right, so that what follows is looked at as well.
word = odd | st.sampled_from(["a", "web", "1", "1G", "json"])


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with odd values for all that it needs and for some of its options."""
    command = draw(st.sampled_from(COMMANDS))
    argv = [*command.words, *(draw(word) for _ in range(command.places))]
    for option in draw(st.lists(st.sampled_from(command.options), unique=True)) if command.options else ():
        argv += [option, *draw(st.lists(word, max_size=1))]
    return argv


FUZZ = settings(
    max_examples=250,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No control plane, and nothing is begun."""

    def begins(*_: object, **__: object) -> None:
        raise Unavailable("not begun here")

    for place in BEGINS.values():
        monkeypatch.setattr(place, begins)
    monkeypatch.setenv("SUPERCLOUD_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_command_is_among_them() -> None:
    known = {" ".join(command.words) for command in COMMANDS}
    assert {"vm run", "volume backup", "provider add", "bench", "token attenuate", "up"} <= known
    assert known >= {*BEGINS, _MAKES} and len(known) > 150


@FUZZ
@given(argv=lines())
def test_no_command_takes_odd_words_for_a_bug(
    argv: list[str], nothing_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _one_line(argv, capsys)
    made = {path.name for path in nothing_here.iterdir()}
    assert not made or (" ".join(argv[:2]) == _MAKES and made == {"none"}), (argv, made)
    shutil.rmtree(nothing_here / "none", ignore_errors=True)


@FUZZ
@given(form=st.sampled_from(FORMS), words=st.lists(odd, min_size=7, max_size=7))
def test_no_argument_is_a_bug(
    form: str, words: list[str], nothing_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_words = iter(words)
    argv = [next(given_words) if word == "?" else word for word in form.split()]
    _one_line(argv, capsys)
    assert not list(nothing_here.iterdir()), "nothing was made"


def _one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = run(argv)
    said = capsys.readouterr()
    assert status in {0, 1, 2, 3, 4, 6}, argv
    assert "a bug" not in said.err and "Traceback" not in said.err, (argv, said.err)
    if status:
        lines = [line for line in said.err.splitlines() if line.startswith("supercloud: ")]
        assert len(lines) == 1 and lines[0].isprintable(), (argv, said.err)
    else:
        assert said.out or said.err == "(none)\n", f"{argv} can only have asked for help"


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
