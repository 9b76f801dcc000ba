"""What the benches print and write: each measure beside its aim, or a peer or limit of the same run."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supercloud import __version__
from supercloud.cli.bench import authz, containment_plot, introspect, loop, microhypervisor, migration
from supercloud.model.errors import InvalidInput

_BEGIN, _END = "<!-- results: {name} -->", "<!-- end of results: {name} -->"
CONTROL_PLANE_AIM_MB, AGENT_AIM_MB, CLI_START_AIM_S = 150.0, 60.0, 0.3
EVENT_AIM_MS, AGENT_AIM_KB, LATENCY_AIM_MS = 100.0, 100.0, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`aim`: at most so much (if a `floor`, at least), in the same unit. `beside`: what to compare with."""

    what: str
    value: float | None
    unit: str = ""
    aim: float | None = None
    floor: bool = False
    beside: str = ""

    @property
    def held(self) -> str:
        if self.aim is None or self.value is None:
            return "-"
        held = self.value >= self.aim if self.floor else self.value <= self.aim
        return "yes" if held else "NO"

    @property
    def aimed(self) -> str:
        if self.aim is None:
            return "-"
        return f"at {'least' if self.floor else 'most'} {self.aim:g} {self.unit}".strip()

    @property
    def shown(self) -> str:
        return "not measured" if self.value is None else f"{self.value:g} {self.unit}".strip()

    def text(self) -> str:
        """For a terminal."""
        notes = [f"{self.aimed}: {self.held}"] if self.aim is not None else []
        notes += [self.beside] if self.beside else []
        return f"{self.what}: {self.shown}" + (f" ({'; '.join(notes)})" if notes else "")


def lines(name: str, found: Mapping[str, Any]) -> list[Line]:
    """The table of one bench's JSON."""
    return _LINES[name](found)


def _api(found: Mapping[str, Any]) -> list[Line]:
    limit = f"{found['limit_requests_per_s']:g} of a listener that does nothing"
    return [
        Line(what="show, requests per second", value=found["requests_per_s"], beside=limit),
        Line(what="of that limit", value=found["requests_ratio"]),
        _latency("list", found),
        _latency("show", found),
        Line(
            what="command line, start",
            value=found["cli_start_s"],
            unit="s",
            aim=CLI_START_AIM_S,
            beside=f"{found['limit_cli_start_s']:g} s of an empty Python",
        ),
        Line(what="command line, `vm show`", value=found["cli_show_s"], unit="s"),
        Line(
            what="a change is told to who watches, median",
            value=found["event_p50_ms"],
            unit="ms",
            aim=EVENT_AIM_MS,
        ),
        Line(
            what=f"control plane, for each of {found['blankets']} connected agents",
            value=found["agent_kb"],
            unit="kB",
            aim=AGENT_AIM_KB,
        ),
    ]


def _latency(what: str, found: Mapping[str, Any]) -> Line:
    limit = found[f"limit_{what}_p99_ms"]
    much = f"{what} of a page" if what == "list" else what
    return Line(
        what=f"{much} of {found['instances']} instances, 99th percentile",
        value=found[f"{what}_p99_ms"],
        unit="ms",
        aim=LATENCY_AIM_MS,
        beside=f"{limit:g} ms of as many fixed bytes, {found[f'{what}_p99_ratio']:g} times that",
    )


def _footprint(found: Mapping[str, Any]) -> list[Line]:
    fresh = f"{found['fresh_control_plane_rss_mb']:g} MB just started"
    return [
        Line(
            what=f"control plane with {found['instances']} instances",
            value=found["control_plane_rss_mb"],
            unit="MB",
            aim=CONTROL_PLANE_AIM_MB,
            beside=fresh,
        ),
        Line(
            what="agent",
            value=found["agent_rss_mb"],
            unit="MB",
            aim=AGENT_AIM_MB,
            beside=f"{found['limit_agent_rss_mb']:g} MB its libraries alone; {found['agent_where']}",
        ),
        Line(what="key store", value=found["keystore_rss_mb"], unit="MB"),
    ]


def _migration(found: Mapping[str, Any]) -> list[Line]:
    allowed = found["round_trip_plus_commit_ms"] * migration.ADDED_DOWNTIME_AIM
    return [
        Line(
            what="total time, ours / `virsh migrate`",
            value=found["total_ratio"],
            aim=migration.TOTAL_RATIO_AIM,
            beside="virsh's target was prepared beforehand",
        ),
        Line(
            what="the same, preparation counted on both sides",
            value=found["total_ratio_prepared"],
        ),
        Line(what="downtime, ours / `virsh migrate`", value=found["downtime_ratio"]),
        Line(
            what="downtime that we add",
            value=found["added_downtime_ms"],
            unit="ms",
            aim=round(allowed, 1),
            beside=f"aim: 3 x (round trip + commit), {found['round_trip_plus_commit_ms']:g} ms",
        ),
    ]


def _authz(found: Mapping[str, Any]) -> list[Line]:
    return [
        Line(
            what="tokens verified and authorized per second",
            value=found["per_s"],
            beside=f"{found['limit_per_s']:g} of the bare library",
        ),
        Line(what="of that limit", value=found["ratio"], aim=authz.RATIO_AIM, floor=True),
        Line(what="whole requests per second, their proofs verified", value=found["requests_per_s"]),
    ]


def _loop(found: Mapping[str, Any]) -> list[Line]:
    limit = f"{loop.LIMIT_TIMES} x (commit + round trip): {found['limit_ms']:g} ms"
    kills = f"{found['kills']} times killed with SIGKILL"
    return [
        Line(
            what="finding to acknowledged reaction, median",
            value=found["p50_ms"],
            unit="ms",
            aim=min(loop.P50_AIM_MS, found["limit_ms"]),
            beside=limit,
        ),
        Line(what="the same, 99th percentile", value=found["p99_ms"], unit="ms", aim=loop.P99_AIM_MS),
        Line(what="decision to proof, median", value=found["verified_p50_ms"], unit="ms"),
        Line(
            what="findings acknowledged per second",
            value=found["findings_per_s"],
            aim=loop.RATE_AIM,
            floor=True,
        ),
        Line(what=f"lost of {found['acknowledged']} acknowledged", value=found["lost"], aim=0, beside=kills),
        Line(
            what=f"of {found['effects']} effects, repeated",
            value=found["duplicate_effects"],
            aim=0,
            beside="counted by nft monitor",
        ),
    ]


def _containment(found: Mapping[str, Any]) -> list[Line]:
    none = found["infected_share"]["none"]
    return [
        Line(
            what=f"infected share of the vulnerable, loops: {name}",
            value=share,
            aim=None if name == "none" else none,
            beside="half were infected "
            + (f"after {half:g} s" if (half := found["half_s"][name]) is not None else "never"),
        )
        for name, share in found["infected_share"].items()
    ]


def _introspect(found: Mapping[str, Any]) -> list[Line]:
    pace = f"looked at {found['looks_per_s']:g} times a second; a blanket looks every {found['every_s']:g} s"
    range_ = f"{found['guest_ratio_low']:g} to {found['guest_ratio_high']:g} with 95 %"
    return [
        Line(
            what=f"a whole pass ({found['processes']} processes, {found['code_kib']} KiB of code), median",
            value=found["pass_ms"],
            unit="ms",
        ),
        Line(what="the same, 99th percentile", value=found["pass_p99_ms"], unit="ms"),
        Line(what="the first one, which finds the kernel", value=found["first_ms"], unit="ms"),
        Line(
            what="a round of work in the guest, looked at / left alone",
            value=found["guest_ratio"],
            aim=introspect.RATIO_AIM,
            beside=f"{range_}; {pace}",
        ),
    ]


def _microhypervisor(found: Mapping[str, Any]) -> list[Line]:
    three = found["three_level"]
    rows = []
    for workload in microhypervisor.Workload:
        name, seconds = f"{workload}_ratio", found["wall_clock"][workload]
        peer = "" if three is None else f"KVM as L0: {three[name]:g}; "
        rows.append(
            Line(
                what=f"{_spoken(workload)}: instructions, over L0 / without",
                value=found[name],
                aim=microhypervisor.RATIO_AIM if workload in microhypervisor.TIGHT else None,
                beside=f"{peer}seconds: {seconds['ratio']:g} ({seconds['low']:g} to {seconds['high']:g})",
            )
        )
    rows.append(
        Line(
            what="L0 exits for each L2 exit",
            value=found["exits_per_l2_exit"],
            aim=microhypervisor.EXITS_AIM,
            beside="" if three is None else f"KVM as L0: {three['exits_per_l2_exit']:g}",
        )
    )
    rows.append(
        Line(
            what="L0 instructions for each exit",
            value=found["own_instructions_per_exit"],
            beside="" if three is None else f"KVM as L0: {three['instructions_per_exit']:g}",
        )
    )
    return rows + ([] if three is None else _beside_kvm(found["counts"]))


def _beside_kvm(counts: Mapping[str, Any]) -> list[Line]:
    ours, kvm = counts["microhypervisor"], counts["kvm"]
    return [
        Line(
            what=f"{_spoken(workload)}: {what}, over ours / over KVM as L0",
            value=round(ours[workload][what] / kvm[workload][what], 4),
            aim=1,
            beside=f"{ours[workload][what]} and {kvm[workload][what]}",
        )
        for what in ("exits", "instructions")
        for workload in microhypervisor.Workload
    ]


def _spoken(workload: str) -> str:
    return workload.replace("l", "L", 1).replace("_", " ")


_LINES = {
    "api": _api,
    "authz": _authz,
    "containment": _containment,
    "footprint": _footprint,
    "introspect": _introspect,
    "loop": _loop,
    "microhypervisor": _microhypervisor,
    "migration": _migration,
}


def table(rows: Sequence[Line]) -> str:
    """In Markdown."""
    text = ["| measured | value | aim | held | beside |", "|---|---|---|---|---|"]
    for row in rows:
        text.append(f"| {row.what} | {row.shown} | {row.aimed} | {row.held} | {row.beside or '-'} |")
    return "\n".join(text)


def write_docs(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Put a bench's latest results between its marks in `path`.

    Raises:
        InvalidInput: the file cannot be read, or has no such marks.
    """
    begin, end = _BEGIN.format(name=name), _END.format(name=name)
    try:
        before = path.read_text()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not section.search(before):
        raise InvalidInput(f"{path} has no section for {name}", hint=f"it begins with {begin}")
    body = "\n".join(
        [
            begin,
            f"{_circumstances()}\n",
            table(lines(name, found)),
            "\n<details><summary>JSON</summary>\n\n```json",
            json.dumps(found, indent=1),
            "```\n</details>",
            end,
        ]
    )
    path.write_text(section.sub(lambda _: body, before))


def draw(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """The picture beside the document, of a bench that has one."""
    if name != "containment":
        return
    terms = found["terms"]
    title = f"A worm among {terms['instances']} instances in {terms['blankets']} blankets, by loops at work"
    picture = path.parent / "pictures" / "containment.svg"
    picture.write_text(containment_plot.svg(found["curve"], title=title))


def _circumstances() -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    load = os.getloadavg()[0]
    return (
        f"{day}, supercloud {__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
        f" ({_processor()}), load average {load:.1f} at the end."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
