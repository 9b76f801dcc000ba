"""What the documents name exists: files and sections, tests, commands with their options, targets."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from supercloud.cli.main import build

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_TEST = re.compile(r"`((?:microhypervisor/)?tests/[\w/*]+\.(?:py|c))(?:::(\w+))?`")
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"(?:\.venv/bin/)?supercloud ")


@cache
def sections(document: Path) -> frozenset[str]:
    """The anchors of its headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        name, _, section = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not section or section in sections(target), link


def test_every_test_that_is_named_exists() -> None:
    named = [(path, *found) for path in DOCUMENTS for found in _TEST.findall(path.read_text())]
    assert len(named) > 50, "the specification names most of the tests"
    for document, pattern, function in named:
        files = list(ROOT.glob(pattern))
        assert files, f"{document.name}: {pattern}"
        assert not function or function in defined(files[0]), f"{document.name}: {pattern}::{function}"


@cache
def defined(path: Path) -> frozenset[str]:
    """The tests of a file: functions, and classes (assigned ones too) as pytest would collect them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(name for name in names if name.startswith(("test_", "Test")))


def commands(document: Path) -> Iterator[list[str]]:
    """What a reader would type after `supercloud`."""
    for block in _FENCE.findall(document.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                if found := _PROGRAM.match(command):
                    yield shlex.split(command[found.end() :], comments=True)


def test_every_command_can_be_typed() -> None:
    seen = 0
    for document in DOCUMENTS:
        for words in commands(document):
            try:
                build(words).parse_args(words, exit_on_error=False, print_error=False)
            except Exception as error:
                raise AssertionError(f"{document.name}: supercloud {' '.join(words)}: {error}") from error
            seen += 1
    assert seen > 50


def test_an_administrator_is_told_of_every_package() -> None:
    text = (ROOT / "docs/guide/install.md").read_text().replace("\\\n", " ")
    (told,) = re.findall(r"^apt-get install --no-install-recommends (.+)$", text, re.MULTILINE)
    assert sorted(told.split()) == (ROOT / "debian-packages.txt").read_text().split()


def test_every_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([a-z]+)`", document.read_text()):
            assert target in targets, f"{document.name}: make {target}"
