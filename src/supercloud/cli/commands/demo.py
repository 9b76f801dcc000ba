"""`supercloud demo`."""

from __future__ import annotations

import sys

from supercloud.cli.demo.scenario import CLIENT, ENDING, SERVER, Demo, Report
from supercloud.cli.output import Format, print_json
from supercloud.cli.session import Output
from supercloud.client import Place


def demo(*, output: Output = Format.TABLE) -> int:
    """Two domains, one cloud, three live migrations under load, a killed control plane, a domain cut off.

    Leaves the system up. Exit status 1 if anything was not as promised.

    Example: supercloud demo -o json
    """
    run = Demo(Place.default(), quiet=output is Format.JSON)
    report = run.run()
    if output is Format.JSON:
        print_json(report.public())
    else:
        _print(report, run.published())
    return 0 if _as_promised(report) else 1


def _as_promised(report: Report) -> bool:
    return (
        report.requests_lost == 0
        and report.connection_kept
        and report.max_copies == 1
        and report.controller_recovered
        and report.domain_fenced
    )


def _print(report: Report, published: str | None) -> None:
    rows = [
        (f"migration {move.source} -> {move.target}", f"{move.total_s:.1f} s, {move.downtime_ms} ms down")
        for move in report.migrations
    ]
    rows += [
        ("requests answered / lost", f"{report.requests_answered} / {report.requests_lost}"),
        ("one TCP connection kept", "yes" if report.connection_kept else "NO"),
        ("copies running at once, at most", f"{report.max_copies} (by the QEMUs' own word)"),
        ("carried on after kill -9", "yes" if report.controller_recovered else "NO"),
        ("cut-off domain fenced", "yes" if report.domain_fenced else "NO"),
        ("went on when it was back", "yes" if report.resumed_after_heal else "no, its memory was given up"),
    ]
    rows += [(phase, f"{seconds:.1f} s") for phase, seconds in report.phases_s.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name.ljust(width)}  {value}\n")
    more = f"\n{published}" if published else ""
    ending = "\n".join(f"  supercloud {command}" for command in ENDING)
    sys.stdout.write(
        f"""{more}
It is still up. Look further:  supercloud status; supercloud vm show {SERVER}; supercloud vm logs {CLIENT}
End it:
{ending}
"""
    )
