"""The two programs of a control plane on this machine, and the key of whoever administers it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from supercloud.cli.daemons import Daemon
from supercloud.client import Client, Endpoint, Place
from supercloud.client.place import FIRST_KEY
from supercloud.model.errors import Conflict, InvalidInput, NotFound, SupercloudError, error_of_status
from supercloud.trust.files import read_private, write_private

if TYPE_CHECKING:
    from supercloud.trust.keys import IdentityKey

HOST = "127.0.0.1"
_API_PORT = 7443
_AGENTS_PORT = 7444
#: Generous: on a machine that runs blankets under emulation a start takes many times what it takes on others.
_START_S = 180.0
#: What the key store's other socket is called beyond its own one, and how long such a path may be for Linux.
_OWNER, _SOCKET_BYTES = ".owner", 107


@dataclass(frozen=True, slots=True)
class Ports:
    """Chosen at the first `up` and kept: blankets know the agents' port from their birth on."""

    api: int
    agents: int


_USUAL = Ports(_API_PORT, _AGENTS_PORT)


@dataclass(frozen=True, slots=True)
class Started:
    """What `up` did. `new_key`: the key that it made, which is shown this once."""

    anything: bool
    new_key: str | None


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

    def ports(self) -> Ports | None:
        try:
            return Ports(**json.loads(self.place.ports_file.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            file = self.place.ports_file
            raise InvalidInput(
                f"{file} is broken",
                hint="remove it, and supercloud up --api-port PORT --agents-port PORT, as they were",
            ) from error

    def daemon(self, ports: Ports, operator: str = "") -> Daemon:
        """The control plane itself; to start it takes the public key of its `operator`."""
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
                "--operator",
                operator,
                "--operator-token",
                str(self.place.token_file(FIRST_KEY)),
            ],
        )

    def up(
        self,
        *,
        api_port: int | None,
        agents_port: int | None,
        progress: Callable[[str], None] = lambda phase: None,
    ) -> Started:
        """Start what does not run. `progress` is told what is waited for.

        Raises:
            Conflict: a port is in use by another program, or the control plane runs at another one.
        """
        if len(os.fsencode(f"{self.place.keystore_socket}{_OWNER}")) > _SOCKET_BYTES:
            raise InvalidInput(
                f"{self.place.home} is too long for a socket in it",
                hint="set SUPERCLOUD_HOME to a shorter path",
            )
        with self._alone():
            return self._up(api_port, agents_port, progress)

    def _up(self, api_port: int | None, agents_port: int | None, progress: Callable[[str], None]) -> Started:
        ports = self._choose(api_port, agents_port)
        key, made = self._first_key()
        new = made or not self.place.token_file(FIRST_KEY).exists()  # it never came up with this key
        if made:
            self._down()  # what runs knows another operator, or is from before there were keys
        daemon = self.daemon(ports, key.name)
        started = self.keystore.start(
            lambda: _accepts(self.place.keystore_socket),
            timeout_s=_START_S,
            waiting=lambda: progress("starting the key store"),
        )
        asyncio.run(self._point(ports))
        started |= daemon.start(
            lambda: _answers(self.place), timeout_s=_START_S, waiting=lambda: progress("starting")
        )
        return Started(started, key.name if new else None)

    def down(self) -> bool:
        """End both. Whether anything ran."""
        if not self.place.home.exists():
            return False
        with self._alone():
            return self._down()

    def _down(self) -> bool:
        ended = self.daemon(self.ports() or _USUAL).stop()
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
        return self.daemon(self.ports() or _USUAL).process() is not None

    def archive(self, verb: Literal["backup", "restore"], file: Path) -> None:
        """Have the control plane's own program write or read a backup.

        Raises:
            SupercloudError: as it says.
        """
        state = str(self.place.home / "controlplane")
        argv = [sys.executable, "-m", "supercloud.controlplane", verb, "--state", state, str(file)]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
            try:
                _, said = child.communicate()
            except BaseException:
                child.terminate()  # it takes away what it began
                child.wait()
                raise
        if child.returncode != 0:
            why = (said.strip().splitlines() or [f"{verb} failed"])[-1].removeprefix("error: ")
            raise error_of_status(child.returncode, why)

    def _choose(self, api_port: int | None, agents_port: int | None) -> Ports:
        """The ports, which are kept from then on; nothing is if they cannot be had."""
        kept = self.ports()
        if kept and agents_port not in (None, kept.agents):
            raise Conflict(f"blankets know port {kept.agents} for their agents; it cannot change")
        api = api_port or (kept.api if kept else _free_port(_API_PORT, agents_port))
        agents = kept.agents if kept else agents_port or _free_port(_AGENTS_PORT, api)
        if api == agents:
            raise InvalidInput(f"the API and the agents cannot both have port {api}")
        chosen = Ports(api, agents)
        if self.running():
            if chosen != kept:
                raise Conflict("the control plane runs, at another port", hint="first: supercloud down")
            return chosen
        _must_be_free(api, "end it, or supercloud up --api-port PORT")
        known = "end it: blankets know this port from their birth"
        _must_be_free(agents, known if kept else "end it, or supercloud up --agents-port PORT")
        if chosen != kept:
            write_private(self.place.ports_file, json.dumps(asdict(chosen)).encode())
        return chosen

    def _first_key(self) -> tuple[IdentityKey, bool]:
        """The key of whoever administers the control plane, and whether it had to be made."""
        from supercloud.trust.keys import IdentityKey

        file = self.place.key_file(FIRST_KEY)
        try:
            return IdentityKey.from_pem(read_private(file).decode("ascii", "replace")), False
        except NotFound:
            made = IdentityKey.new()
        self.place.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, made.to_pem().encode(), replace=False)
        return made, True

    async def _point(self, ports: Ports) -> None:
        """Write down where the API is, and whose certificates it shows: they may have been replaced."""
        from supercloud.keystore.client import RemoteOwner

        owner = RemoteOwner(self.place.keystore_socket)
        try:
            authority_pem = await owner.authority()
        finally:
            await owner.close()
        write_private(self.place.authority_file, authority_pem.encode())
        self.place.save(Endpoint(host=HOST, port=ports.api, authority=str(self.place.authority_file)))
        # Before there were tokens, the operator had a certificate there.
        shutil.rmtree(self.place.home / "operator", ignore_errors=True)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{path}{_OWNER}")
        except OSError:
            return False
        return True


def _answers(place: Place) -> bool:
    try:
        Client(place.access(FIRST_KEY), timeout_s=5).get("/status")
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


def _free_port(wanted: int, other: int | None) -> int:
    """`wanted`, or any free one but `other`: several control planes may live on one machine."""
    if wanted != other and _bind(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _must_be_free(port: int, hint: str) -> None:
    if not _bind(port):
        raise Conflict(f"port {port} is used by another program", hint=hint)
