"""`supercloud bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from supercloud.cli.output import Bar, Format, print_json, progress
from supercloud.cli.session import Output


class Bench(StrEnum):
    """What to measure."""

    MIGRATION = "migration"
    API = "api"
    FOOTPRINT = "footprint"
    AUTHZ = "authz"
    LOOP = "loop"
    CONTAINMENT = "containment"
    INTROSPECT = "introspect"
    MICROHYPERVISOR = "microhypervisor"
    ALL = "all"


#: What needs nothing but this machine, in the order in which it is measured.
_ALONE = (Bench.AUTHZ, Bench.LOOP, Bench.CONTAINMENT, Bench.INTROSPECT)
Count = Annotated[int, Parameter(validator=Number(gte=1, lte=100_000))]


def bench(
    name: Bench,
    /,
    *,
    instances: Count = 1000,
    blankets: Count = 10,
    times: Count = 5,
    quick: bool = False,
    write_docs: Path | None = None,
    output: Output = Format.TABLE,
) -> None:
    """Measure this machine's supercloud, each time beside a peer or a limit measured in the same run.

    Everything runs under a control plane of the bench's own, of which nothing stays. `migration` boots two
    blankets and takes about half an hour under emulation; `api` and `footprint` take a few minutes, `authz`
    some seconds, `loop` a minute, `introspect` a few, and so does `containment`: a worm in a simulated cloud
    of 1,000 blankets. `microhypervisor` boots hypervisors over three kinds of L0 and counts their
    instructions: a quarter of an hour, with `--quick` a few minutes.

    Example: supercloud bench api

    Example: supercloud bench api --blankets 100 --instances 10000 -o json

    Example: supercloud bench migration --times 3 -o json

    Example: supercloud bench microhypervisor --quick -o json

    Example: supercloud bench all --write-docs docs/benchmarks.md

    Args:
        name: migration, api, footprint, authz, loop, introspect, containment, microhypervisor or all.
        instances: How many run on simulated machines while the API and memory are measured.
        blankets: In how many blankets they do, each with an agent that is connected.
        times: How often each way migrates, and each workload over the micro-hypervisor runs.
        quick: Of microhypervisor: each workload once, and not beside KVM as L0.
        write_docs: A Markdown file whose marked sections are to hold the results.
    """
    wanted = [one for one in Bench if name in (one, Bench.ALL) and one is not Bench.ALL]
    with progress("bench", quiet=False) as bar:
        found = {str(one): _alone(one, bar) for one in _ALONE if one in wanted}
        if Bench.MICROHYPERVISOR in wanted:
            found[str(Bench.MICROHYPERVISOR)] = _microhypervisor(times, bar, quick=quick)
        if Bench.MIGRATION in wanted:
            found |= _migration(times, bar)
        if Bench.API in wanted or Bench.FOOTPRINT in wanted:
            found |= _on_estate(wanted, instances, blankets, bar, found)
    _print(found if name is Bench.ALL else {str(name): found[name]}, output, alone=name is not Bench.ALL)
    if write_docs is not None:
        _write({str(one): found[one] for one in wanted}, write_docs)


def _alone(one: Bench, bar: Bar) -> dict[str, Any]:
    """Its module is called as it is."""
    found: dict[str, Any] = import_module(f"supercloud.cli.bench.{one}").measure(bar).public()
    return found


def _microhypervisor(times: int, bar: Bar, *, quick: bool) -> dict[str, Any]:
    from supercloud.cli.bench import microhypervisor

    return microhypervisor.measure(bar, times=times, quick=quick).public()


def _migration(times: int, bar: Bar) -> dict[str, dict[str, Any]]:
    from supercloud.cli.bench import migration
    from supercloud.cli.bench.pair import pair

    with pair(bar) as found:
        return {str(Bench.MIGRATION): migration.measure(found, times=times, bar=bar).public()}


def _on_estate(
    wanted: Sequence[Bench], instances: int, blankets: int, bar: Bar, before: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The API first, so that memory is what is resident after a load."""
    from supercloud.cli.bench import api, footprint
    from supercloud.cli.bench.estate import estate

    found: dict[str, dict[str, Any]] = {}
    with estate(instances, bar, blankets=blankets) as made:
        if Bench.API in wanted:
            found[str(Bench.API)] = api.measure(made, bar).public()
        if Bench.FOOTPRINT in wanted:
            in_blankets = before.get(str(Bench.MIGRATION), {}).get("agent_rss_mb", {})
            found[str(Bench.FOOTPRINT)] = footprint.measure(made, in_blankets).public()
    return found


def _print(found: dict[str, dict[str, Any]], output: Format, *, alone: bool) -> None:
    if output is Format.JSON:
        print_json(next(iter(found.values())) if alone else found)
        return
    from supercloud.cli.bench import report

    for name, values in found.items():
        sys.stdout.write(f"{name}\n")
        for line in report.lines(name, values):
            sys.stdout.write(f"  {line.text()}\n")


def _write(found: dict[str, dict[str, Any]], docs: Path) -> None:
    """Pictures show what is a curve."""
    from supercloud.cli.bench import report

    for name, values in found.items():
        report.draw(docs, name, values)
        report.write_docs(docs, name, {part: value for part, value in values.items() if part != "curve"})
