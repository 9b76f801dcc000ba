"""Results in a JSON file that grows cell by cell, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cells import Cell, Moment, matrix
from .run import Result

_HEAD = """# Faults on real machines

What `make faults` does: two domains, a blanket in each, an ordinary Debian guest that syncs numbered blocks
to its encrypted disk. An operation is begun, and something breaks at a known moment of it. Afterwards:

* the **outcome** is one that the migration's table allows (the architecture, "Two flows worth following");
* **copies** is the greatest number that ran at once, by an observer that believes only the RESUME and STOP
  events of every QEMU in every blanket; in brackets what it would be if the blankets' clocks erred as far as
  they could;
* **disk**: what the guest had synced before the fault is read back from the disk, by content. Where the
  instance runs nowhere, it is started again for that.

A source that is rolled back to when it ran, after another took over, runs for the moment until its keeper
looks at the clocks; nobody accepts what it sends. That is the residual window of the threat model, and there
alone 2 copies are not counted as wrong.

A target that is rolled back once the source's copy is destroyed has lost the disk with all else that it wrote
since: the instance runs nowhere, and says why. So has a store that is restored from before the migration no
word of where the disk is.

The results are in `faults.json`; `make faults` goes on where it ended, and
`python -m tests.system.faults --help` says what can be chosen.
"""


class Results:
    """`path` and, beside it, the page of the same name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done: dict[str, dict[str, Any]] = json.loads(path.read_text())
        except FileNotFoundError:
            self._done = {}

    def has(self, cell: Cell) -> bool:
        return cell.name in self._done

    def put(self, result: Result) -> None:
        self._done[result.cell] = result.public()
        self.write()

    def write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        known = [cell.name for cell in matrix()]
        self._done = {name: self._done[name] for name in known if name in self._done}
        _replace(self._path, json.dumps(self._done, indent=1) + "\n")
        _replace(self._path.with_suffix(".md"), page(self._done))


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)


def page(done: dict[str, dict[str, Any]]) -> str:
    cells = matrix()
    wrong = [name for name, one in done.items() if one["wrong"]]
    said = f"\n{len(done)} of {len(cells)} cells were run; {len(done) - len(wrong)} came out as promised.\n"
    return _HEAD + said + "".join(_table(moment, cells, done) for moment in Moment)


def _table(moment: Moment, cells: Sequence[Cell], done: dict[str, dict[str, Any]]) -> str:
    rows = [
        f"\n## {moment.value.capitalize()}\n",
        "| fault | outcome | operation | copies | disk | time | as promised |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [_row(cell, done.get(cell.name)) for cell in cells if cell.moment is moment]
    return "\n".join(rows) + "\n"


def _row(cell: Cell, one: dict[str, Any] | None) -> str:
    fault = cell.name.partition(" @ ")[0]
    if one is None:
        return f"| {fault} | *not run yet* | | | | | |"
    end = f"{one['end']}: {one['reason']}" if one["reason"] else one["end"]
    copies = f"{one['copies']} ({one['copies_if_clocks_err']})"
    verdict = "; ".join(one["wrong"]) or "yes"
    cells = (fault, end, one["operation"], copies, one["disk"], f"{one['took_s']:.0f} s", verdict)
    return "| " + " | ".join(text.replace("|", "/").replace("\n", " ") for text in cells) + " |"
