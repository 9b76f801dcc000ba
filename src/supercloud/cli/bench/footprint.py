"""`supercloud bench footprint`: what our programs keep resident, children included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supercloud.cli.bench.estate import Estate, rss
from supercloud.model.names import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class FootprintResult:
    """`fresh`: just started. The others: with this many running instances, and after any load before."""

    instances: int
    fresh_control_plane_rss_mb: float
    control_plane_rss_mb: float
    keystore_rss_mb: float
    agent_rss_mb: float
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
        agent_where=where,
    )


def _agent_here(estate: Estate) -> int:
    with estate.machines("lone", "--whole-agent") as process:
        estate.add_blanket("lone", "lone")
        return rss(process)


def _mb(size: int) -> float:
    return round(size / MIB, 1)
