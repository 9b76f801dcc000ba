"""Which UDP port of the host's loopback leads to which blanket."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from supercloud.model.errors import Exhausted


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange:
    """UDP ports that machines may take, both ends included."""

    first: Annotated[int, Field(ge=1024, le=65535)]
    last: Annotated[int, Field(ge=1024, le=65535)]

    def candidates(self, machine: str, taken: Container[int], *, count: int = 1) -> Iterator[int]:
        """Free ports, each with `count - 1` more after it, in the order to try them: always the same start
        for a machine, so that domains with state of their own seldom meet, and a port that was lost is likely
        to be found again.

        Raises:
            Exhausted: after the last.
        """
        size = max(0, self.last - self.first + 1)
        start = zlib.crc32(machine.encode())
        for step in range(size):
            port = self.first + (start + step) % size
            block = range(port, port + count)
            if block[-1] <= self.last and not any(one in taken or not is_free(one) for one in block):
                yield port
        raise Exhausted(
            f"no UDP port is free on the loopback from {self.first} to {self.last}",
            hint="destroy a blanket, or give the domain a wider range of ports",
        )


def is_free(port: int) -> bool:
    """Whether a UDP port of the loopback can be bound now. It may be taken right after."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
