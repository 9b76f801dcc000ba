"""`supercloud bench footprint`: what our programs keep resident, children included."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supercloud.cli.bench.estate import Estate, rss
from supercloud.model.names import MIB

_LOADS: Final = """
import json, sys
import supercloud.agent.__main__
print(json.dumps([name for name in sys.modules if name.partition('.')[0] not in ('supercloud', '__main__')]))
"""
_LOADED: Final = """
import contextlib, importlib, json, resource, sys
for name in json.load(sys.stdin):
    with contextlib.suppress(ImportError):  # some put themselves there, under names of no file
        importlib.import_module(name)
with open('/proc/self/statm') as sizes:
    print(int(sizes.read().split()[1]) * resource.getpagesize())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintResult:
    """`fresh`: just started. The others: with this many running instances, and after any load before.

    `limit_agent`: Python with the libraries that the agent loads when it starts, and nothing of ours; without
    libvirt's, which only a blanket has.
    """

    instances: int
    fresh_control_plane_rss_mb: float
    control_plane_rss_mb: float
    keystore_rss_mb: float
    agent_rss_mb: float
    limit_agent_rss_mb: float
    agent_where: str

    def public(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def measure(estate: Estate, in_blankets: Mapping[str, float]) -> FootprintResult:
    """
    Args:
        in_blankets: what agents in real blankets have resident, in MB; empty: one is measured here.

    Raises:
        Failed: one of the programs ended.
    """
    instances = estate.client().get("/status")["instances_running"]
    control_plane, keystore = estate.rss("controlplane"), estate.rss("keystore")
    if in_blankets:
        agent_mb, where = max(in_blankets.values()), "in a blanket, after its migrations"
    else:
        agent_mb = _mb(_agent_here(estate))
        where = "on this machine: the agent's modules, joined, over stand-ins for libvirt and the overlay"
    return FootprintResult(
        instances=instances,
        fresh_control_plane_rss_mb=_mb(estate.fresh_rss),
        control_plane_rss_mb=_mb(control_plane),
        keystore_rss_mb=_mb(keystore),
        agent_rss_mb=agent_mb,
        limit_agent_rss_mb=_mb(libraries_alone()),
        agent_where=where,
    )


def _agent_here(estate: Estate) -> int:
    with estate.machines("lone", "--whole-agent") as process:
        estate.add_blanket("lone", "lone")
        return rss(process)


def libraries_alone() -> int:
    """Resident bytes of a Python that has loaded what the agent loads when it starts, but for our own."""
    names = _python(_LOADS, "null")
    return int(json.loads(_python(_LOADED, names)))


def _python(program: str, said: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], input=said, capture_output=True, text=True, check=True
    )
    return done.stdout


def _mb(size: int) -> float:
    return round(size / MIB, 1)
