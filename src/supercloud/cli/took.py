"""How long the same took here before, of what no control plane remembers: its start, a backup."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supercloud.cli.output import Bar, progress

_FILE = "took.json"
#: What takes less is over before anybody reads how long it takes.
_WORTH_S = 0.5


@contextmanager
def timed(what: str, title: str, folder: Path, *, quiet: bool = False) -> Iterator[Bar]:
    """`progress` with the time left that the last `what` had at this moment.

    Only one that succeeded counts. What is remembered is in `folder`, if there is one; nobody misses it.
    """
    usual = _read(folder)
    began = time.monotonic()
    with progress(title, quiet=quiet, usual_s=usual.get(what)) as bar:
        yield bar
    took_s = time.monotonic() - began
    if took_s < _WORTH_S:
        return
    with suppress(OSError):
        text = json.dumps(_read(folder) | {what: round(took_s, 1)})
        draft = folder / f".{_FILE}"
        draft.write_text(text)
        draft.replace(folder / _FILE)


def _read(folder: Path) -> dict[str, float]:
    try:
        found = json.loads((folder / _FILE).read_text())
        return {str(what): float(seconds) for what, seconds in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
