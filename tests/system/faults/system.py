"""One cloud to try faults on: two blankets in two domains, and the instance that is watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from supercloud.cli.control import ControlPlane
from supercloud.cli.demo.load import console_log
from supercloud.client import Client, Place
from supercloud.client.http import OPEN_STATES
from supercloud.keystore.userdata import seal_user_data
from supercloud.model.errors import Conflict, Failed, NotFound, SupercloudError, Unavailable
from supercloud.model.names import GIB

from .guest import USER_DATA, Told, told
from .machines import Machine

SUBJECT = "subject"
_ENDED = frozenset({"stopped", "fenced", "failed", "created"})
T = TypeVar("T")
_LOOK_S = 1.0
_RESET_S, _RENEWED_S = 120.0, 120.0
_CONNECT_S = 600.0
_BOOT_S = 900.0


class Late(Exception):
    """Something that has to come did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """`blankets`: name and provider of each. `debug_shell`: how one that is made anew is born."""

    place: Place
    cloud: str
    network: str
    image: str
    blankets: dict[str, str]
    debug_shell: bool = False
    memory_mib: int = 1536
    boots: set[str] = field(default_factory=set)  # of the subject, that were heard of

    # ------------------------------------------------------------ asking

    def client(self) -> Client:
        return Client(self.place.access())

    def control(self) -> ControlPlane:
        return ControlPlane(self.place)

    def up(self) -> None:
        self.control().up(api_port=None, agents_port=None)

    def machine(self, blanket: str) -> Machine:
        client = self.client()
        provider = client.get(f"/providers/{self.blankets[blanket]}")["id"]
        found = client.get(f"/blankets/{blanket}", cloud=self.cloud)["id"]
        return Machine(self.place.home / "controlplane" / "platforms", provider, found)

    def blanket(self, name: str) -> dict[str, Any]:
        return dict(self.client().get(f"/blankets/{name}", cloud=self.cloud))

    def subject(self) -> dict[str, Any]:
        return dict(self.client().get(f"/instances/{SUBJECT}", cloud=self.cloud))

    def other(self, blanket: str) -> str:
        return next(name for name in self.blankets if name != blanket)

    def told(self) -> Told:
        """What the subject said in the blanket where it is now.

        Raises:
            Unavailable: that blanket is silent.
        """
        said = told(console_log(self.client(), self.subject()["id"]))
        self.boots.update(said.boots)
        return said

    def outlast_s(self) -> float:
        """Longer than a right, its margin and the store's next look take."""
        terms = self.client().get(f"/clouds/{self.cloud}")
        return float(terms["right_length_s"] + terms["right_margin_s"] + 10)

    # ------------------------------------------------------------ doing

    def act(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begin an operation on the subject."""
        return dict(self.client().post(f"/instances/{SUBJECT}/{verb}", body, cloud=self.cloud))

    def rotate(self) -> dict[str, Any]:
        return dict(self.client().post(f"/clouds/{self.cloud}/rotate-keys"))

    def reach(self, operation: dict[str, Any], there: Callable[[dict[str, Any]], bool]) -> bool:
        """Follow an operation until it is `there`; whether it got there before it ended."""
        client, seen = self.client(), operation
        while seen["state"] in OPEN_STATES and not there(seen):
            seen = client.get(f"/operations/{operation['id']}", wait_s=10, seen_phase=seen["phase"])
        return seen["state"] in OPEN_STATES

    def finished(self, operation: dict[str, Any], *, timeout_s: float) -> str:
        """How it ended, in words. A restored store may know nothing of it."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                seen = self.client().get(f"/operations/{operation['id']}", wait_s=10)
            except NotFound:
                return "forgotten"
            except Unavailable:
                time.sleep(_LOOK_S)  # whether the control plane is back has no event
            else:
                if seen["state"] not in OPEN_STATES:
                    return f"{seen['state']}: {seen['error']['message']}" if seen["error"] else seen["state"]
            if time.monotonic() > deadline:
                raise Late(f"the operation did not end in {timeout_s:.0f} s")

    def until_left(self, machine: Machine) -> None:
        """Until its watchdog has reset it, which ends its agent's connection.

        Raises:
            Late.
        """
        (name,) = [one for one in self.blankets if self.blanket(one)["id"] == machine.id]
        deadline = time.monotonic() + _RESET_S
        while self.blanket(name)["connected"]:
            if time.monotonic() > deadline:
                raise Late(f"the watchdog of {name} did not reset it in {_RESET_S:.0f} s")
            time.sleep(_LOOK_S)  # a blanket's connection has no event

    def until_renewed(self) -> None:
        """Until the subject's right is renewed, if it has one.

        Raises:
            Late.
        """
        deadline = time.monotonic() + _RENEWED_S
        before = None
        while (left := self.subject()["right_left_s"]) is not None and (before is None or left <= before):
            if time.monotonic() > deadline:
                raise Late(f"its right was not renewed in {_RENEWED_S:.0f} s")
            before = left
            time.sleep(_LOOK_S)  # a renewal is no event to whoever watches

    # ------------------------------------------------------------ in order

    def ready(self) -> None:
        """Whatever was done to it: both blankets accepted and connected, the subject running and syncing.

        Raises:
            Late; SupercloudError.
        """
        self.up()
        for name in self.blankets:
            self._blanket_ready(name)
        self._subject_ready()

    def mend(self) -> None:
        """Undo what was done from outside; nothing is asked of the control plane but where things are."""
        self.up()
        for name in self.blankets:
            with suppress(NotFound):
                self.machine(name).mend()

    def _blanket_ready(self, name: str) -> None:
        with suppress(NotFound):
            self.machine(name).mend()
            deadline = time.monotonic() + _CONNECT_S
            while time.monotonic() < deadline:
                seen = self.blanket(name)
                if seen["connected"] and seen["state"] == "ready":
                    return
                if seen["state"] in ("revoked", "failed"):
                    break
                time.sleep(_LOOK_S)
            self.remove_blanket(name)
        self._wait(self._add_blanket(name))

    def add_blankets(self) -> None:
        """Both at once."""
        for operation in [self._add_blanket(name) for name in self.blankets]:
            self._wait(operation)

    def remove_blanket(self, name: str) -> None:
        self._wait(self.client().delete(f"/blankets/{name}", cloud=self.cloud, force="true"))

    def _add_blanket(self, name: str) -> dict[str, Any]:
        request = {
            "name": name,
            "cloud": self.cloud,
            "provider": self.blankets[name],
            "flavour": "kvm",
            "memory_mib": self.memory_mib,
            "disk_bytes": 20 * GIB,
            "debug_shell": self.debug_shell,
        }
        return dict(self.client().post("/blankets", request))

    def _subject_ready(self) -> None:
        deadline = time.monotonic() + _BOOT_S
        last: Exception | None = None
        while time.monotonic() < deadline:
            try:
                if self._nudge():
                    self.talks(lambda said: said if said.synced > 0 else None)
                    return
            except (SupercloudError, Late) as error:
                last = error
            time.sleep(_LOOK_S)
        raise Late(f"the subject does not run: {last or self.subject()['reason']}")

    def _nudge(self) -> bool:
        """Bring the subject a step nearer to running; whether it runs."""
        try:
            seen = self.subject()
        except NotFound:
            self._run_subject()
            return True
        if seen["state"] == "running":
            return True
        if seen["state"] in _ENDED:
            if seen["blanket"] is None:
                self._remove_subject()
                self._run_subject()
            else:
                self._wait(self.act("start"))
            return True
        return False

    def _run_subject(self) -> None:
        request = {
            "name": SUBJECT,
            "cloud": self.cloud,
            "image": self.image,
            "on": next(iter(self.blankets)),
            "memory_mib": 256,
            "networks": [self.network],
            "user_data": seal_user_data(self.place.keystore_socket, USER_DATA.encode(), instance=SUBJECT),
        }
        self._wait(self.client().post("/instances", request))

    def _remove_subject(self) -> None:
        self._wait(self.client().delete(f"/instances/{SUBJECT}", cloud=self.cloud, force="true"))

    def forget_subject(self) -> None:
        """Where its data are known to nobody any more, or it is not needed any more."""
        with suppress(NotFound, Conflict):
            self._remove_subject()

    def talks(self, enough: Callable[[Told], T | None]) -> T:
        """Wait for what the subject says from now on, until it is `enough`.

        What its blanket kept of before, maybe of when it was there last, does not count: a guest that runs
        says something new every few seconds.
        """
        deadline = time.monotonic() + _BOOT_S
        before: Told | None = None
        while time.monotonic() < deadline:
            with suppress(Unavailable, NotFound, Failed):
                said = self.told()
                before = before or said
                new = said.looks and said.looks[-1:] != before.looks[-1:]
                if new and (found := enough(said)) is not None:
                    return found
                if (state := self.subject()["state"]) in _ENDED:
                    raise Late(f"the subject is {state}")
            time.sleep(_LOOK_S)  # a console's log has no event
        raise Late("the subject says nothing of its disk")

    def _wait(self, operation: dict[str, Any]) -> None:
        self.client().wait(operation, lambda _phase, _done: None)
