"""Runs inside guests: what servers and their users do all day. Nothing but Python's own library.

`depot`: serves the folder it is in over HTTP (8000 and the eleven ports after it) and FTP (2121). Everything
else is work, and says on its last line, as JSON, what it did.
"""

from __future__ import annotations

import ftplib
import functools
import http.client
import http.server
import io
import json
import socket
import socketserver
import sqlite3
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

HTTP_PORT, FTP_PORT = 8000, 2121
#: As a developer's machine has them: a service, its metrics, its administration, and so on.
HTTP_PORTS = range(HTTP_PORT, HTTP_PORT + 12)


# ---------------------------------------------------------------- the depot


class Ftp(socketserver.StreamRequestHandler):
    """RFC 959 as far as a client needs it to fetch and put files in passive mode."""

    def handle(self) -> None:
        self.passive: socket.socket | None = None
        self._say("220 depot")
        while line := self.rfile.readline().decode(errors="replace").strip():
            word, _, rest = line.partition(" ")
            answer = getattr(self, f"on_{word.lower()}", None)
            if answer is None:
                self._say("502 not here")
            elif answer(rest) == "end":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def on_user(self, _: str) -> None:
        self._say("230 come in")

    def on_type(self, _: str) -> None:
        self._say("200 as you like")

    def on_pasv(self, _: str) -> None:
        self.passive = socket.create_server((self.connection.getsockname()[0], 0))
        host, port = self.passive.getsockname()
        numbers = [*host.split("."), str(port >> 8), str(port & 255)]
        self._say(f"227 Entering Passive Mode ({','.join(numbers)})")

    def on_retr(self, name: str) -> None:
        self._transfer(lambda data: data.sendall(Path(Path(name).name).read_bytes()))

    def on_stor(self, name: str) -> None:
        def take(data: socket.socket) -> None:
            with Path("taken-" + Path(name).name).open("wb") as file:
                while part := data.recv(1 << 16):
                    file.write(part)

        self._transfer(take)

    def _transfer(self, work: Any) -> None:
        assert self.passive is not None
        self._say("150 here it comes")
        data, _ = self.passive.accept()
        with data:
            work(data)
        self.passive.close()
        self._say("226 done")

    def on_quit(self, _: str) -> str:
        self._say("221 farewell")
        return "end"


def depot() -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=".")
    servers: list[socketserver.BaseServer] = [
        http.server.ThreadingHTTPServer(("", port), handler) for port in HTTP_PORTS
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    socketserver.ThreadingTCPServer(("", FTP_PORT), Ftp).serve_forever()


# ---------------------------------------------------------------- work


def fetch(host: str, *names: str) -> dict[str, Any]:
    """Files of the depot, one connection each."""
    for name in names:
        connection = http.client.HTTPConnection(host, HTTP_PORT, timeout=120)
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        assert answer.status == 200, answer.reason
        Path(name).write_bytes(answer.read())
        connection.close()
    return {"files": len(names)}


def load(host: str, port: str, seconds: str) -> dict[str, Any]:
    """Requests without keep-alive, one after the other, until a file says that it is enough."""
    done = lost = 0
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until and not Path("enough").exists():
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            connection.getresponse().read()
            done += 1
        except OSError:
            lost += 1
        finally:
            connection.close()
    return {"requests": done, "lost": lost}


def browse(host: str) -> dict[str, Any]:
    """Six connections at once, as a browser has to one server, and that to each of its ports."""
    done: list[int] = []

    def one(port: int) -> None:
        for _ in range(5):
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("GET", "/")
            done.append(connection.getresponse().status)
            connection.close()

    threads = [threading.Thread(target=one, args=(port,)) for port in HTTP_PORTS for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"requests": len(done)}


def lookups(*names: str) -> dict[str, Any]:
    found = 0
    for _ in range(20):
        for name in names:
            try:
                found += bool(socket.getaddrinfo(name, 80))
            except OSError:
                continue
    return {"names": 20 * len(names), "found": found}


def database() -> dict[str, Any]:
    connection = sqlite3.connect("work.sqlite")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT, c REAL)")
    for part in range(20):
        with connection:
            rows = ((f"name-{part}-{number % 97}", number / 7) for number in range(500))
            connection.executemany("INSERT INTO t (b, c) VALUES (?, ?)", rows)
    connection.execute("CREATE INDEX IF NOT EXISTS i ON t (b)")
    (rows,) = connection.execute("SELECT count(*) FROM (SELECT b, sum(c) FROM t GROUP BY b)").fetchone()
    connection.execute("VACUUM")
    return {"groups": rows}


def archive(folder: str) -> dict[str, Any]:
    with tarfile.open("archive.tar.gz", "w:gz", compresslevel=1) as archived:
        archived.add(folder)
    with tarfile.open("archive.tar.gz") as archived:
        return {"members": sum(1 for _ in archived)}


def ftp(host: str, files: str) -> dict[str, Any]:
    """As an upload of a web site: many small files, in passive mode, each over a port of its own."""
    client = ftplib.FTP()  # noqa: S321 - it is what people use
    client.connect(host, FTP_PORT, timeout=120)
    client.login()
    began = time.monotonic()
    for number in range(int(files)):
        client.storbinary(f"STOR page-{number}.html", io.BytesIO(b"<p>hello</p>\n" * 20))
    took = time.monotonic() - began
    client.quit()
    return {"files": int(files), "seconds": round(took, 1)}


WORK = {work.__name__: work for work in (fetch, load, browse, lookups, database, archive, ftp)}

if __name__ == "__main__":
    name, *given = sys.argv[1:]
    if name == "depot":
        depot()
    else:
        print(json.dumps({"work": name, **WORK[name](*given)}))
