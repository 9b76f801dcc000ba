"""The agent's life, over whatever drivers it is given: who it is, then the agent and its keeper's link."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog

from supercloud.agent.agent import BlanketAgent, Drivers
from supercloud.agent.birth import Birth, read_birth
from supercloud.agent.dial import Dialer, join, rejoin
from supercloud.agent.identity import Passport, Safe
from supercloud.agent.journal import Journal
from supercloud.agent.keeperlink import AgentRelay, KeeperLink
from supercloud.blanket.clock import BlanketClock
from supercloud.keeper.link import KeeperPort
from supercloud.model.errors import Conflict, Denied, SupercloudError

JOURNAL = Path("/var/lib/supercloud/journal/agent.sqlite")
_LONGEST_WAIT_S = 15.0
_log = structlog.get_logger(__name__)


async def identify(birth: Birth, safe: Safe) -> Passport:
    """This blanket's identity: kept, or got by joining. Waits for the control plane as long as it takes.

    Raises:
        Denied, Conflict: this blanket will not be let in.
    """
    keys = safe.keys()
    failures = 0
    while True:
        try:
            answer = safe.certificate()
            if answer is None:
                answer = await join(birth, keys)
                safe.keep(answer)
                _log.info("agent.joined")
            passport = Passport(safe, keys, answer)
            if passport.identity.expires_at <= time.time():
                await rejoin(birth.endpoint, passport)
        except (Denied, Conflict):
            raise
        except SupercloudError as error:
            failures += 1
            _log.info("agent.not_joined", reason=error.message, failures=failures)
            longest_s = min(_LONGEST_WAIT_S, 0.5 * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0.1, longest_s))  # noqa: S311 - not for secrecy
        else:
            return passport


async def serve(drivers: Callable[[Birth], AbstractAsyncContextManager[Drivers]]) -> None:
    """Until SIGTERM or SIGINT. Instances, transfers and the keeper go on without us."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    birth = read_birth()
    passport = await identify(birth, Safe())
    journal = Journal(JOURNAL)
    links: list[KeeperLink] = []

    def keeper(relay: AgentRelay) -> KeeperPort:
        links.append(KeeperLink(relay))
        return links[0]

    try:
        async with drivers(birth) as found, asyncio.TaskGroup() as group:
            agent = BlanketAgent(
                drivers=found,
                journal=journal,
                passport=passport,
                clock=BlanketClock(),
                dialer=Dialer(birth.endpoint, passport),
                keeper=keeper,
            )
            group.create_task(links[0].run())
            await links[0].connected()
            group.create_task(agent.run())
    finally:
        journal.close()
