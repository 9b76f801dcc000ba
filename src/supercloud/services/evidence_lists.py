"""What blankets keep as evidence, as each said last: however many look at lists, each is asked once.

What a blanket keeps changes as it goes on with an incident, and as somebody removes some. Both are told, and
what it said before counts no more then, so that whoever is told and looks again sees what there is now.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final

from supercloud.model.errors import SupercloudError
from supercloud.model.kinds import Kind
from supercloud.model.names import Id
from supercloud.ports.evidence import REMOVED, EvidenceReport
from supercloud.services.agents import Agents
from supercloud.services.feed import Feed
from supercloud.services.store.changes import Act, Change

#: So many blankets are asked at once, and each for so long (seconds).
_AT_ONCE: Final = 32
_ASK_S: Final = 5.0
#: What one said counts for so long, if nothing is told; that it said nothing, for so long (seconds).
COUNTS_S: Final = 30.0
FAILED_COUNTS_S: Final = 5.0
_AWAY: Final = "it is not connected"


@dataclass(slots=True)
class _Asked:
    """`line`: of the feed, as it was asked; of another line nobody knows what was not told."""

    answer: asyncio.Task[list[EvidenceReport] | str]
    line: str
    until: float = math.inf  # by the loop's clock


class EvidenceLists:
    """Of one controller, of the blankets that are connected to it."""

    def __init__(self, agents: Agents, feed: Feed) -> None:
        self._agents = agents
        self._feed = feed
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._asked: dict[Id, _Asked] = {}
        feed.listeners.append(self._told)

    async def of(self, blanket: Id) -> list[EvidenceReport] | str:
        """What it keeps, or why that is not known."""
        if not self._agents.is_connected(blanket):
            self.forget(blanket)
            return _AWAY
        line = self._feed.now.line
        asked = self._asked.get(blanket)
        if asked is None or asked.line != line or asked.until <= asyncio.get_running_loop().time():
            asked = self._asked[blanket] = _Asked(asyncio.create_task(self._ask(blanket)), line)
            asked.answer.add_done_callback(lambda task: self._answered(blanket, task))
        return await asyncio.shield(asked.answer)  # others wait for it, too

    def forget(self, blanket: Id) -> None:
        """Whoever wants to know from now on asks it."""
        self._asked.pop(blanket, None)

    async def _ask(self, blanket: Id) -> list[EvidenceReport] | str:
        try:
            async with self._turns, asyncio.timeout(_ASK_S):
                return await self._agents.agent(blanket).evidence.list()
        except SupercloudError as error:
            return error.message
        except TimeoutError:
            return "it does not answer"

    def _answered(self, blanket: Id, task: asyncio.Task[list[EvidenceReport] | str]) -> None:
        asked = self._asked.get(blanket)
        if asked is None or asked.answer is not task:
            return
        if task.cancelled() or task.exception() is not None:
            self.forget(blanket)
        else:
            counts_s = FAILED_COUNTS_S if isinstance(task.result(), str) else COUNTS_S
            asked.until = asyncio.get_running_loop().time() + counts_s

    def _told(self, changes: tuple[Change, ...]) -> None:
        for one in changes:
            if one.kind is Kind.BLANKET and one.act is Act.REMOVED:
                self.forget(one.id)
            elif one.kind is Kind.INCIDENT or (one.kind is Kind.REPORT and one.name == REMOVED):
                self.forget((one.data or {}).get("blanket", ""))
