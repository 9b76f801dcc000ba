"""One connection to libvirtd: blocking calls in threads, its events on asyncio, reopened whenever it breaks.

The only importer of the `libvirt` module, and late, so that everything else is tested without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from types import ModuleType
from typing import Any, Final, TypeVar

import structlog

from supercloud.model.errors import (
    Conflict,
    Exhausted,
    Failed,
    NotFound,
    OutcomeUnknown,
    SupercloudError,
    Unavailable,
)

T = TypeVar("T")
#: Without pydantic or stubs for libvirt, its handles are opaque to the type checker.
Handle = Any
#: Hears of a domain, by its name: what happened and why, in libvirt's numbers. In libvirt's event thread.
Hear = Callable[[str, int, int], None]

_KEEPALIVE_S: Final = 5
_KEEPALIVE_MISSES: Final = 6  # a blanket under load answers late; half a minute is dead
_BACKOFF_S: Final = (0.1, 0.3, 1.0, 2.0)
_WORKERS: Final = 4

_log = structlog.get_logger(__name__)
_loop_lock = threading.Lock()
_loop_running = False


def bindings() -> ModuleType:
    """The `libvirt` module.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import libvirt
    except ImportError as missing:
        raise Unavailable(
            "libvirt's Python bindings are missing", hint="install python3-libvirt"
        ) from missing
    module: ModuleType = libvirt
    return module


class Connection:
    """Use as an async context manager. `on_open` callbacks run, in a worker thread, at each (re)opening."""

    def __init__(self, uri: str = "qemu:///system") -> None:
        self._uri = uri
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="libvirt")
        self._handle: Handle = None
        self._opening = asyncio.Lock()
        self._lost = asyncio.Event()
        self._on_open: list[Callable[[Handle], None]] = []
        self._on_lifecycle: list[Hear] = []
        self._loop = asyncio.get_running_loop()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Connection:
        _run_event_loop()
        self._keeper = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        handle, self._handle = self._handle, None
        if handle is not None:
            await self._loop.run_in_executor(self._pool, _close, handle)
        self._pool.shutdown(wait=False)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def on_open(self, callback: Callable[[Handle], None]) -> None:
        """Have `callback` run at each opening from now on (and soon, if the connection is open now)."""
        self._on_open.append(callback)
        if self._handle is not None:
            self._lost.set()  # the keeper reopens and so runs it

    def on_lifecycle(self, hear: Hear) -> None:
        """Have `hear` told of every domain's life. libvirt takes one listener of a kind in a connection."""
        self._on_lifecycle.append(hear)

    async def call(self, what: Callable[[Handle], T], *, executor: Executor | None = None) -> T:
        """`what(connection)` in a worker thread; every libvirtError translated.

        A cancelled caller does not stop libvirt: the call goes on in its thread.

        Raises:
            Unavailable: libvirtd is not there. OutcomeUnknown: it went away during the call.
            NotFound, Conflict, Exhausted, Failed: what libvirt said.
        """
        handle = await self._open()
        return await self._loop.run_in_executor(executor or self._pool, self._translated, what, handle)

    def _translated(self, what: Callable[[Handle], T], handle: Handle) -> T:
        libvirt = bindings()
        try:
            return what(handle)
        except libvirt.libvirtError as error:
            if _is_broken(libvirt, error):
                self._loop.call_soon_threadsafe(self._lost.set)
                raise OutcomeUnknown("libvirtd went away during a call") from error
            raise translate(error) from error

    async def _open(self) -> Handle:
        async with self._opening:
            if self._handle is None:
                self._handle = await self._loop.run_in_executor(self._pool, self._connect)
            return self._handle

    def _connect(self) -> Handle:
        libvirt = bindings()
        libvirt.registerErrorHandler(_silent, None)  # libvirt prints to stderr otherwise
        try:
            handle = libvirt.open(self._uri)
            handle.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_MISSES)
            handle.registerCloseCallback(self._closed, None)
            handle.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            for callback in self._on_open:
                callback(handle)
        except libvirt.libvirtError as error:
            raise Unavailable(f"libvirtd does not answer: {_line(error)}") from error
        return handle

    def _closed(self, _handle: Handle, _reason: int, _opaque: object) -> None:
        self._loop.call_soon_threadsafe(self._lost.set)

    def _lifecycle(self, _handle: Handle, found: Handle, event: int, detail: int, _opaque: object) -> None:
        name = found.name()
        for hear in self._on_lifecycle:
            hear(name, event, detail)

    async def _keep_open(self) -> None:
        """Events arrive only over an open connection, so it is kept open though nobody calls."""
        attempt = 0
        while True:
            try:
                await self._open()
            except Unavailable as error:
                _log.warning("libvirt.unavailable", reason=error.message)
                await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
                attempt += 1
                continue
            attempt = 0
            await self._lost.wait()
            self._lost.clear()
            async with self._opening:
                handle, self._handle = self._handle, None
            if handle is not None:
                await self._loop.run_in_executor(self._pool, _close, handle)


def translate(error: Exception) -> SupercloudError:
    """A libvirtError as one of ours. The text is libvirt's, on one line; it holds no secret."""
    libvirt = bindings()
    code = error.get_error_code()  # type: ignore[attr-defined]
    kinds: dict[int, type[SupercloudError]] = {
        libvirt.VIR_ERR_NO_DOMAIN: NotFound,
        libvirt.VIR_ERR_NO_SECRET: NotFound,
        libvirt.VIR_ERR_DEVICE_MISSING: NotFound,
        libvirt.VIR_ERR_OPERATION_INVALID: Conflict,
        libvirt.VIR_ERR_DOM_EXIST: Conflict,
        libvirt.VIR_ERR_OPERATION_TIMEOUT: Unavailable,
        libvirt.VIR_ERR_NO_CONNECT: Unavailable,
        libvirt.VIR_ERR_NO_MEMORY: Exhausted,
    }
    line = _line(error)
    if "No space left" in line or "Cannot allocate memory" in line:
        return Exhausted(line)
    return kinds.get(code, Failed)(line)


def _is_broken(libvirt: ModuleType, error: Exception) -> bool:
    domain, code = error.get_error_domain(), error.get_error_code()  # type: ignore[attr-defined]
    if code in (libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_INVALID_CONN):
        return True
    return bool(
        domain in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE)
        and code in (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR)
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _silent(_opaque: object, _error: object) -> None:
    """libvirt's default handler prints each error; ours is raised, once."""


def _close(handle: Handle) -> None:
    with contextlib.suppress(bindings().libvirtError):
        handle.unregisterCloseCallback()
    with contextlib.suppress(bindings().libvirtError):
        handle.close()


def _run_event_loop() -> None:
    """libvirt has one event loop in a process; it must exist before the first connection."""
    global _loop_running  # noqa: PLW0603 - mirrors libvirt's own process-wide registration
    with _loop_lock:
        if _loop_running:
            return
        libvirt = bindings()
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_turn, args=(libvirt,), name="libvirt-events", daemon=True).start()
        _loop_running = True


def _turn(libvirt: ModuleType) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
