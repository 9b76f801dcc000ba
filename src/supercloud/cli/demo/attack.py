"""Attacks on the running demo: what is attacked, with what, and what has to have come of it.

Nothing here tells a detector anything. An attacker is a guest's own shell, or root in a blanket; what was
found and done is read where any user reads it, in incidents.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from supercloud.cli.demo.load import Seen, console_log, seen
from supercloud.cli.demo.scenario import BLANKETS, CLIENT, CLOUD, IMAGE, NETWORK, SERVER, SHELL_ON
from supercloud.cli.demo.traces import INTRUDER_MARK, Line, Probe, done_at, is_in, merged, probes
from supercloud.cli.shell import Shell
from supercloud.client import Client, Place
from supercloud.model.errors import Failed, NotFound, SupercloudError

T = TypeVar("T")
INTRUDER = "intruder"
#: What a blanket's programs are made of, changed by the attack on its domain; and where the image has it.
_MEASURED, _IN_IMAGE = "/usr/lib/supercloud/boot", "/run/supercloud/image/usr/lib/supercloud/boot"
_COMPONENT = "keeper"
#: What its owner lets the cloud do by itself, in each blanket and over all of them.
VERTICAL = {
    "version": 1,
    "policies": {
        "contain-scanner": {
            "when": {"rule": "port-scan", "layer": "L2"},
            "do": [{"action": "contain", "target": "device", "for": "1h"}],
        },
        "begin-anew": {
            "when": {"rule": "component-down", "layer": "L1"},
            "do": [{"action": "restart", "target": "component", "component": "$component", "for": "5m"}],
        },
    },
}
HORIZONTAL = {
    "version": 1,
    "policies": {
        "meet-it-elsewhere": {
            "when": {"rule": "port-scan", "layer": "L2"},
            "do": [{"action": "deny", "target": "ipv4_net", "net": "$source", "for": "1h"}],
            "else": ["escalate"],
        },
        "leave-a-hostile-domain": {
            "when": {"rule": "changed-measured-file", "layer": "L1", "severity": "critical"},
            "do": [{"action": "contain", "target": "domain", "for": "1h"}],
            "else": ["escalate"],
        },
    },
}
#: Nothing but bash: port by port of one host, until it is silent. Its own word is on its console, opened for
#: each line: getty hangs up whoever had it open before.
_SCAN = r"""#!/bin/bash
exec >/dev/null 2>&1
echo 1 >/proc/sys/net/ipv4/tcp_syn_retries
for round in $(seq 1 400); do
    began=$(date +%s.%N) open=0 tried=0
    for port in 80 22 $(seq 8001 8040); do
        before=$SECONDS tried=$((tried + 1))
        (exec 3<>"/dev/tcp/{address}/$port") && open=$((open + 1))
        [ $((SECONDS - before)) -ge 2 ] && break
    done
    echo "{mark} {\"began\": $began, \"tried\": $tried, \"open\": $open}" >/dev/ttyS0
    sleep 2
done
"""
#: Deadlines, generous for a machine that emulates everything twice.
_BOOT_S, _FOUND_S, _AWAY_S = 1200.0, 300.0, 1200.0


@dataclass(slots=True)
class Outcome:
    """Of one attack. `moments_s` and the timeline count from its first act."""

    attack: str
    contained: bool = False
    why: str = ""  # not
    moments_s: dict[str, float] = field(default_factory=dict)
    timeline: list[Line] = field(default_factory=list)

    def public(self) -> dict[str, Any]:
        return {
            "attack": self.attack,
            "contained": self.contained,
            "why": self.why,
            "moments_s": {name: round(moment, 2) for name, moment in self.moments_s.items()},
            "timeline": [one.public() for one in self.timeline],
        }


class Attack:
    """One run over all attacks. What it made is taken away again at its end, and each policy is as before."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self._place = place
        self._say = say
        self._known: set[str] = set()

    def run(self) -> list[Outcome]:
        """
        Raises:
            NotFound: the demo is not up.
            SupercloudError: an attack could not be made; that one was not contained is no error.
        """
        self._check()
        with self._policies():
            return [self._attack(name, made) for name, made in self._attacks().items()]

    def _attacks(self) -> dict[str, Callable[[Outcome], None]]:
        return {
            "an instance scans its network": self._scan,
            "a component is killed": self._kill,
            "a domain turns hostile": self._turn,
        }

    def _attack(self, name: str, made: Callable[[Outcome], None]) -> Outcome:
        self._say(f"{name} …")
        self._close_older()
        self._known = {row["id"] for row in self._client().all("/incidents", cloud=CLOUD)}
        outcome = Outcome(attack=name)
        try:
            made(outcome)
            outcome.contained = True
        except _NotContained as error:
            outcome.why = error.message
        finally:
            self._end_incidents()
        self._say(f"{name}: {'contained' if outcome.contained else f'NOT contained: {outcome.why}'}")
        return outcome

    # ------------------------------------------------------------ a compromised instance

    def _scan(self, outcome: Outcome) -> None:
        """Found at its port, cut off there, and its address denied in the other domain."""
        client = self._client()
        server = client.get(f"/instances/{SERVER}", cloud=CLOUD)
        here = next(name for name in BLANKETS if name != server["blanket"])
        there = server["blanket"]
        self._say(f"{INTRUDER} boots in {here}; {SERVER}, which it turns to, is in {there}")
        intruder = self._intruder(here, server["addresses"][0])
        try:
            reached = self._await_probe(lambda one: one.open > 0, _BOOT_S, "the intruder to reach anybody")
            self._follow_scan(outcome, intruder, there, reached)
        finally:
            client.wait(client.delete(f"/instances/{INTRUDER}", cloud=CLOUD, force="true"), _nobody)

    def _follow_scan(self, outcome: Outcome, intruder: str, there: str, reached: Probe) -> None:
        began = reached.began
        cut = self._await_detail(
            lambda one: (
                intruder in one["incident"]["objects"]
                and not one["incident"]["horizontal"]
                and is_in(one, "contain:device", "verified")
            ),
            "its port to be closed",
        )
        denied = self._await_detail(
            lambda one: (
                one["incident"]["horizontal"]
                and any(order["blanket"] == there and order["there"] for order in one["orders"])
            ),
            f"its address to be denied in {there}",
        )
        silent = self._await_probe(
            lambda one: one.began > reached.began and one.open == 0, _FOUND_S, "the intruder to reach nobody"
        )
        outcome.timeline = merged(
            began,
            [cut, denied],
            [("intruder", reached.began, reached.says), ("intruder", silent.began, silent.says)],
        )
        outcome.moments_s = {
            "found": cut["incident"]["opened_at"] - began,
            "contained": done_at(cut, "contain:device") - began,
            "denied_elsewhere": done_at(denied, "deny:ipv4_net") - began,
        }

    def _intruder(self, on: str, address: str) -> str:
        """Its id, once it is there."""
        from supercloud.keystore.userdata import seal_user_data

        client = self._client()
        with suppress(NotFound):  # of an attack that was cut short
            client.wait(client.delete(f"/instances/{INTRUDER}", cloud=CLOUD, force="true"), _nobody)
        script = _SCAN.replace("{address}", address).replace("{mark}", INTRUDER_MARK)
        made = client.post(
            "/instances",
            {
                "name": INTRUDER,
                "cloud": CLOUD,
                "image": IMAGE,
                "on": on,
                "memory_mib": 256,
                "networks": [NETWORK],
                "user_data": seal_user_data(self._place.keystore_socket, script.encode(), instance=INTRUDER),
            },
        )
        client.wait(made, _nobody)
        return str(client.get(f"/instances/{INTRUDER}", cloud=CLOUD)["id"])

    def _await_probe(self, met: Callable[[Probe], bool], timeout_s: float, what: str) -> Probe:
        def found() -> Probe | None:
            with suppress(SupercloudError, OSError):
                return next((one for one in probes(console_log(self._client(), INTRUDER)) if met(one)), None)
            return None

        return self._await(found, timeout_s, what)

    # ------------------------------------------------------------ a component

    def _kill(self, outcome: Outcome) -> None:
        """Begun anew by its supervisor, and told; what ran under its eyes ran on."""
        before = self._client().get(f"/instances/{SERVER}", cloud=CLOUD)
        status = f"cat /etc/service/{_COMPONENT}/supervise/pid"
        with Shell.on(self._client(), SHELL_ON, cloud=CLOUD) as shell:
            pid = shell.run(status).strip()
            shell.run(f"kill -9 {pid}")
            began = time.time()
            told = self._await_detail(
                lambda one: (
                    one["incident"]["blanket"] == SHELL_ON
                    and any(row["rule"] == "component-crashed" for row in one["seen"])
                ),
                f"somebody to miss the {_COMPONENT}",
            )
            after = self._await(
                lambda: _another(shell, status, pid), _FOUND_S, f"the {_COMPONENT} to be back"
            )
        outcome.moments_s = {"found": told["incident"]["opened_at"] - began, "back": time.time() - began}
        now = self._await(self._running, _FOUND_S, f"{SERVER} to be running")
        outcome.timeline = merged(
            began,
            [told],
            [
                (SHELL_ON, began, f"root: kill -9 {pid} ({_COMPONENT})"),
                (SHELL_ON, time.time(), f"it is back as {after}"),
            ],
        )
        if now["epoch"] != before["epoch"]:
            raise _NotContained(f"{SERVER} was begun anew: epoch {before['epoch']}, then {now['epoch']}")

    # ------------------------------------------------------------ a hostile domain

    def _turn(self, outcome: Outcome) -> None:
        """A program of its blanket is changed: its instances move away, live, and nothing new comes there."""
        self._bring_server()
        lines = self._load()
        with Shell.on(self._client(), SHELL_ON, cloud=CLOUD) as shell:
            try:
                shell.run(f"echo '# implant' >>{_MEASURED}")
                self._follow_turn(outcome, time.time(), lines)
            finally:
                shell.run(f"cat {_IN_IMAGE} >{_MEASURED}")

    def _follow_turn(self, outcome: Outcome, began: float, lines: list[Seen]) -> None:
        def moved() -> dict[str, Any] | None:
            return self._detail(
                lambda one: (
                    one["incident"]["horizontal"] and is_in(one, "contain:x-supercloud:domain", "verified")
                )
            )

        left = self._await(moved, _AWAY_S, f"domain {BLANKETS[SHELL_ON]} to be left")
        found = self._await_detail(
            lambda one: one["incident"]["blanket"] == SHELL_ON, f"what {SHELL_ON} itself found"
        )
        outcome.timeline = merged(
            began, [found, left], [(SHELL_ON, began, f"root: echo '# implant' >>{_MEASURED}")]
        )
        outcome.moments_s = {
            "found": found["incident"]["opened_at"] - began,
            "left": done_at(left, "contain:x-supercloud:domain") - began,
        }
        server = self._client().get(f"/instances/{SERVER}", cloud=CLOUD)
        if server["blanket"] == SHELL_ON or server["state"] != "running":
            raise _NotContained(f"{SERVER} is {server['state']} in {server['blanket']}")
        answered = lines[-1].answered if lines else 0
        after = self._await(lambda: self._answered(answered), _FOUND_S, "the client to be answered again")
        outcome.moments_s["longest_gap"] = max(one.max_gap_ms for one in after[len(lines) :]) / 1000
        if after[-1].lost + after[-1].wrong > (lines[-1].lost + lines[-1].wrong if lines else 0):
            raise _NotContained("requests were lost on the way")

    def _bring_server(self) -> None:
        """To where it is to be attacked."""
        client = self._client()
        if client.get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"] != SHELL_ON:
            self._say(f"{SERVER} moves to {SHELL_ON}, which will be attacked")
            client.wait(client.post(f"/instances/{SERVER}/migrate", {"to": SHELL_ON}, cloud=CLOUD), _nobody)

    # ------------------------------------------------------------ before and after

    def _check(self) -> None:
        client = self._client()
        for name in BLANKETS:
            client.get(f"/blankets/{name}", cloud=CLOUD)
        self._await(self._running, _FOUND_S, f"{SERVER} to be running")
        with Shell.on(client, SHELL_ON, cloud=CLOUD):
            pass  # it has the shell that the attacker comes in by

    @contextmanager
    def _policies(self) -> Iterator[None]:
        before = {horizontal: self._policy(horizontal) for horizontal in (False, True)}
        try:
            for horizontal, said in ((False, VERTICAL), (True, HORIZONTAL)):
                self._client().put(
                    f"/clouds/{CLOUD}/policy", {"policy": json.dumps(said)}, horizontal=horizontal
                )
            self._await(self._told, _FOUND_S, "the blankets to take the policy")
            yield
        finally:
            for horizontal, view in before.items():
                path, client = f"/clouds/{CLOUD}/policy", self._client()
                if view["policy"] is None:
                    client.delete(path, horizontal=horizontal)
                else:
                    client.post(f"{path}/rollback", {"version": view["version"]}, horizontal=horizontal)

    def _policy(self, horizontal: bool) -> dict[str, Any]:
        found: dict[str, Any] = self._client().get(f"/clouds/{CLOUD}/policy", horizontal=horizontal)
        return found

    def _told(self) -> bool | None:
        problems = [(one["waits"], one["problem"]) for one in self._policy(False)["blankets"]]
        if broken := [problem for _, problem in problems if problem]:
            raise Failed(f"a blanket does not take the policy: {broken[0]}")
        return None if any(waits for waits, _ in problems) else True

    def _close_older(self) -> None:
        """What is found now would be joined to them, and their past be told as this attack's."""
        client = self._client()
        for row in client.all("/incidents", cloud=CLOUD, open_only=True):
            self._say(f"closing an incident of before: {row['title']}")
            client.post(f"/incidents/{row['id']}/close", {"undo": False})

    def _end_incidents(self) -> None:
        """All that the attack has left in force."""
        client = self._client()
        for row in client.all("/incidents", cloud=CLOUD, open_only=True):
            if row["id"] not in self._known:
                client.post(f"/incidents/{row['id']}/close", {"undo": True})

    # ------------------------------------------------------------ small things

    def _client(self) -> Client:
        return Client(self._place.access())

    def _running(self) -> dict[str, Any] | None:
        found: dict[str, Any] = self._client().get(f"/instances/{SERVER}", cloud=CLOUD)
        return found if found["state"] == "running" else None

    def _load(self) -> list[Seen]:
        return seen(console_log(self._client(), CLIENT))

    def _answered(self, more_than: int) -> list[Seen] | None:
        lines = self._load()
        return lines if lines and lines[-1].answered > more_than else None

    def _detail(self, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """An incident of this attack, whole, if there is one like that."""
        client = self._client()
        for row in client.all("/incidents", cloud=CLOUD):
            if row["id"] not in self._known:
                found: dict[str, Any] = client.get(f"/incidents/{row['id']}")
                if met(found):
                    return found
        return None

    def _await_detail(self, met: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        return self._await(lambda: self._detail(met), _FOUND_S, what)

    def _await(self, look: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """What `look` finds.

        Raises:
            _NotContained: nothing in that time.
        """
        deadline = time.monotonic() + timeout_s
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise _NotContained(f"waited {timeout_s:.0f} s in vain for {what}")
            time.sleep(0.5)  # as cli.demo.scenario: of what is looked at here nobody tells
        return found


class _NotContained(Failed):
    """An attack went further than it should have."""


def _another(shell: Shell, status: str, pid: str) -> str | None:
    """The process that is there in place of one that was."""
    with suppress(Failed):  # between two there is none
        now = shell.run(status).strip()
        return now if now not in {"", pid} else None
    return None


def _nobody(phase: str, done: float | None) -> None:
    """Nobody watches."""
