"""`python -m supercloud.simulator`: replay one seed, or run many."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace

from supercloud.simulator.bugs import ALL, Bugs
from supercloud.simulator.controls import CONTROLS, shown
from supercloud.simulator.scenario import Report, plan_of, play


def main() -> int:
    options = _options()
    if options.control is not None:
        report = shown(options.control)
        return 2 if report is None else _show(report, log=not options.quiet)
    if options.steps is None:
        return _show(play(plan_of(options.seed), ALL[options.bug]), log=not options.quiet)
    return _many(options.seed, options.steps, ALL[options.bug])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m supercloud.simulator",
        description="Run the real protocol code in a simulated cloud, with faults, and look whether an "
        "instance ever runs twice or loses what it synced.",
        epilog="Without --steps the run of one seed is replayed and its event log printed. A seed names the "
        "same run on every machine that has the same version of the code.",
    )
    parser.add_argument("--seed", type=int, default=0, help="the run to replay, or the first of many")
    parser.add_argument("--steps", type=int, help="run seed after seed for so many steps")
    parser.add_argument("--bug", choices=sorted(ALL), default="none", help="put this bug in on purpose")
    parser.add_argument(
        "--control", choices=sorted(CONTROLS), help="replay the schedule that shows a bug, with the bug"
    )
    parser.add_argument("--quiet", action="store_true", help="print no event log")
    return parser.parse_args()


def _show(report: Report, *, log: bool) -> int:
    if log:
        print("\n".join(report.lines))
    print(f"seed {report.plan.seed}: {report.plan}")
    print(f"ended: {report.ended}; {report.steps} steps in {report.true_s:.0f} simulated s; {report.digest}")
    for wrong in report.wrong:
        print(f"WRONG: {wrong}")
    return 1 if report.wrong else 0


def _many(seed: int, wanted: int, bugs: Bugs) -> int:
    begun, steps, bad, first = time.process_time(), 0, 0, seed
    while steps < wanted:
        report = play(plan_of(seed), bugs)
        steps += report.steps
        if report.wrong:
            bad += 1
            _show(replace(report, lines=[]), log=False)
        seed += 1
    print(f"{seed - first} runs, {steps} steps, {bad} wrong, {time.process_time() - begun:.0f} s of one core")
    return 1 if bad else 0


def _with_fixed_hashes() -> None:
    """The order of sets of strings is one more thing that a seed has to decide."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "supercloud.simulator", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    _with_fixed_hashes()
    sys.exit(main())
