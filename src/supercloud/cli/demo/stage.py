"""What every attack on the demo needs: guests of its own, what is on their consoles, and what the loops told.

Nothing here tells a detector anything. What was found and done is read where any user reads it, in incidents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from websockets.exceptions import WebSocketException

from supercloud.cli.demo.load import Seen, console_log, seen
from supercloud.cli.demo.scenario import BLANKETS, CLIENT, CLOUD, IMAGE, NETWORK, SERVER
from supercloud.cli.demo.traces import Line, marked
from supercloud.client import Client, Place
from supercloud.model.errors import Failed, NotFound, SupercloudError, Unavailable

T = TypeVar("T")
#: Deadlines, generous for a machine that emulates everything twice.
BOOT_S, FOUND_S, CLOSED_S = 1200.0, 300.0, 60.0
#: So often whoever waits is told for what.
_TOLD_S = 60.0


class NotContained(Failed):
    """An attack went further than it should have."""


class NotMade(Failed):
    """An attack could not be made, or not to its end, so that it shows nothing."""


@dataclass(slots=True)
class Outcome:
    """Of one attack. `moments_s` and the timeline count from its first act. `made`: to its end; what was not
    is not contained either."""

    name: str
    attack: str
    made: bool = False
    contained: bool = False
    why: str = ""  # not
    moments_s: dict[str, float] = field(default_factory=dict)
    timeline: list[Line] = field(default_factory=list)

    @property
    def says(self) -> str:
        if self.contained:
            return "contained"
        return f"{'NOT contained' if self.made else 'could NOT be made'}: {self.why}"

    def public(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "attack": self.attack,
            "made": self.made,
            "contained": self.contained,
            "why": self.why,
            "moments_s": {name: round(moment, 2) for name, moment in self.moments_s.items()},
            "timeline": [one.public() for one in self.timeline],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """An instance that is an attacker's, or prey. `port`: of its, that is published."""

    name: str
    on: str
    user_data: str
    port: int | None = None


class Stage:
    """Of one attack: incidents that were there before are none of its."""

    def __init__(self, place: Place, say: Callable[[str], None]) -> None:
        self._place = place
        self.say = say
        self._known: set[str] = set()

    def client(self) -> Client:
        return Client(self._place.access())

    # ------------------------------------------------------------ incidents

    def begin(self) -> None:
        """What is found now would be joined to open ones, and their past be told as this attack's."""
        client = self.client()
        for row in client.all("/incidents", cloud=CLOUD, open_only=True):
            self.say(f"closing an incident of before: {row['title']}")
            client.post(f"/incidents/{row['id']}/close", {"undo": False})
        self._known = {row["id"] for row in client.all("/incidents", cloud=CLOUD)}

    def undo(self) -> None:
        """All that its incidents have left in force, however late blankets tell of it."""
        closing: set[str] = set()

        def closed() -> bool | None:
            client = self.client()
            rows = client.all("/incidents", cloud=CLOUD, open_only=True)
            there = {row["id"] for row in rows} - self._known
            for one in there - closing:
                client.post(f"/incidents/{one}/close", {"undo": True})
            closing.update(there)
            return None if there else True

        try:
            self.until(closed, CLOSED_S, "incidents to be closed")
        except NotContained:
            self.say(f"not every incident of it is closed yet: supercloud incident ls --cloud {CLOUD} --open")

    def details(self) -> list[dict[str, Any]]:
        """Its incidents, whole."""
        client = self.client()
        rows = client.all("/incidents", cloud=CLOUD)
        return [client.get(f"/incidents/{row['id']}") for row in rows if row["id"] not in self._known]

    def detail(self, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """One like that, if there is one."""
        return next((one for one in self.details() if met(one)), None)

    def await_detail(
        self, met: Callable[[dict[str, Any]], bool], what: str, *, timeout_s: float = FOUND_S
    ) -> dict[str, Any]:
        return self.until(lambda: self.detail(met), timeout_s, what)

    # ------------------------------------------------------------ guests

    @contextmanager
    def guests(self, *wanted: Guest) -> Iterator[list[dict[str, Any]]]:
        """As the API shows them, once they are begun: they boot then. Their addresses are in this order."""
        names = [one.name for one in wanted]
        self._remove(names)  # of an attack that was cut short
        begun: list[dict[str, Any]] = []
        try:
            client = self.client()
            for one in wanted:
                begun.append(self._begun(client, one))
            while begun:
                client.wait(begun[0], nobody)
                begun.pop(0)
            yield [client.get(f"/instances/{name}", cloud=CLOUD) for name in names]
        finally:
            self._give_up(begun)
            self._remove(names)

    def _give_up(self, operations: Sequence[dict[str, Any]]) -> None:
        client = self.client()
        for one in operations:
            with suppress(SupercloudError):  # it may have ended this moment, or end with what stopped it
                client.wait(client.post(f"/operations/{one['id']}/cancel"), nobody)

    def _begun(self, client: Client, wanted: Guest) -> Any:
        from supercloud.keystore.userdata import seal_user_data

        keys, data = self._place.keystore_socket, wanted.user_data.encode()
        return client.post(
            "/instances",
            {
                "name": wanted.name,
                "cloud": CLOUD,
                "image": IMAGE,
                "on": wanted.on,
                "memory_mib": 256,
                "networks": [NETWORK],
                "publish": [{"port": wanted.port}] if wanted.port else [],
                "user_data": seal_user_data(keys, data, instance=wanted.name),
            },
        )

    def _remove(self, names: Sequence[str]) -> None:
        client, begun = self.client(), []
        for name in names:
            with suppress(NotFound):
                begun.append(client.delete(f"/instances/{name}", cloud=CLOUD, force="true"))
        for operation in begun:
            client.wait(operation, nobody)

    def has_said(self, instance: str, text: str) -> bool:
        return text in self._console(instance)

    def says(self, instance: str, mark: str, kind: type[T]) -> list[T]:
        """Its lines on its console so far; none while that cannot be read."""
        return marked(self._console(instance), mark, kind)

    def _console(self, instance: str) -> str:
        with suppress(SupercloudError, WebSocketException, OSError):
            return console_log(self.client(), instance)
        return ""

    # ------------------------------------------------------------ the demo's own

    def running(self) -> dict[str, Any] | None:
        """Its server, if that runs."""
        found: dict[str, Any] = self.client().get(f"/instances/{SERVER}", cloud=CLOUD)
        return found if found["state"] == "running" else None

    def load(self) -> list[Seen]:
        return seen(console_log(self.client(), CLIENT))

    def until(
        self,
        look: Callable[[], T | None],
        timeout_s: float,
        what: str,
        *,
        error: type[Failed] = NotContained,
    ) -> T:
        """What `look` finds. Whoever cannot be reached for a moment is asked again.

        Raises:
            NotContained: nothing in that time; or `error`, where an attack cannot be made without it.
            NotMade: whoever knows could not be reached in the end, so that nobody can say.
        """
        began = time.monotonic()
        told, away = began, ""
        while True:
            try:
                if (found := look()) is not None:
                    return found
                away = ""
            except Unavailable as unavailable:
                away = f" ({unavailable.message})"
            now = time.monotonic()
            if now - began > timeout_s:
                raise (NotMade if away else error)(f"waited {timeout_s:.0f} s in vain for {what}{away}")
            if now - told >= _TOLD_S:
                told = now
                self.say(f"{now - began:.0f} s, of {timeout_s:.0f} s at most, for {what}{away}")
            time.sleep(0.5)  # as cli.demo.scenario: of what is looked at here nobody tells


def other(blanket: str) -> str:
    return next(name for name in BLANKETS if name != blanket)


def nobody(phase: str, done: float | None) -> None:
    """Nobody watches."""
