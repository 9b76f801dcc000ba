"""ports.durable.Saga over DBOS: steps are remembered in a database, and a killed operation is carried on.

One workflow is registered, `run_operation(id)`; what it runs is found by the operation's kind. DBOS keeps its
own tables: a second SQLite file beside the store's, or the schema `dbos` of the same PostgreSQL database.
They may be lost: every step is idempotent, so an open operation without a workflow begins anew.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import structlog
from sqlalchemy import create_engine, event

from supercloud.model.errors import Failed, SupercloudError, error_from
from supercloud.ports.durable import Saga
from supercloud.services.store.engine import normal_url
from supercloud.wire.codec import from_json, to_json

if TYPE_CHECKING:
    from dbos import DBOS, DBOSConfig
    from sqlalchemy import Engine

T = TypeVar("T")
_log = structlog.get_logger(__name__)
#: What takes less is not what an operation waited for.
_WORTH_SAYING_S = 0.1
#: Sagas carry their own idempotence over versions; DBOS need not tell them apart.
_VERSION = "1"
_POLL_S = 0.05


class Mirror(Protocol):
    """Where progress goes, and where the wish to cancel comes from (services.operations)."""

    async def run(self, saga: Saga) -> None: ...

    async def progress(self, operation: str, phase: str, done: float | None) -> None: ...

    async def cancel_asked(self, operation: str) -> bool: ...


class DurableRuntime:
    """DBOS, of which a process has one."""

    def __init__(self, mirror: Mirror, database_url: str) -> None:
        self._mirror = mirror
        self._url = normal_url(database_url)
        sqlite = self._url.get_backend_name() == "sqlite"
        #: One controller owns a SQLite file, so what is pending there is its own.
        self.executor = "local" if sqlite else secrets.token_hex(8)
        self._dbos: type[DBOS] | None = None
        self._workflow: Any = None

    async def launch(self) -> None:
        """Bring DBOS up on this event loop; what this executor left pending is carried on."""
        from dbos import DBOS  # half a second, and only this program needs it

        self._dbos = DBOS
        DBOS(config=self._config())

        @DBOS.workflow(name="run_operation")
        async def run_operation(operation: str) -> None:
            await self._mirror.run(_DbosSaga(DBOS, self._mirror, operation))

        self._workflow = run_operation
        DBOS.launch()  # adopts the running event loop

    async def close(self) -> None:
        """End; operations that run are left as a kill would leave them, and go on at the next launch."""
        if self._dbos is not None:
            await asyncio.to_thread(self._dbos.destroy, destroy_registry=True)
            # It made its own executor, which is shut down by now, the loop's default.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            self._dbos = None

    async def start(self, operation: str) -> None:
        """Begin `operation`, unless it began before.

        One that a step of another begins is a workflow of its own, so DBOS must not know where it is called.
        """
        await asyncio.create_task(self._begin(operation), context=Context())

    async def _begin(self, operation: str) -> None:
        from dbos import SetWorkflowID

        with SetWorkflowID(operation):
            await self._up().start_workflow_async(self._workflow, operation)

    async def adopt(self, executor: str) -> int:
        """Carry on what a dead executor left (PostgreSQL); how many operations that were."""
        dbos = self._up()
        left = await dbos.list_workflows_async(status="PENDING", executor_id=[executor], load_input=False)
        if left:
            await dbos.resume_workflows_async([one.workflow_id for one in left])
        return len(left)

    async def forget(self, operations: Sequence[str]) -> None:
        """What is remembered of these, which have ended."""
        await self._up().delete_workflows_async(list(operations))

    async def executors(self) -> set[str]:
        """Whose operations are pending."""
        pending = await self._up().list_workflows_async(status="PENDING", load_input=False)
        return {one.executor_id for one in pending if one.executor_id}

    def _up(self) -> type[DBOS]:
        if self._dbos is None:
            raise Failed("the durable runtime is not up")
        return self._dbos

    def _config(self) -> DBOSConfig:
        config: DBOSConfig = {
            "name": "supercloud",
            "application_version": _VERSION,
            "executor_id": self.executor,
            "serializer": _json_serializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": _POLL_S,
            "sys_db_pool_size": 5,
            "max_executor_threads": 8,
        }
        if self._url.get_backend_name() == "sqlite":
            path = operations_file(Path(self._url.database or ""))
            config["system_database_url"] = f"sqlite:///{path}"
            config["system_database_engine"] = _sqlite_engine(path)
        else:
            url = self._url.set(drivername="postgresql+psycopg")
            config["system_database_url"] = url.render_as_string(hide_password=False)
        return config


def operations_file(database: Path) -> Path:
    """DBOS's SQLite file, beside the store's."""
    return database.with_name("operations.db")


class _DbosSaga:
    """One run of one operation."""

    def __init__(self, dbos: type[DBOS], mirror: Mirror, operation: str) -> None:
        self._dbos = dbos
        self._mirror = mirror
        self._operation = operation

    @property
    def operation(self) -> str:
        return self._operation

    async def step(self, name: str, work: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        """An error of ours is remembered like an answer, so that a replay takes the same way."""

        async def outcome() -> dict[str, Any]:
            began = time.monotonic()
            try:
                return {"ok": to_json(kind, await work())}
            except SupercloudError as error:
                return {"error": [error.code, error.message, error.hint]}
            except Exception as error:  # noqa: BLE001 - a bug in a step ends its operation, not the program
                _log.exception("operation.step_bug", operation=self._operation, step=name)
                return {"error": [Failed.code, f"{name}: {type(error).__name__}", None]}
            finally:
                took_s = round(time.monotonic() - began, 3)
                if took_s >= _WORTH_SAYING_S:
                    _log.info("operation.step", operation=self._operation, step=name, took_s=took_s)

        with _interrupting():
            found = cast(dict[str, Any], await self._dbos.run_step_async({"name": name}, outcome))
        if "error" in found:
            raise error_from(*found["error"])
        return from_json(kind, found["ok"])

    async def sleep(self, seconds: float) -> None:
        with _interrupting():
            await self._dbos.sleep_async(seconds)

    async def cancelled(self) -> bool:
        """Remembered, too: what the saga did because of it must come out the same in a replay."""
        return await self.step("cancelled?", lambda: self._mirror.cancel_asked(self._operation), bool)

    async def progress(self, phase: str, *, done: float | None = None) -> None:
        await self._mirror.progress(self._operation, phase, done)


@contextmanager
def _interrupting() -> Iterator[None]:
    """DBOS itself failing (its database is gone, it is being closed) is no outcome of a step: the saga ends
    as by a kill, uncatchable by its `except`, and is carried on later."""
    try:
        yield
    except Exception as error:
        raise asyncio.CancelledError(f"interrupted: {error}") from error


def _json_serializer() -> Any:
    """DBOS's default is pickle."""
    from dbos import Serializer

    class Json(Serializer):
        def serialize(self, data: Any) -> str:
            return json.dumps(_plain(data), separators=(",", ":"))

        def deserialize(cls, serialized_data: str) -> Any:  # noqa: N805 - DBOS names it so
            data = json.loads(serialized_data)
            if isinstance(data, dict) and set(data) == {"exception"}:
                return Failed(data["exception"])
            return data

        def name(self) -> str:
            return "json"

    return Json()


def _plain(data: Any) -> Any:
    return {"exception": f"{type(data).__name__}: {data}"} if isinstance(data, BaseException) else data


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "busy_timeout=15000",
            "cache_size=-256",  # KiB, as the store's
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
