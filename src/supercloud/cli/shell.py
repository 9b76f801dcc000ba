"""Root on a blanket's serial console, where it was born with `debug_shell`: a command in, its output back."""

from __future__ import annotations

import base64
import secrets
import time
from types import TracebackType
from typing import Protocol

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from supercloud.client import Client
from supercloud.model.errors import Failed, Unavailable

_CHUNK = 2000  # a terminal takes lines of at most 4095 bytes
_USUAL_S = 180.0  # under emulation, beside others


class Stream(Protocol):
    """A console's bytes. `recv` raises TimeoutError, and ConnectionClosed at its end."""

    def send(self, message: bytes) -> None: ...

    def recv(self, timeout: float | None = None) -> str | bytes: ...

    def close(self) -> None: ...


class Shell:
    """One console. Context manager; not for several threads.

    Raises, all methods:
        Unavailable: there is no shell, or it does not answer in time.
        Failed: the command ended with another status than 0; with the end of what it said.
    """

    def __init__(self, stream: Stream, blanket: str) -> None:
        self._stream = stream
        self._blanket = blanket

    @classmethod
    def on(cls, client: Client, blanket: str, *, cloud: str) -> Shell:
        """Over the API."""
        try:
            stream = connect(**client.stream(f"/blankets/{blanket}/console", cloud=cloud), max_size=1 << 20)
        except (OSError, InvalidHandshake) as error:
            raise Unavailable(f"blanket {blanket} has no console: {error}") from error
        return cls(stream, blanket)

    def __enter__(self) -> Shell:
        self._stream.send(b"\nstty -echo -onlcr; dmesg -n 1; PS1= PS2=\n")
        self.run("true")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def run(self, command: str, *, timeout_s: float = _USUAL_S) -> str:
        """What `command`, one line of shell, writes to both of its outputs."""
        mark, word = secrets.token_hex(8), command.split(maxsplit=1)[0]
        # An echo of what is typed does not hold the marks: they are put together by the shell.
        self._stream.send(f"echo B''{mark}; {{ {command}; }} 2>&1; echo E''{mark}$?.\n".encode())
        text = self._read_until(f"E{mark}", word, timeout_s)
        _, _, rest = text.partition(f"B{mark}")
        said, _, status = rest.partition(f"E{mark}")
        said = said.replace("\r\n", "\n").removeprefix("\n")
        if status.partition(".")[0] != "0":
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise Failed(f"in blanket {self._blanket}, {word}: {last}")
        return said

    def put(self, path: str, data: bytes) -> None:
        """Write a file that only root reads."""
        text = base64.b64encode(data).decode()
        self.run(f"umask 077; : >{path}.b64")
        for start in range(0, len(text), _CHUNK):
            self.run(f"echo {text[start : start + _CHUNK]} >>{path}.b64")
        self.run(f"base64 -d {path}.b64 >{path} && rm {path}.b64")

    def get(self, path: str) -> bytes:
        """Read a file."""
        return base64.b64decode(self.run(f"base64 {path}"))

    def _read_until(self, mark: str, word: str, timeout_s: float) -> str:
        heard, deadline = "", time.monotonic() + timeout_s
        while "." not in heard.partition(mark)[2]:
            try:
                data = self._stream.recv(max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                raise Unavailable(
                    f"blanket {self._blanket} did not carry out {word} in {timeout_s:.0f} s",
                    hint="it needs --debug-shell",
                ) from error
            except ConnectionClosed as error:
                raise Unavailable(f"the console of blanket {self._blanket} closed: {error}") from error
            heard += (data if isinstance(data, bytes) else data.encode()).decode(errors="replace")
        return heard
