"""A component of a blanket is killed, by who is root there."""

from __future__ import annotations

import time
from contextlib import suppress

from supercloud.cli.demo.scenario import CLOUD, SERVER, SHELL_ON
from supercloud.cli.demo.stage import FOUND_S, NotContained, Outcome, Stage
from supercloud.cli.demo.traces import merged
from supercloud.cli.shell import Shell
from supercloud.model.errors import Failed

_COMPONENT = "keeper"


def kill(stage: Stage, outcome: Outcome) -> None:
    """Begun anew by its supervisor, and told; what ran under its eyes ran on."""
    before = stage.client().get(f"/instances/{SERVER}", cloud=CLOUD)
    status = f"cat /etc/service/{_COMPONENT}/supervise/pid"
    with Shell.on(stage.client(), SHELL_ON, cloud=CLOUD) as shell:
        pid = shell.run(status).strip()
        shell.run(f"kill -9 {pid}")
        began = time.time()
        told = stage.await_detail(
            lambda one: (
                one["incident"]["blanket"] == SHELL_ON
                and any(row["rule"] == "component-crashed" for row in one["seen"])
            ),
            f"somebody to miss the {_COMPONENT}",
        )
        after = stage.until(lambda: _another(shell, status, pid), FOUND_S, f"the {_COMPONENT} to be back")
    outcome.moments_s = {"found": told["incident"]["opened_at"] - began, "back": time.time() - began}
    now = stage.until(stage.running, FOUND_S, f"{SERVER} to be running")
    outcome.timeline = merged(
        began,
        [told],
        [
            (SHELL_ON, began, f"root: kill -9 {pid} ({_COMPONENT})"),
            (SHELL_ON, time.time(), f"it is back as {after}"),
        ],
    )
    if now["epoch"] != before["epoch"]:
        raise NotContained(f"{SERVER} was begun anew: epoch {before['epoch']}, then {now['epoch']}")


def _another(shell: Shell, status: str, pid: str) -> str | None:
    """The process that is there in place of one that was."""
    with suppress(Failed):  # between two there is none
        now = shell.run(status).strip()
        return now if now not in {"", pid} else None
    return None
