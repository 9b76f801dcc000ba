"""cloud-init's NoCloud seed: a small ISO 9660 image labelled `cidata`.

It may hold the user's secrets, so it lives on tmpfs, and is built again wherever it is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from supercloud.ports.agent import InstanceSpec

_NO_USER_DATA = b"#cloud-config\n{}\n"


def files(spec: InstanceSpec, user_data: bytes | None) -> dict[str, bytes]:
    """The seed's files. The network configuration names NICs by their MAC and leaves addresses to DHCP."""
    meta: dict[str, Any] = {
        "instance-id": spec.id,
        "local-hostname": spec.name,
        "public-keys": {f"key-{index}": key for index, key in enumerate(spec.ssh_keys)},
    }
    ethernets = {
        f"nic{index}": {"match": {"macaddress": nic.mac}, "dhcp4": True}
        for index, nic in enumerate(spec.nics)
    }
    return {
        # JSON is YAML, so nothing that a user chose can change the documents' shape.
        "meta-data": json.dumps(meta).encode(),
        "network-config": json.dumps({"version": 2, "ethernets": ethernets}).encode(),
        "user-data": user_data or _NO_USER_DATA,
    }


def build(spec: InstanceSpec, user_data: bytes | None) -> bytes:
    """The image. The same values give the same files in it."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for index, (name, content) in enumerate(sorted(files(spec, user_data).items())):
        image.add_fp(
            io.BytesIO(content),
            len(content),
            f"/FILE{index}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue()


def place(spec: InstanceSpec, user_data: bytes | None, path: Path) -> None:
    """Write the seed for root alone, whole or not at all. A QEMU that has the old one open keeps it."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(build(spec, user_data))
        part.rename(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
