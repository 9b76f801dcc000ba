"""The two programs of a control plane on this machine, and the operator's certificate for it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from supercloud.cli.daemons import Daemon
from supercloud.client import Access, Client, Place
from supercloud.model.errors import Conflict, Failed, InvalidInput, SupercloudError

HOST = "127.0.0.1"
_API_PORT = 7443
_AGENTS_PORT = 7444
_RENEW_S = 6 * 3600
#: Generous: on a machine that runs blankets under emulation a start takes many times what it takes on others.
_START_S = 180.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Chosen at the first `up` and kept: blankets know the agents' port from their birth on."""

    api: int
    agents: int


class ControlPlane:
    """`supercloud up` and `down`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        home = place.home
        self.keystore = Daemon(
            "keystore",
            home,
            [
                "supercloud.keystore",
                "--state",
                str(home / "keystore"),
                "--socket",
                str(place.keystore_socket),
            ],
        )
        self._ports_file = home / "ports.json"

    def ports(self) -> Ports | None:
        try:
            return Ports(**json.loads(self._ports_file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{self._ports_file} is broken") from error

    def daemon(self, ports: Ports) -> Daemon:
        return Daemon(
            "controlplane",
            self.place.home,
            [
                "supercloud.controlplane",
                "--state",
                str(self.place.home / "controlplane"),
                "--keystore",
                str(self.place.keystore_socket),
                "--listen",
                f"{HOST}:{ports.api}",
                "--agents",
                f"{HOST}:{ports.agents}",
            ],
        )

    def up(
        self,
        *,
        api_port: int | None,
        agents_port: int | None,
        progress: Callable[[str], None] = lambda phase: None,
    ) -> bool:
        """Start what does not run. Whether anything had to be started. `progress` is told what is waited for.

        Raises:
            Conflict: a port is in use by another program.
        """
        with self._alone():
            return self._up(api_port, agents_port, progress)

    def _up(self, api_port: int | None, agents_port: int | None, progress: Callable[[str], None]) -> bool:
        ports = self._choose(api_port, agents_port)
        daemon = self.daemon(ports)
        started = self.keystore.start(
            lambda: _accepts(self.place.keystore_socket),
            timeout_s=_START_S,
            waiting=lambda: progress("starting the key store"),
        )
        if daemon.process() is None:
            for port in (ports.api, ports.agents):
                _must_be_free(port)
        access = asyncio.run(self._certify(ports))
        started |= daemon.start(
            lambda: _answers(access), timeout_s=_START_S, waiting=lambda: progress("starting")
        )
        return started

    def down(self) -> bool:
        """End both. Whether anything ran."""
        if not self.place.home.exists():
            return False
        with self._alone():
            ports = self.ports() or Ports(_API_PORT, _AGENTS_PORT)
            ended = self.daemon(ports).stop()
            return self.keystore.stop() or ended

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time; a second one waits, and finds what the first one made of it."""
        home = self.place.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        with os.fdopen(os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def running(self) -> bool:
        """Whether the control plane itself runs."""
        ports = self.ports()
        return ports is not None and self.daemon(ports).process() is not None

    def archive(self, verb: Literal["backup", "restore"], file: Path) -> None:
        """Have the control plane's own program write or read a backup.

        Raises:
            Failed: it says why.
        """
        state = str(self.place.home / "controlplane")
        argv = [sys.executable, "-m", "supercloud.controlplane", verb, "--state", state, str(file)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed((done.stderr.strip().splitlines() or [f"{verb} failed"])[-1])

    def _choose(self, api_port: int | None, agents_port: int | None) -> Ports:
        kept = self.ports()
        if kept and agents_port not in (None, kept.agents):
            raise Conflict(f"blankets know port {kept.agents} for their agents; it cannot change")
        chosen = Ports(
            api_port or (kept.api if kept else _free_port(_API_PORT)),
            kept.agents if kept else agents_port or _free_port(_AGENTS_PORT),
        )
        if chosen != kept:
            self._ports_file.write_text(json.dumps(asdict(chosen)))
        return chosen

    async def _certify(self, ports: Ports) -> Access:
        """The operator's certificate, made anew when little of its time is left."""
        from supercloud.keystore.client import RemoteOwner
        from supercloud.trust.certificates import identity_of
        from supercloud.trust.keys import IdentityKey

        directory = self.place.access_file.parent
        try:
            access = self.place.access()
            if access.port == ports.api and access.expires_at > time.time() + _RENEW_S:
                return access
        except SupercloudError:
            pass  # none yet, or broken: made below
        directory.mkdir(mode=0o700, exist_ok=True)
        owner = RemoteOwner(self.place.keystore_socket)
        try:
            key = IdentityKey.new()
            answer = await owner.issue_operator(csr_pem=key.csr())
        finally:
            await owner.close()
        files = {
            "key.pem": key.to_pem(),
            "certificate.pem": answer.certificate_pem,
            "authority.pem": answer.authority_pem,
        }
        for name, text in files.items():
            _write_private(directory / name, text)
        access = Access(
            host=HOST,
            port=ports.api,
            key=str(directory / "key.pem"),
            certificate=str(directory / "certificate.pem"),
            authority=str(directory / "authority.pem"),
            expires_at=identity_of(answer.certificate_pem).expires_at,
        )
        self.place.save(access)
        return access


def _write_private(path: Path, text: str) -> None:
    scratch = path.with_suffix(".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{path}.owner")
        except OSError:
            return False
        return True


def _answers(access: Access) -> bool:
    try:
        Client(access, timeout_s=5).get("/status")
    except SupercloudError:
        return False
    return True


def _bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port(wanted: int) -> int:
    """`wanted`, or any free one: several control planes may live on one machine."""
    if _bind(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _must_be_free(port: int) -> None:
    if not _bind(port):
        raise Conflict(
            f"port {port} is used by another program", hint="end it, or supercloud up --api-port PORT"
        )
