"""What programs load when they start. A library that a program needs seldom is loaded where it is used: each
costs every command of the command line its time, and every blanket its memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from pydantic import TypeAdapter

from supercloud.api.app import create_app
from supercloud.images.bundle import PACKAGE
from supercloud.ports.controller import Controller
from supercloud.security.memoryscan import Match
from supercloud.security.terms import RuleSet
from supercloud.wire import proxies

pytestmark = pytest.mark.unit

_SERVER = ("sqlalchemy", "fastapi", "uvicorn", "dbos", "jinja2", "supercloud.services")
_HELP = ("pydantic", "cryptography", "asyncio", "http.client", "ssl", "structlog", *_SERVER)
_BLANKET = ("biscuit_auth", "yaml", "sigma", "httpx", "pycdlib", "re2", "pyroute2.ndb", *_SERVER)
_DETECTOR = ("cryptography", "websockets", "pyroute2", "sqlite3", "supercloud.agent.loop", *_BLANKET)
_SAY = "import json, sys; print('\\n' + json.dumps([*sys.modules]))"

#: What is run, and what it must not have loaded by then.
_STARTS = {
    "supercloud": ("from supercloud.cli.main import run; run([])", _HELP),
    "--version": ("from supercloud.cli.main import run; run(['--version'])", _HELP),
    "vm --help": ("from supercloud.cli.main import run; run(['vm', '--help'])", _HELP),
    "vm run --help": ("from supercloud.cli.main import run; run(['vm', 'run', '--help'])", _HELP),
    "a request": (
        "from supercloud.client.http import Client; from supercloud.trust import keys, proof",
        ("pydantic", "asyncio", "cryptography.x509", *_SERVER),
    ),
    "vm ls": ("from supercloud.cli.main import run; run(['vm', 'ls'])", ("pydantic", "asyncio", *_SERVER)),
    "agent": ("import supercloud.agent.__main__", ("yara", "supercloud.agent.detectors", *_BLANKET)),
    "keeper": (
        "import supercloud.keeper.main",
        ("cryptography", "websockets", "pyroute2", "supercloud.agent", *_BLANKET),
    ),
    "looker": ("import supercloud.agent.looker", ("pydantic", "asyncio", "structlog", *_DETECTOR)),
    **{
        f"detector {name}": (
            f"import supercloud.agent.detectors as start; start._watching({name!r})",
            (*_DETECTOR, *more),
        )
        for name, more in {
            "port": ("pydantic", "yara"),
            "guest": ("yara",),
            "memory": ("supercloud.agent.evidence",),
            "components": ("pydantic", "yara"),
            "integrity": ("pydantic", "yara"),
        }.items()
    },
    **{
        program: (
            f"import runpy, sys; sys.argv = ['x', '--help']\n"
            f"try: runpy.run_module('supercloud.{program}', run_name='__main__')\n"
            f"except SystemExit: pass",
            ("rich", "pygments", "pyroute2", "libvirt", *more),
        )
        for program, more in {"controlplane": ("alembic", "yara"), "keystore": _SERVER}.items()
    },
}


@pytest.mark.parametrize("name", _STARTS)
def test_a_program_starts_without_what_it_seldom_needs(name: str, tmp_path: Path) -> None:
    program, without = _STARTS[name]
    env = {**os.environ, "SUPERCLOUD_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", f"{program}\n{_SAY}"], check=True, capture_output=True, text=True, env=env
    )
    loaded = set(json.loads(said.stdout.splitlines()[-1]))
    assert not loaded & set(without)


def test_whoever_only_names_the_models_types_needs_no_pydantic() -> None:
    """Open Cybersecurity Schema Framework is read as it comes, so its classes are pydantic's own."""
    modules = [
        f"supercloud.{part}.{path.stem}"
        for part in ("model", "ports")
        for path in (PACKAGE / part).glob("*.py")
        if path.stem not in {"__init__", "ocsf"}
    ]
    program = f"import {', '.join(modules)}\n{_SAY}"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pydantic" not in json.loads(said.stdout.splitlines()[-1])


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for inner in schema.values():
            yield from _patterns(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _patterns(inner)


def _taken_in() -> Iterator[Any]:
    """Schemas of all that comes in: over the API, and between the control plane and agents."""
    app = create_app(MagicMock(), MagicMock(), MagicMock())
    yield from (app.openapi(), app.state.southbound())
    kinds = {RuleSet, Match}
    for port in (*proxies._GROUPS.values(), Controller):
        kinds |= {kind for kind, _ in proxies._methods(port).values() if kind is not None}
    for kind in kinds:
        yield TypeAdapter(kind).json_schema()


def test_no_pattern_repeats_so_often_that_it_takes_megabytes() -> None:
    """A regular expression has a state for each repetition of each class; of Unicode's letters, hundreds. How
    long a text may be is said by `max_length`."""
    patterns = {pattern for schema in _taken_in() for pattern in _patterns(schema)}
    assert len(patterns) > 20
    costly = [
        one
        for one in patterns
        if any(int(most) > 512 for most in re.findall(r"\{(?:\d+,)?(\d+)\}", one)) or r"\w" in one
    ]
    assert not costly
