"""What a blanket is born with: a file that the platform hands to this machine alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from supercloud.model.errors import Failed
from supercloud.model.names import Endpoint, Id, Name, Port
from supercloud.wire.codec import from_json

#: By QEMU's firmware, or where the platform has no such thing on a disk of its own, filled up with zeros.
BIRTH = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/supercloud/birth/raw")
BIRTH_DISK = Path("/dev/vdd")
_LIMIT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    blanket: Id
    cloud: Id
    name: Name
    endpoint: Endpoint  # the control plane, as this blanket reaches it
    authority_pem: str
    secret: str = field(repr=False)  # single use: the join's proof
    wireguard_port: Port = 51820
    debug_shell: bool = False  # heeded before the agent starts


def read_birth(path: Path = BIRTH, disk: Path = BIRTH_DISK) -> Birth:
    """Raises: Failed, without quoting what it read; InvalidInput, naming the field."""
    try:
        with (path if path.exists() else disk).open("rb") as file:
            said = json.loads(file.read(_LIMIT_BYTES).rstrip(b"\0"))
    except (OSError, ValueError) as error:
        raise Failed(f"this machine has no birth data: {type(error).__name__}") from error
    return from_json(Birth, said)
