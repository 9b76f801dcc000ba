"""The processes that `bench loop` measures: the loop with its driver, and a detector.

`python -m supercloud.cli.bench.loop_sides serve|echo|detect FOLDER …`, inside the bench's namespace.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from supercloud.blanket.overlay.reactions import PortReactions
from supercloud.keeper.egress import tap_of
from supercloud.model.findings import Layer, Object, ObjectKind
from supercloud.model.names import Id
from supercloud.security.door import Door
from supercloud.security.events import Stand
from supercloud.security.journal import Journal
from supercloud.security.link import Link, Where
from supercloud.security.loop import Loop
from supercloud.security.policy import PolicyFile
from supercloud.trust.tls import CONTROLLER_NAME, Credentials, client_context, peer_identity, server_context

PORT = 7443
_HOLDER = uuid.UUID(int=0xB)
POLICY = {
    "version": 1,
    "policies": {
        "contain": {
            "when": {"rule": "scan"},
            "do": [{"action": "contain", "target": "device", "for": "1h"}],
            "bounds": {"objects": 10_000, "perHour": 100_000},
        }
    },
}


def instance(number: int) -> Id:
    """A port's name is made of the first digits of an instance's id: they differ."""
    return str(uuid.UUID(int=(number + 1) << 80))


def event(number: int, *, about: int, rule: str) -> dict[str, Any]:
    """An OCSF Detection Finding as detectors send it."""
    return {
        "class_uid": 2004,
        "category_uid": 2,
        "activity_id": 1,
        "type_uid": 200401,
        "severity_id": 4,
        "time": int(time.time() * 1000),
        "metadata": {"uid": f"{rule}-{number}", "version": "1.3.0", "product": {"name": "port"}},
        "finding_info": {
            "uid": f"{rule}-{number}",
            "title": "Scan for open ports",
            "analytic": {"uid": rule, "type_id": 1},
        },
        "resources": [{"uid": instance(about), "type": "instance"}],
        "evidences": [{"src_endpoint": {"ip": "10.20.0.7"}, "data": {"ports": 40, "proven": True}}],
    }


def where(folder: Path) -> Where:
    return Where(
        host="127.0.0.1",
        port=PORT,
        context=client_context((folder / "authority.pem").read_text(), _credentials(folder, "detector")),
        server_name=CONTROLLER_NAME,
    )


def _credentials(folder: Path, name: str) -> Credentials:
    return Credentials(
        certificate_pem=(folder / f"{name}.pem").read_text(), key_pem=(folder / f"{name}.key").read_text()
    )


# ---------------------------------------------------------------- the loop


async def serve(folder: Path) -> None:
    """Until it is killed."""
    authority = (folder / "authority.pem").read_text()
    context = server_context(_credentials(folder, "loop"), authority)

    def stands(name: str, connection: Any) -> Stand | None:
        identity = None if connection is None else peer_identity(connection)
        if identity is None or identity.blanket is None or identity.cloud is None:
            return None
        return Stand(
            detector=name,
            layer=Layer.L2,
            domain=identity.blanket,
            cloud=identity.cloud,
            objects=lambda one: None if one is None else Object(kind=ObjectKind.INSTANCE, id=one),
            proves=True,
        )

    loop = Loop(
        journal=Journal(folder / "journal" / "loop.sqlite"),
        policies=PolicyFile.model_validate_json(json.dumps(POLICY)),
        rules=None,
        actuator=PortReactions(lambda one: [tap_of(one)]),
        now=time.time,
    )
    server = await Door(loop, stands).listen_tls("127.0.0.1", PORT, context)
    async with server:
        await loop.run()


async def echo(folder: Path) -> None:
    """An answer to each line, and nothing behind it: what a round trip is at least."""
    context = server_context(_credentials(folder, "loop"), (folder / "authority.pem").read_text())

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(b'{"n": 1, "ok": true}\n')
            await writer.drain()

    server = await asyncio.start_server(meet, "127.0.0.1", PORT, ssl=context)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


# ---------------------------------------------------------------- detectors


async def latency(link: Link, start: int, many: int) -> list[float]:
    """Seconds from sending to hearing that it is done, one after the other, each about another instance."""
    found = []
    for number in range(start, start + many):
        begun = time.perf_counter()
        done = await link.reacted(event(number, about=number, rule="scan"))
        found.append(time.perf_counter() - begun)
        if done != 1:
            raise AssertionError(f"finding {number}: {done} reactions")
    return found


async def flood(link: Link, start: int, many: int, say: Any, *, every: int = 0) -> float:
    """Findings a second, of so many; `say` hears of each number that was acknowledged. With `every`, each so
    many-th is one that something is done about."""
    begun = time.perf_counter()
    waiting = set()
    for number in range(start, start + many):
        rule = "scan" if every and number % every == 0 else "noise"
        answer = await link.send(event(number, about=number % 97 if rule == "noise" else number, rule=rule))
        answer.add_done_callback(lambda one, n=number, r=rule: say(n, r, one))  # type: ignore[misc]
        waiting.add(answer)
        answer.add_done_callback(waiting.discard)
    while waiting:
        await asyncio.wait(set(waiting))
    return many / (time.perf_counter() - begun)


async def detect(folder: Path, what: str, start: int, many: int) -> None:
    """Prints one line of JSON for each thing that is to be known."""
    link = Link(where(folder), "port", follow=what == "latency")
    running = asyncio.create_task(link.run())

    def say(number: int, rule: str, answer: asyncio.Future[dict[str, Any]]) -> None:
        if what == "killed" and answer.result().get("ok"):
            sys.stdout.write(f"{rule}-{number}\n")
            sys.stdout.flush()

    try:
        match what:
            case "latency":
                await latency(link, start, 5)  # connecting, and the first of everything
                found = await latency(link, start + 5, many)
                sys.stdout.write(json.dumps({"s": found}) + "\n")
            case "flood":
                sys.stdout.write(json.dumps({"per_s": await flood(link, start, many, say)}) + "\n")
            case "killed":
                await flood(link, start, many, say, every=50)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def main(arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    what, folder, *rest = arguments
    if what == "serve":
        asyncio.run(serve(Path(folder)))
    elif what == "echo":
        asyncio.run(echo(Path(folder)))
    else:
        asyncio.run(detect(Path(folder), rest[0], int(rest[1]), int(rest[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
