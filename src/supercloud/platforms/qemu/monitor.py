"""QEMU's monitor (QMP): short sessions with deadlines, errors of ours.

A QMP socket serves one client at a time, so a session is opened for each request and closed at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from qemu.qmp import EventListener, ExecuteError, Message, QMPClient, QMPError

from supercloud.model.errors import Failed, Unavailable
from supercloud.platforms.qemu.command import DATA_NODE, NIC, QMP_SOCKET

# The library logs as errors what it also raises, and what we cancel.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

_ANSWER_S = 10.0
#: Writing all of a machine's memory to its disk, or reading it back.
_SNAPSHOT_S = 300.0


@contextmanager
def reachable(directory: Path) -> Iterator[Path]:
    """A short path to `directory`, for the names of UNIX sockets (107 bytes), while the context lasts."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Monitor:
    """One session. Every method raises Failed if QEMU refuses and Unavailable if it is gone or late."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Send one command and return what it returned."""
        with _translated(command):
            async with asyncio.timeout(_ANSWER_S):
                answer: object = await self._client.execute(command, dict(arguments or {}))
                return answer

    async def status(self) -> str:
        """QEMU's run state: `running`, `paused`, …"""
        answer = await self.execute("query-status")
        return str(answer["status"]) if isinstance(answer, dict) else ""

    async def set_link(self, *, up: bool, nic: str = NIC) -> None:
        await self.execute("set_link", {"name": nic, "up": up})

    async def labels(self) -> frozenset[str]:
        """The labels of the snapshots in the data disk."""
        nodes = await self.execute("query-named-block-nodes", {"flat": True})
        for node in nodes if isinstance(nodes, list) else []:
            if node.get("node-name") == DATA_NODE:
                return frozenset(one["name"] for one in node["image"].get("snapshots", []))
        return frozenset()

    async def save(self, label: str) -> None:
        await self._job("snapshot-save", label)

    async def load(self, label: str) -> None:
        await self._job("snapshot-load", label)

    async def _job(self, command: str, label: str) -> None:
        job = f"sc-{uuid.uuid4()}"
        # Only the data disk takes part: the root and the bundle are read-only and stay as they are.
        arguments = {"tag": label, "vmstate": DATA_NODE, "devices": [DATA_NODE], "job-id": job}

        def ours(event: Message) -> bool:
            data = event["data"]
            return isinstance(data, dict) and (data["id"], data["status"]) == (job, "concluded")

        concluded = EventListener(["JOB_STATUS_CHANGE"], ours)
        with self._client.listen(concluded), _translated(command):
            await self.execute(command, arguments)
            async with asyncio.timeout(_SNAPSHOT_S):
                await concluded.get()
        jobs = await self.execute("query-jobs")
        await self.execute("job-dismiss", {"id": job})
        for one in jobs if isinstance(jobs, list) else []:
            if one["id"] == job and "error" in one:
                raise Failed(f"QEMU {command}: {one['error']}")


@asynccontextmanager
async def session(directory: Path, *, timeout_s: float = _ANSWER_S) -> AsyncIterator[Monitor]:
    """A session with the machine whose directory this is.

    Raises:
        Unavailable: nobody listens, or QEMU did not answer within `timeout_s`.
    """
    client = QMPClient()
    try:
        with _translated("greeting"), reachable(directory) as short:
            async with asyncio.timeout(timeout_s):
                await client.connect(str(short / QMP_SOCKET))
        yield Monitor(client)
    finally:
        # However it ended, QEMU must find its socket free again; a peer that is gone is no error here.
        try:
            async with asyncio.timeout(_ANSWER_S):
                await client.disconnect()
        except (QMPError, OSError, EOFError, TimeoutError):
            pass


@contextmanager
def _translated(command: str) -> Iterator[None]:
    try:
        yield
    except ExecuteError as error:
        raise Failed(f"QEMU {command}: {error}") from error
    except TimeoutError as error:
        raise Unavailable(f"QEMU did not answer {command} in time") from error
    except (QMPError, OSError, EOFError) as error:
        raise Unavailable(f"QEMU's monitor is not there: {command}: {error}") from error
