"""For the length of a run, everything that a program could learn from outside comes from the seed."""

from __future__ import annotations

import contextlib
import gc
import logging
import random as random_module
import secrets
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from random import Random
from typing import Any
from unittest.mock import patch

import structlog

#: The wall clock's value when a run begins; any will do that certificates can hold.
EPOCH_S = 1_800_000_000.0


@contextlib.contextmanager
def seeded(
    random: Random,
    *,
    monotonic: Callable[[], float],
    true: Callable[[], float],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Nonces, ids, jitter and clocks; what programs log goes to `say`."""

    def token_hex(size: int | None = None) -> str:
        return random.randbytes(size or 16).hex()

    def uuid4() -> uuid.UUID:
        return uuid.UUID(bytes=random.randbytes(16), version=4)

    with (
        patch.object(secrets, "token_hex", token_hex),
        patch.object(uuid, "uuid4", uuid4),
        patch.object(random_module, "uniform", random.uniform),
        patch.object(time, "monotonic", monotonic),
        patch.object(time, "time", lambda: EPOCH_S + true()),
        _logging_to(say),
    ):
        yield


@contextlib.contextmanager
def _logging_to(say: Callable[[str], None]) -> Iterator[None]:
    def record(_: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        error = event.pop("exc_info", None)
        rest = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        say(f"    {level}: {event['event']} {rest}{where(error)}")
        raise structlog.DropEvent

    before = structlog.get_config()
    level = logging.root.manager.disable
    structlog.configure(processors=[record], wrapper_class=structlog.BoundLogger)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.disable(level)


def where(error: object) -> str:
    """A bug's place, in one line."""
    found = sys.exc_info()[1] if error is True else error
    if not isinstance(found, BaseException):
        return ""
    frames = traceback.extract_tb(found.__traceback__)
    return f" {found!r} at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""


@contextlib.contextmanager
def forgetting() -> Iterator[None]:
    """Around a run: its dead processes' coroutines are closed in the end, which is news to nobody."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()  # what was imported stays: looking through it after each run would take most of its time
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        with warnings.catch_warnings(), _logging_to(lambda _: None):
            warnings.simplefilter("ignore")
            gc.collect()
        sys.unraisablehook = before
