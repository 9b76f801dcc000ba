"""What OpenC2 names a command by: an action and its target (OpenC2 Language Specification 1.0, 3.3.1)."""

from __future__ import annotations

from enum import StrEnum


class ActionTarget(StrEnum):
    """`action:target`."""

    @property
    def action(self) -> str:
        return self.value.partition(":")[0]

    @property
    def target(self) -> str:
        return self.value.partition(":")[2]
