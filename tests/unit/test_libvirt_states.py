"""What an instance is, as libvirt says it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from supercloud.blanket.libvirt import hypervisor
from supercloud.ports.agent import RunState

pytestmark = pytest.mark.unit


class NoDomain(Exception):
    """libvirt's error of a domain that it does not know any more."""

    def get_error_code(self) -> int:
        return _LIBVIRT.VIR_ERR_NO_DOMAIN


#: libvirt's own numbers, fixed by its ABI.
_LIBVIRT = SimpleNamespace(
    VIR_DOMAIN_RUNNING=1,
    VIR_DOMAIN_BLOCKED=2,
    VIR_DOMAIN_PAUSED=3,
    VIR_DOMAIN_SHUTDOWN=4,
    VIR_DOMAIN_PMSUSPENDED=7,
    VIR_ERR_NO_DOMAIN=42,
    libvirtError=NoDomain,
)
_SHUT_OFF = 5


class Found:
    """A domain that libvirt forgets after `answers` answers."""

    def __init__(self, answers: int) -> None:
        self._answers = answers

    def state(self) -> list[int]:
        self._answer()
        return [_SHUT_OFF, 0]

    def isPersistent(self) -> int:  # noqa: N802 - libvirt's name
        self._answer()
        return 1

    def _answer(self) -> None:
        if not self._answers:
            raise NoDomain
        self._answers -= 1


@pytest.mark.parametrize(
    ("answers", "state"), [(0, RunState.ABSENT), (1, RunState.ABSENT), (2, RunState.DEFINED)]
)
def test_what_is_forgotten_while_it_is_asked_about_is_absent(
    answers: int, state: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor, "bindings", lambda: _LIBVIRT)
    assert hypervisor.run_state(Found(answers)) is state
