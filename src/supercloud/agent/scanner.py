"""`python3 -m supercloud.agent.scanner MEMORY`: scans an instance's memory by YARA's rules, with no right to
do anything else.

One scan. Its standard input says by which rules, as one line; its standard output which matched and where.
Rules are compiled here, where neither they nor the memory can do harm. It ends with whoever began it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from supercloud.agent.looker import confine
from supercloud.agent.taker import Part, end_with_who_began, parts_of, written
from supercloud.model.errors import SupercloudError
from supercloud.model.memory import Span
from supercloud.model.names import MIB
from supercloud.security.memoryscan import Match, compiled, scanned
from supercloud.wire.codec import to_json

_READ: Final = MIB


def pieces(memory: int, parts: Iterable[Part]) -> Iterator[tuple[int, bytes]]:
    for part in parts:
        for at in range(0, part.length, _READ):
            length = min(_READ, part.length - at)
            yield part.address + at, os.pread(memory, length, part.offset + at).ljust(length, b"\0")


def main() -> None:
    memory = int(sys.argv[1])
    asked = json.loads(sys.stdin.readline())
    compiled("rule rehearsed { condition: false }").match(data=b"")
    to_json(tuple[Match, ...], ())
    confine()
    end_with_who_began()  # after the user is another's, which would take it away
    seconds = int(asked["seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds + 5, seconds + 5))
    try:
        rules = compiled(str(asked["rules"]))
        spans = [Span(**one) for one in asked["spans"]]
        found = scanned(rules, pieces(memory, parts_of(spans, written(memory))), seconds=seconds)
        answer = {"found": to_json(tuple[Match, ...], found)}
    except (SupercloudError, MemoryError, OSError) as error:
        answer = {"failed": str(error)[:200] or type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
