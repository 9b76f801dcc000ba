"""Keys as libvirt's secrets: private, ephemeral, and set again whenever libvirtd comes back without them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from supercloud.blanket.keyring import Keyring
from supercloud.blanket.libvirt.connection import Connection, Handle, bindings
from supercloud.model.names import Id


class LibvirtSecrets:
    """What QEMU's libvirt may look up. The keyring says what is there; libvirtd is told."""

    def __init__(self, connection: Connection, keyring: Keyring) -> None:
        self._connection = connection
        self._keyring = keyring
        connection.on_open(self._tell_all)

    async def tell(self, secret: Id, key: bytes) -> None:
        """Have libvirtd know this key. Known already: replaced."""
        await self._connection.call(lambda handle: _define(handle, secret, key))

    async def forget(self, secret: Id) -> None:
        """Have libvirtd forget it. Not known: fine."""

        def undefine(handle: Handle) -> None:
            libvirt = bindings()
            try:
                handle.secretLookupByUUIDString(secret).undefine()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
                    raise

        await self._connection.call(undefine)

    def _tell_all(self, handle: Handle) -> None:
        for secret, key in self._keyring.all().items():
            _define(handle, secret, key)


def _define(handle: Handle, secret: Id, key: bytes) -> None:
    root = ET.Element("secret", ephemeral="yes", private="yes")
    ET.SubElement(root, "uuid").text = secret
    handle.secretDefineXML(ET.tostring(root, encoding="unicode")).setValue(key)
