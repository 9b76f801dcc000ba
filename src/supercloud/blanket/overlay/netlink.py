"""The parts of pyroute2 that the overlay uses, and no others.

pyroute2's own `__init__` imports every database, socket and simulator that it has: nine megabytes of an agent
that is to be small, and under emulation seconds of a blanket's start. So the package is entered without it.
Whoever imports pyroute2 later in the same process gets all of it, as usual.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

_NAME = "pyroute2"
_bare = _NAME not in sys.modules
if _bare and (_spec := find_spec(_NAME)) is not None:
    sys.modules[_NAME] = module_from_spec(_spec)
try:
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.generic.wireguard import WireGuard
    from pyroute2.netlink.rtnl import ndmsg
finally:
    if _bare:
        sys.modules.pop(_NAME, None)

__all__ = ["IPRoute", "NetlinkError", "WireGuard", "ndmsg"]
