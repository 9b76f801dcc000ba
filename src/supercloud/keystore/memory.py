"""A key store without a process or a disk, for the simulation and tests: the same rules, over memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.vault import Vault


def memory_keystore(*, now: Callable[[], float] = time.time) -> OwnedKeyStore:
    """A fresh key store; `now` is its wall clock, in seconds since the epoch."""
    return OwnedKeyStore.begin(Vault.in_memory(), now=now)
