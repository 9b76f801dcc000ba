"""The demo's scenario, step by step, over nothing but the API, the platforms' own switches, and kill -9."""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from supercloud.cli.control import ControlPlane
from supercloud.cli.demo.evidence import keep_evidence
from supercloud.cli.demo.load import Seen, console_log, seen
from supercloud.cli.demo.witness import Witness
from supercloud.client import Client, Place
from supercloud.model.errors import Failed, NotFound, SupercloudError
from supercloud.model.names import GIB

CLOUD, NETWORK, IMAGE = "demo", "demo", "demo-debian"
SERVER, CLIENT = "server", "client"
BLANKETS = {"n1": "north", "s1": "south"}
#: It has a root shell on its console, which is how `supercloud demo attack` comes to be root there.
SHELL_ON = "s1"
#: The commands that end what the demo left up, in this order.
ENDING = (
    *(f"vm rm {name} --cloud {CLOUD} --force" for name in (SERVER, CLIENT)),
    *(f"blanket rm {name} --cloud {CLOUD}" for name in BLANKETS),
    f"network rm {NETWORK} --cloud {CLOUD}",
    f"cloud rm {CLOUD}",
    "down",
)
#: Whatever a demo of before left so is started again.
_ENDED = frozenset({"stopped", "failed", "fenced"})
#: A service, because a seed's script runs at the first boot only.
_CLIENT_DATA = r"""#!/bin/sh
printf '[Service]\nExecStart=/usr/local/bin/demo-client {address}\n[Install]\nWantedBy=multi-user.target\n' \
    >/etc/systemd/system/demo-client.service
systemctl enable demo-client
sync
systemctl start --no-block demo-client
"""
#: Deadlines, generous for a machine that emulates everything twice.
_BOOT_S = 1200.0
_MIGRATE_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """`downtime_ms` is the longest time between two answers that the client in the cloud saw."""

    source: str
    target: str
    downtime_ms: int
    total_s: float

    def public(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.target,
            "downtime_ms": self.downtime_ms,
            "total_s": round(self.total_s, 1),
        }


@dataclass(slots=True)
class Report:
    """What `supercloud demo -o json` prints."""

    migrations: list[Migration] = field(default_factory=list)
    requests_lost: int = 0
    requests_answered: int = 0
    connection_kept: bool = False
    max_copies: int = 0
    max_copies_if_clocks_err: int = 0
    clocks_uncertain_ms: float = 0.0
    controller_recovered: bool = False
    domain_fenced: bool = False
    resumed_after_heal: bool = False
    phases_s: dict[str, float] = field(default_factory=dict)

    def public(self) -> dict[str, Any]:
        return {**asdict(self), "migrations": [migration.public() for migration in self.migrations]}


class Demo:
    """One run. Repeating it on a system that is up uses what is there."""

    def __init__(self, place: Place, *, quiet: bool) -> None:
        self._place = place
        self._control = ControlPlane(place)
        self._quiet = quiet
        self.report = Report()

    def run(self) -> Report:
        """
        Raises:
            SupercloudError: a step failed; what is up is left up to be looked at. From the blankets on,
                what was seen is kept in `demo-failed.json`.
        """
        with self._phase("control plane up"):
            self._control.up(api_port=None, agents_port=None)
        with self._phase("cloud, network and image"):
            self._make_cloud()
        with self._phase("two blankets, one in each domain"):
            self._make_blankets()
        with Witness(self._observer_ports()) as witness:
            try:
                self._show(witness)
            except SupercloudError:
                kept = self._place.home / "demo-failed.json"
                keep_evidence(kept, self._client, witness, self._load)
                self._say(f"what was seen until it failed is in {kept}")
                raise
        return self.report

    def _show(self, witness: Witness) -> None:
        with self._phase("two instances"):
            self._make_instances()
        with self._phase("client and server talk"):
            self._await_load(0)
        self._migrations()
        self._count_load()
        self._cut_a_domain(witness)
        self._count_copies(witness)

    # -------------------------------------------------------------- making it

    def _make_cloud(self) -> None:
        client = self._client()
        for provider in BLANKETS.values():
            self._ensure("providers", provider, {"kind": "qemu"})
        self._ensure("clouds", CLOUD, {})
        self._ensure("networks", NETWORK, {"cloud": CLOUD, "cidr": "10.77.0.0/24"})
        with suppress(NotFound):
            if client.get(f"/images/{IMAGE}")["complete"]:
                return
        from supercloud.cli.commands.image import import_image
        from supercloud.cli.output import Format
        from supercloud.images.guest import build_guest

        with _stdout_to_stderr():
            import_image(build_guest() / "guest.qcow2", name=IMAGE, output=Format.TABLE)

    def _make_blankets(self) -> None:
        client = self._client()
        started = []
        for name, provider in BLANKETS.items():
            with suppress(NotFound):
                client.get(f"/blankets/{name}", cloud=CLOUD)
                continue
            request = {
                "name": name,
                "cloud": CLOUD,
                "provider": provider,
                "flavour": "kvm",
                "vcpus": 2,
                "memory_mib": 2048,
                "disk_bytes": 20 * GIB,
                "debug_shell": name == SHELL_ON,
            }
            started.append(client.post("/blankets", request))
        for operation in started:
            client.wait(operation, self._watch)

    def _make_instances(self) -> None:
        client = self._client()
        started = [self._run(client, SERVER, "n1", None, [{"port": 80}])]
        address = client.get(f"/instances/{SERVER}", cloud=CLOUD)["addresses"][0]
        started.append(self._run(client, CLIENT, "n1", _CLIENT_DATA.format(address=address), []))
        for operation in started:
            if operation:
                client.wait(operation, self._watch)

    def _run(
        self, client: Client, name: str, on: str, user_data: str | None, publish: list[dict[str, int]]
    ) -> Any:
        with suppress(NotFound):
            there = client.get(f"/instances/{name}", cloud=CLOUD)["state"]
            return client.post(f"/instances/{name}/start", {}, cloud=CLOUD) if there in _ENDED else None
        from supercloud.keystore.userdata import seal_user_data

        keys = self._place.keystore_socket
        return client.post(
            "/instances",
            {
                "name": name,
                "cloud": CLOUD,
                "image": IMAGE,
                "on": on,
                "memory_mib": 256,
                "networks": [NETWORK],
                "publish": publish,
                "user_data": seal_user_data(keys, user_data.encode(), instance=name) if user_data else None,
            },
        )

    # -------------------------------------------------------------- what is shown

    def _migrations(self) -> None:
        for target in ("s1", "n1"):
            self._migrate(target)
        with self._phase("third migration, control plane killed in the middle"):
            before = self._load()
            source, began = self._where(), time.monotonic()
            target = self._other(source)
            client = self._client()
            operation = client.post(f"/instances/{SERVER}/migrate", {"to": target}, cloud=CLOUD)
            self._await(lambda: self._under_way(operation["id"]), _MIGRATE_S, "the transfer to be under way")
            ports = self._control.ports()
            process = self._control.daemon(ports).process() if ports else None
            if process is None:
                raise Failed("the control plane ended before it was killed")
            process.kill()
            process.wait()
            self._say("control plane killed with -9; starting it again")
            self._control.up(api_port=None, agents_port=None)
            client = self._client()
            ended = client.wait(client.get(f"/operations/{operation['id']}"), self._watch)
            self.report.controller_recovered = ended["state"] == "succeeded" and self._where() == target
            self._note(source, target, time.monotonic() - began, before)

    def _migrate(self, target: str) -> None:
        source = self._where()
        if source == target:
            source, target = target, self._other(target)
        with self._phase(f"live migration {source} to {target}"):
            before, began, client = self._load(), time.monotonic(), self._client()
            operation = client.post(f"/instances/{SERVER}/migrate", {"to": target}, cloud=CLOUD)
            client.wait(operation, self._watch)
            self._note(source, target, time.monotonic() - began, before)

    def _note(self, source: str, target: str, total_s: float, before: list[Seen]) -> None:
        """Wait until the client was answered again, and take the longest gap since."""
        after = self._await_load(before[-1].answered if before else 0)
        gap = max(line.max_gap_ms for line in after[len(before) :])
        self.report.migrations.append(
            Migration(source=source, target=target, downtime_ms=gap, total_s=total_s)
        )
        self._say(f"the client saw a gap of {gap} ms; {after[-1].lost} requests lost so far")

    def _cut_a_domain(self, witness: Witness) -> None:
        where = self._where()
        server = self._client().get(f"/instances/{SERVER}", cloud=CLOUD)
        with self._phase(f"domain {BLANKETS[where]} cut off, its run rights run out"):
            if not witness.running(server["id"]):
                raise Failed(f"the observer does not see {SERVER} run, so it could not see it fenced")
            self._link(where, up=False)
            try:
                self._await(lambda: not witness.running(server["id"]), _BOOT_S, "the keeper to pause it")
                self._await(lambda: self._state() == "fenced", _BOOT_S, "the store to see it fenced")
                self.report.domain_fenced = not witness.running(server["id"])
            finally:
                self._link(where, up=True)
        with self._phase(f"domain {BLANKETS[where]} is back"):
            self._await(lambda: self._state() in ("running", "stopped"), _BOOT_S, "the instance to go on")
            self.report.resumed_after_heal = self._state() == "running"

    def _count_load(self) -> None:
        lines = self._load()
        self.report.requests_lost = lines[-1].lost + lines[-1].wrong
        self.report.requests_answered = lines[-1].answered
        self.report.connection_kept = lines[-1].connections == 1

    def _count_copies(self, witness: Witness) -> None:
        copies = witness.copies()
        self.report.max_copies = max((copy.at_least for copy in copies), default=0)
        self.report.max_copies_if_clocks_err = max((copy.at_most for copy in copies), default=0)
        self.report.clocks_uncertain_ms = round(
            max((copy.uncertain_s for copy in copies), default=0.0) * 1000, 1
        )

    # -------------------------------------------------------------- small things

    def _client(self) -> Client:
        return Client(self._place.access())

    def _ensure(self, kind: str, name: str, body: dict[str, Any]) -> None:
        client = self._client()
        try:
            client.get(f"/{kind}/{name}")
        except NotFound:
            client.post(f"/{kind}", {"name": name, **body})

    def _machines(self) -> Iterator[tuple[str, str, Path]]:
        """(blanket's id, provider's id, machine directory) of the demo's blankets."""
        client = self._client()
        for name, provider_name in BLANKETS.items():
            blanket = client.get(f"/blankets/{name}", cloud=CLOUD)
            provider = client.get(f"/providers/{provider_name}")
            home = self._place.home / "controlplane" / "platforms" / provider["id"]
            yield blanket["id"], provider["id"], home

    def _observer_ports(self) -> dict[str, Path]:
        return {
            blanket: home / "machines" / blanket / "observer.sock" for blanket, _, home in self._machines()
        }

    def _link(self, blanket: str, *, up: bool) -> None:
        from supercloud.cli.demo.cable import set_link

        machine, _, home = list(self._machines())[list(BLANKETS).index(blanket)]
        asyncio.run(set_link(home, machine, up=up))

    def _where(self) -> str:
        return str(self._client().get(f"/instances/{SERVER}", cloud=CLOUD)["blanket"])

    def _other(self, blanket: str) -> str:
        return next(name for name in BLANKETS if name != blanket)

    def _state(self) -> str:
        return str(self._client().get(f"/instances/{SERVER}", cloud=CLOUD)["state"])

    def _under_way(self, operation: str) -> bool:
        seen = self._client().get(f"/operations/{operation}", wait_s=1)
        if seen["state"] in ("succeeded", "failed", "cancelled"):
            raise Failed(f"the migration ended before the control plane could be killed: {seen['error']}")
        return bool(seen["phase"] == "transfer" and (seen["done"] or 0) > 0)

    def _load(self) -> list[Seen]:
        return seen(console_log(self._client(), CLIENT))

    def _await_load(self, answered: int) -> list[Seen]:
        """The client's lines, once more than `answered` requests were."""
        lines: list[Seen] = []

        def more() -> bool:
            nonlocal lines
            lines = self._load()
            return bool(lines and lines[-1].answered > answered)

        self._await(more, _BOOT_S, "the client to be answered")
        return lines

    def _await(self, met: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not met():
            if time.monotonic() > deadline:
                raise Failed(f"waited {timeout_s:.0f} s in vain for {what}", hint="supercloud vm ls")
            time.sleep(0.5)  # the API tells of operations by event, of instances only when asked

    def published(self) -> str | None:
        """What the server answers on its published port on this machine."""
        ports = self._client().get(f"/instances/{SERVER}", cloud=CLOUD)["published"]
        with suppress(OSError, IndexError):
            at = ports[0].partition("->")[0]
            with urllib.request.urlopen(f"http://{at}/n/1", timeout=10) as answer:
                return f"http://{at}/ answers {answer.read().decode().strip()!r}"
        return None

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._say(f"{name} …")
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.report.phases_s[name] = round(took, 1)
        self._say(f"{name}: {took:.1f} s")

    def _watch(self, phase: str, done: float | None) -> None:
        if not self._quiet and sys.stderr.isatty():
            share = f" {done:.0%}" if done is not None else ""
            sys.stderr.write(f"\r\033[K  {phase}{share}")
            sys.stderr.flush()

    def _say(self, text: str) -> None:
        start = "\r\033[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{start}demo: {text}\n")


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """With -o json, standard output is one object and nothing else."""
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept
