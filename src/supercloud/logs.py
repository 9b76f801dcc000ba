"""How every program logs: a line of JSON for each event, on stderr, bounded where that is a file.

structlog can draw tracebacks with rich as well, and loads it for that wherever it is installed: with pygments
five megabytes that a program which logs JSON never uses. So it is loaded here without. Who wants that has to
import this before anything else that logs.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

_RICH: Final = "rich"
_without = not {_RICH, "structlog"} & sys.modules.keys()
if _without:
    sys.modules[_RICH] = None  # type: ignore[assignment] # as if it were not installed
try:
    import structlog
    from structlog.typing import EventDict, Processor, WrappedLogger
finally:
    if _without:
        del sys.modules[_RICH]

_FILE_BYTES: Final = 8 << 20
#: Looking costs a system call; so many events are far below a megabyte.
_LOOK_EVERY: Final = 64


def configure(*, level: int = logging.NOTSET, file_bytes: int = _FILE_BYTES) -> None:
    """Of a file twice `file_bytes` are kept: the file itself, and what it held before as `FILE.1`."""
    structlog.configure(
        processors=[
            _bounded(file_bytes),
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,  # the plain one: local variables may be keys
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _bounded(file_bytes: int) -> Processor:
    """Copied and cut, not renamed: whoever else writes to the same open file goes on writing to it."""
    seen = 0

    def look(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        nonlocal seen
        seen += 1
        if seen % _LOOK_EVERY == 0:
            _cut(sys.stderr.fileno(), file_bytes)
        return event

    return look


def _cut(descriptor: int, file_bytes: int) -> None:
    try:
        now = os.fstat(descriptor)
        if stat.S_ISREG(now.st_mode) and now.st_size > file_bytes:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.ftruncate(descriptor, 0)
    except OSError:
        return  # a disk that is full, or a file that is gone: the next look tries again
