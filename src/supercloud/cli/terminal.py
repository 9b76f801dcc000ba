"""Streams of bytes on this terminal: consoles, logs, and ssh through the control plane."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from supercloud.client import Client, Place
from supercloud.model.errors import Unavailable, error_from

#: Ctrl-], as telnet and virsh have it.
DETACH = b"\x1d"
_REFUSED = 4000
_QUIET_S = 5.0


@contextmanager
def _opened(client: Client, path: str, **query: object) -> Iterator[ClientConnection]:
    try:
        with connect(**client.stream(path, **query), max_size=1 << 20) as connection:
            yield connection
    except (OSError, InvalidHandshake) as error:
        raise Unavailable(f"no stream: {error}", hint="supercloud status") from error
    except ConnectionClosed as closed:
        raise_refused(closed.rcvd)


def raise_refused(received: Close | None) -> None:
    if received is not None and received.code == _REFUSED:
        code, _, message = received.reason.partition(": ")
        raise error_from(code, message)


def _print_until_end(
    connection: ClientConnection, ended: int | None = None, over: threading.Event | None = None
) -> None:
    """Until the other end closes, or is silent once our input is `over`: a WebSocket has no half-close."""
    try:
        while True:
            try:
                data = connection.recv(None if over is None else _QUIET_S)
            except TimeoutError:
                if over is not None and over.is_set():
                    return
                continue
            sys.stdout.buffer.write(data if isinstance(data, bytes) else data.encode())
            sys.stdout.buffer.flush()
    except ConnectionClosed as closed:
        if ended is None:
            raise_refused(closed.rcvd)
    finally:
        if ended is not None:
            with suppress(OSError):  # whoever waited has left by the detach key
                os.write(ended, b"x")


def dump(client: Client, path: str, **query: object) -> None:
    """Print a stream to its end."""
    with _opened(client, path, **query) as connection:
        _print_until_end(connection)


def take(client: Client, path: str, write: Callable[[bytes], object], **query: object) -> None:
    """Hand a stream to `write`, to its end. Whether that was all of it, who asked has to know."""
    with _opened(client, path, **query) as connection:
        try:
            while True:
                data = connection.recv()
                write(data if isinstance(data, bytes) else data.encode())
        except ConnectionClosed as closed:
            raise_refused(closed.rcvd)


def pipe(client: Client, path: str, **query: object) -> None:
    """Standard input and output, both ways, until either ends."""
    with _opened(client, path, **query) as connection:
        _pump(connection, detach=None)


def attach(client: Client, path: str, **query: object) -> None:
    """A terminal in raw mode on a stream; `DETACH` leaves it as it is."""
    with _opened(client, path, **query) as connection:
        sys.stderr.write("Ctrl-] leaves\r\n")
        if not sys.stdin.isatty():
            _pump(connection, detach=DETACH)
            return
        before = termios.tcgetattr(sys.stdin)
        try:
            tty.setraw(sys.stdin)
            _pump(connection, detach=DETACH)
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
            sys.stderr.write("\ndisconnected\n")


def _pump(connection: ClientConnection, *, detach: bytes | None) -> None:
    wake, ended = os.pipe()
    over = threading.Event()
    reader = threading.Thread(target=_print_until_end, args=(connection, ended, over), daemon=True)
    reader.start()
    try:
        while True:
            ready, _, _ = select.select([sys.stdin, wake], [], [])
            if wake in ready:
                break
            data = os.read(sys.stdin.fileno(), 65536)
            if detach is not None and detach in data:
                return
            if not data:
                over.set()
                break
            connection.send(data)
    except ConnectionClosed:
        pass  # the reader knows why
    try:
        reader.join()
    finally:
        os.close(wake)
    raise_refused(connection.protocol.close_rcvd)


def _one_word(path: Path) -> str:
    """As ssh reads a list of files, in which `%` begins something else."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def ssh(
    client: Client,
    name: str,
    *,
    user: str,
    identity: Path | None,
    command: Sequence[str],
    cloud: str | None,
) -> int:
    """Run ssh with ourselves as its ProxyCommand; its exit status.

    The host key is checked against the instance's id, in a file of our own: addresses and names are reused by
    others.
    """
    instance = client.get(f"/instances/{name}", cloud=cloud)["id"]
    in_cloud = ["--cloud", cloud] if cloud else []
    # ssh hands this to a shell: every word is quoted.
    proxy = shlex.join([sys.executable, "-m", "supercloud.cli", "vm", "proxy", name, "22", *in_cloud])
    argv = [
        "ssh",
        "-o",
        f"ProxyCommand={proxy}",
        "-o",
        f"HostKeyAlias={instance}.supercloud",
        "-o",
        f"UserKnownHostsFile={_one_word(Place.default().home / 'known_hosts')}",
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-l",
        user,
        *(["-i", str(identity)] if identity else []),
        "--",
        name,
        *command,
    ]
    try:
        return subprocess.run(argv, check=False).returncode
    except FileNotFoundError as error:
        raise Unavailable(
            "ssh is not installed", hint="apt-get install --no-install-recommends openssh-client"
        ) from error
