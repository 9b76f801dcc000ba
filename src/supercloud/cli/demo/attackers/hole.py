#!/usr/bin/python3
"""A service with a hole, for inside a guest: whoever asks it to has their program run. For no real machine.

`POST /update` runs what comes with it, as services have done that take updates from anybody.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

PORT = 8099
MOST = 1 << 16


def asked(line: socket.socket) -> str | None:
    """The program that somebody wants to be run."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < MOST:
        if not (more := line.recv(4096)):
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(one[15:]) for one in lines if one.startswith(b"content-length:")), 0)
    if not lines[0].startswith(b"post /update ") or length > MOST:
        return None
    while len(body) < length and (more := line.recv(4096)):
        body += more
    return body[:length].decode()


def answer(line: socket.socket) -> None:
    line.settimeout(10)
    try:
        program = asked(line)
        line.sendall(b"HTTP/1.0 %s\r\n\r\n" % (b"200 OK" if program else b"404 Not Found"))
    except (OSError, ValueError):
        return
    finally:
        line.close()
    if program and os.fork() == 0:
        exec(compile(program, "update", "exec"), {"__name__": "__main__", "source": program})  # noqa: S102 - the hole
        os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.create_server(("", PORT)) as server:
        while not subprocess.run(["hostname", "-I"], capture_output=True, check=False).stdout.strip():
            time.sleep(1)  # it has no address yet
        with Path("/dev/ttyS0").open("wb", buffering=0) as console:
            console.write(b"demo-hole open\n")
        while True:
            line, _ = server.accept()
            answer(line)


if __name__ == "__main__":
    main()
