"""What is kept of a demo that failed, so that whoever reads its error need not have been there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException

from supercloud.cli.demo.load import Seen
from supercloud.cli.demo.witness import Witness
from supercloud.client import Client
from supercloud.model.errors import SupercloudError
from supercloud.trust.files import write_private

_LAST = 40
_LISTS = ("instances", "blankets", "operations")


def keep_evidence(
    path: Path, client: Callable[[], Client], witness: Witness, load: Callable[[], list[Seen]]
) -> None:
    """Write to `path` what every QEMU said last, what the client saw last and what the API lists.

    `facts` are in seconds before now. What cannot be had any more is left out: what failed first is what
    counts, and nothing here hides it.
    """
    now = time.monotonic()
    found: dict[str, Any] = {
        "facts": [
            [round(fact.at_s - now, 1), fact.blanket, fact.instance, "runs" if fact.running else "stopped"]
            for fact in witness.facts()[-_LAST:]
        ]
    }
    with suppress(SupercloudError, WebSocketException, OSError):
        found["load"] = [asdict(line) for line in load()[-3:]]
    for kind in _LISTS:
        with suppress(SupercloudError):
            found[kind] = client().all(f"/{kind}")[-_LAST:]
    with suppress(OSError):
        write_private(path, json.dumps(found).encode())
