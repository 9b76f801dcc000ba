"""`supercloud demo`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from supercloud.cli.demo.attack import Attack
from supercloud.cli.demo.scenario import CLIENT, ENDING, SERVER, Demo, Report
from supercloud.cli.demo.stage import Outcome
from supercloud.cli.output import Format, print_json, printable
from supercloud.cli.session import Output
from supercloud.client import Place

AttackName = Literal["scan", "process", "worm", "component", "domain"]
app = App(
    name="demo",
    help="""Two domains, one cloud, live migrations under load, a killed control plane, a domain cut off.

    Leaves the system up. Exit status 1 if anything was not as promised.

    Example: supercloud demo -o json
    """,
)


@app.default
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


@app.command
def attack(
    *,
    only: Annotated[tuple[AttackName, ...], Parameter(help="this one, as often as needed; else all")] = (),
    output: Output = Format.TABLE,
) -> int:
    """Attack the running demo, and see what becomes of it: run `supercloud demo` first.

    A guest scans its network (scan); a process hides in a guest's kernel (process); a worm spreads from guest
    to guest (worm); a component of a blanket is killed (component); a blanket's own programs are changed, as
    whoever owns its domain could (domain). What is found, and done, is found and done by the cloud's own
    loops, which are told nothing. Each attack prints its timeline. What it made is taken away again, also
    after Ctrl-C, and policies are as before. One that could not be made does not keep the others from it.
    Exit status 1 if anything was not contained, or could not be made (`made`, and `why` not).

    Example: supercloud demo attack

    Example: supercloud demo attack --only scan --only worm -o json
    """
    ended: list[Outcome] = []
    contained = False
    run = Attack(Place.default(), _say, ended.append if output is Format.JSON else _print_attack)
    try:
        contained = all(one.contained for one in run.run(only))
    finally:  # what there is of them, also if it was cut short
        if output is Format.JSON and ended:
            print_json({"contained": contained, "attacks": [one.public() for one in ended]})
    return 0 if contained else 1


def _print_attack(one: Outcome) -> None:
    sys.stdout.write(f"\n{one.attack}: {one.says}\n")
    for line in one.timeline:
        sys.stdout.write(printable(f"  {line.at_s:8.2f} s  {line.where:<12} {line.says}") + "\n")
    for name, moment in one.moments_s.items():
        sys.stdout.write(f"  {name.replace('_', ' ')}: {moment:.2f} s\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"attack: {text}\n")


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
