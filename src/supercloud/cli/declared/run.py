"""Carrying a plan out: each step as soon as what it needs is done, several at once.

Every step is one request, and most are answered with a durable operation, which goes on whoever watches. So a
run that ends early leaves nothing half done that the next one would not see.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from supercloud.cli.declared.steps import Act, Key, Plan, Step
from supercloud.cli.output import Board
from supercloud.cli.session import usual_s
from supercloud.client import Client
from supercloud.model.errors import Failed, NotFound, SupercloudError
from supercloud.model.names import Id, Name


class Outcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEFT = "goes on"  # by itself: nobody waited for its end
    NOT_BEGUN = "not begun"


@dataclass(slots=True)
class Result:
    """Of one step, so far."""

    outcome: Outcome = Outcome.NOT_BEGUN
    operation: Id | None = None
    error: SupercloudError | None = None


class Run:
    """After `all`, `results` has one for each step, however it ended. `seal` encrypts user data for the
    instance of a name, as the API takes it."""

    def __init__(
        self,
        plan: Plan,
        connect: Callable[[], Client],
        seal: Callable[[str, Name], dict[str, Any]],
        board: Board,
        *,
        at_once: int,
    ) -> None:
        self._connect = connect
        self._seal = seal
        self._board = board
        self._at_once = at_once
        self._left = {step.key: step for step in plan.steps}
        self._under_way: set[Key] = set()
        self._ended: queue.SimpleQueue[Key] = queue.SimpleQueue()
        self._cancelling = False
        self.results: dict[Key, Result] = {key: Result() for key in self._left}

    def all(self) -> None:
        """Until nothing is under way and nothing more can begin.

        Ctrl-C begins nothing more and asks for what is under way to be cancelled; a second one leaves it.

        Raises:
            KeyboardInterrupt: after that, once everything is settled.
        """
        interrupted = False
        while True:
            try:
                if not interrupted:
                    self._begin()
                if not self._under_way:
                    break
                self._under_way.discard(self._ended.get())
            except KeyboardInterrupt:
                if interrupted:
                    self._leave()
                    raise
                interrupted = True
                self._cancel()
        if interrupted:
            raise KeyboardInterrupt

    def _begin(self) -> None:
        """What can begin now. After a failure the rest goes on, but nothing is taken away any more."""
        failed = any(one.error is not None for one in self.results.values())
        for key, step in list(self._left.items()):
            if len(self._under_way) >= self._at_once:
                return
            ready = all(self.results[need].outcome is Outcome.DONE for need in step.needs)
            if ready and not (failed and step.act.takes_away):
                del self._left[key]
                self._under_way.add(key)
                # A daemon, so that who leaves does not wait for it; a thread, since the client waits.
                threading.Thread(target=self._work, args=(step,), daemon=True).start()

    def _cancel(self) -> None:
        """A step whose operation is not known yet asks for its cancellation itself, once it is."""
        self._cancelling = True
        with suppress(SupercloudError):
            client = self._connect()
            for key in sorted(self._under_way):
                if (operation := self.results[key].operation) is not None:
                    with suppress(SupercloudError):
                        client.post(f"/operations/{operation}/cancel")

    def _leave(self) -> None:
        for key in self._under_way:
            self.results[key] = Result(Outcome.LEFT, self.results[key].operation)

    # ------------------------------------------------------------ in a thread of its own

    def _work(self, step: Step) -> None:
        result = self.results[step.key]
        try:
            self._do(step, result)
        except NotFound as error:
            # What is not there any more is taken away, whoever did that, or however often it is asked for.
            gone = step.act is Act.REMOVE
            result.outcome = Outcome.DONE if gone else Outcome.FAILED
            result.error = None if gone else error
        except SupercloudError as error:
            result.outcome = Outcome.CANCELLED if self._cancelling else Outcome.FAILED
            result.error = error
        except Exception as error:  # noqa: BLE001 - a bug ends its step, and is told
            result.outcome = Outcome.FAILED
            result.error = Failed(f"a bug: {type(error).__name__}: {error}")
        else:
            result.outcome = Outcome.DONE
        finally:
            self._ended.put(step.key)

    def _do(self, step: Step, result: Result) -> None:
        client = self._connect()
        with self._board(title(step)) as bar:
            bar("", None)
            answer = self._ask(client, step)
            if not step.call.durable:
                bar("done", None)
                return
        result.operation = answer["id"]
        if self._cancelling:
            answer = client.post(f"/operations/{result.operation}/cancel")
        with self._board(title(step), usual_s=usual_s(client, answer)) as bar:
            client.wait(answer, bar)
            bar("done", None)

    def _ask(self, client: Client, step: Step) -> Mapping[str, Any]:
        call = step.call
        if call.method == "GET":
            found: Mapping[str, Any] = client.get(call.path, **call.query)
            return found
        if call.method == "DELETE":
            return client.delete(call.path, **call.query) or {}
        body = call.body
        if call.method == "PUT":
            replaced: Mapping[str, Any] = client.put(call.path, body or {}, **call.query)
            return replaced
        if call.user_data is not None:
            body = {**(body or {}), "user_data": self._seal(call.user_data, step.name)}
        answered: Mapping[str, Any] = client.post(call.path, body, **call.query)
        return answered


def title(step: Step) -> str:
    return f"{step.act} {step.kind} {step.name}"
