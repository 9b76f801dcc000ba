"""What is fetched for browsers: by digest, from wherever npm looks, and no more than is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supercloud.web.pages import FOREIGN

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def test_every_package_is_locked_by_its_digest_and_names_no_place() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    wanted = json.loads((ROOT / "package.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    for kind in ("dependencies", "devDependencies"):
        for name, version in wanted[kind].items():
            assert packages[f"node_modules/{name}"]["version"] == version
    for name, one in packages.items():
        assert one["integrity"].startswith("sha512-"), name
        assert "resolved" not in one and not one.get("hasInstallScript"), name


def test_what_is_served_is_what_is_laid_out_with_its_licences() -> None:
    script = (ROOT / "scripts" / "fetch-front-end").read_text()
    table = script.partition("<<END\n")[2].partition("\nEND")[0]
    named = {line.split()[1] for line in table.splitlines()}
    assert named == {*FOREIGN, "htmx.LICENSE", "sse.LICENSE", "xterm.LICENSE"}
