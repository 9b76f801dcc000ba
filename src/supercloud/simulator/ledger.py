"""The store of rights, watched: what it answers lasts a full length from after its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supercloud.model.names import Id
from supercloud.model.right import RunRight
from supercloud.ports.controller import RenewalAnswer
from supercloud.ports.rights import Decision
from supercloud.services.store.rights import Heartbeat, SqlRights

if TYPE_CHECKING:
    from supercloud.simulator.controller import SimController

_ROUNDING_S = 1e-6


class WatchedRights(SqlRights):
    """The product's, checked at each answer that carries a right."""

    controller: SimController

    async def issue(self, instance: Id, *, to: Id, operation: Id) -> RunRight:
        self._begin()
        return self._checked(await super().issue(instance, to=to, operation=operation))

    async def renew_all(self, asked: Sequence[Heartbeat]) -> list[list[RenewalAnswer]]:
        self._begin()
        answers = await super().renew_all(asked)
        commit = self.controller.disk.committed_by(asyncio.current_task())
        for answer in (one for of_one in answers for one in of_one):
            if answer.right is not None:
                self._check(answer.right, commit)
        return answers

    async def commit(self, operation: Id, *, source_gone: bool) -> Decision:
        self._begin()
        decision = await super().commit(operation, source_gone=source_gone)
        if decision.right is not None:
            self._checked(decision.right)
        return decision

    def _begin(self) -> None:
        """What this task committed before is another answer's."""
        self.controller.disk.committed_by(asyncio.current_task())

    def _checked(self, right: RunRight) -> RunRight:
        self._check(right, self.controller.disk.committed_by(asyncio.current_task()))
        return right

    def _check(self, right: RunRight, committed_at: float | None) -> None:
        """`committed_at`: true time of the first commit of the task that answers."""
        controller = self.controller
        row = controller.row(
            "SELECT expires_at FROM rights WHERE instance = ? AND epoch = ? AND holder = ?",
            right.instance,
            right.epoch,
            right.blanket,
        )
        if row is not None and committed_at is not None:
            since = committed_at - controller.world.loop.true_s + controller.clock()
            short = since + right.length_s - row[0]
            if short > _ROUNDING_S:
                controller.world.observer.violate("the store counts a right from before its commit")
