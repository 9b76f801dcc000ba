"""What polkit lets the user's own libvirt tools do in a blanket: every act that its libvirt knows, on what is
ours and on what is theirs, by the engine that polkitd itself evaluates its rules with.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator

import pytest

from supercloud.blanket.domain_xml import domain_name, instance_of
from supercloud.blanket.machines.domain import PREFIX
from supercloud.images.blanket import RECIPE
from supercloud.model.names import new_id

pytestmark = pytest.mark.unit
_ID = "0f0e0d0c-1111-4222-8333-444455556666"
OURS = domain_name(_ID)
MACHINE = PREFIX + _ID

#: As libvirt 9.0's own list for polkit has them (org.libvirt.api.policy of the blanket's package).
ACTS = {
    "connect": "detect-storage-pools getattr interface-transaction pm-control read search-domains "
    "search-interfaces search-networks search-node-devices search-nwfilter-bindings search-nwfilters "
    "search-secrets search-storage-pools write",
    "domain": "block-read block-write checkpoint core-dump delete fs-freeze fs-trim getattr hibernate "
    "init-control inject-nmi mem-read migrate open-device open-graphics open-namespace pm-control read "
    "read-secure reset save screenshot send-input send-signal set-password set-time snapshot start stop "
    "suspend write",
    "interface": "delete getattr read save start stop write",
    "network": "delete getattr read save search-ports start stop write",
    "network-port": "create delete getattr read write",
    "node-device": "delete detach getattr read start stop write",
    "nwfilter": "delete getattr read save write",
    "nwfilter-binding": "create delete getattr read",
    "secret": "delete getattr read read-secure save write",
    "storage-pool": "delete format getattr read refresh save search-storage-vols start stop write",
    "storage-vol": "create data-read data-write delete format getattr read resize",
}
EVERY = [(thing, act) for thing, acts in ACTS.items() for act in acts.split()]
#: All that may be done that changes nothing of ours.
LOOKING = {"getattr", "read", "search-ports", "detect-storage-pools"}
#: All on an instance of ours.
ON_OURS = {"getattr", "read", "open-device"}
#: Wholly theirs.
THEIRS = {"storage-pool", "storage-vol"}

_POLKIT = """
var rules = [];
var polkit = {Result: {YES: "yes", NO: "no", NOT_HANDLED: "not handled"},
              addRule: function (rule) { rules.push(rule); }};
function asked(id, details, user) {
    return rules[0]({id: id, lookup: function (key) { return details[key]; }}, {user: user});
}
"""
_EVAL = 8 | 128 | 512 | 2048  # DUK_COMPILE_EVAL, SAFE, NOSOURCE, NOFILENAME


class Duktape:
    """As much of the engine as it takes to evaluate an expression."""

    def __init__(self, name: str) -> None:
        self._library = ctypes.CDLL(name)
        self._library.duk_create_heap.restype = ctypes.c_void_p
        self._library.duk_safe_to_lstring.restype = ctypes.c_char_p
        self._heap = ctypes.c_void_p(self._library.duk_create_heap(None, None, None, None, None))

    def run(self, source: str) -> str:
        failed = self._library.duk_eval_raw(
            self._heap, source.encode(), ctypes.c_size_t(len(source.encode())), _EVAL
        )
        said: bytes = self._library.duk_safe_to_lstring(self._heap, -1, None)
        self._library.duk_pop(self._heap)
        assert not failed, said.decode()
        return said.decode()

    def close(self) -> None:
        self._library.duk_destroy_heap(self._heap)


Asked = Callable[..., str]


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """What the rule says to an act of somebody's on something."""
    engine = Duktape("libduktape.so.207")  # Debian's package libduktape207, which its polkitd needs
    engine.run(_POLKIT)
    engine.run((RECIPE / "tools" / "tools.rules").read_text())

    def ask(thing: str, act: str, *, user: str = "sc-tools", **details: str) -> str:
        call = ", ".join(json.dumps(one) for one in (f"org.libvirt.api.{thing}.{act}", details, user))
        return engine.run(f"asked({call})")

    yield ask
    engine.close()


@pytest.mark.parametrize("name", [OURS, MACHINE])
@pytest.mark.parametrize(("thing", "act"), EVERY)
def test_on_what_is_ours_they_look_and_use_the_console(asked: Asked, thing: str, act: str, name: str) -> None:
    looking = act in LOOKING or act.startswith("search-")
    may = {"domain": act in ON_OURS, "secret": False}.get(thing, looking or thing in THEIRS)
    assert asked(thing, act, domain_name=name, connect_driver="QEMU") == ("yes" if may else "no")


def test_so_many_acts_are_refused() -> None:
    """Of those on our domains and secrets, 34: nearly all that libvirt knows."""
    refused = [one for one in EVERY if one[0] == "secret" or (one[0] == "domain" and one[1] not in ON_OURS)]
    assert (len(EVERY), len(refused)) == (105, 34)


@pytest.mark.parametrize("act", ACTS["domain"].split())
def test_what_is_theirs_is_theirs(asked: Asked, act: str) -> None:
    assert asked("domain", act, domain_name="win11") == "yes"


def test_what_is_not_known_is_refused(asked: Asked) -> None:
    """An act that a later libvirt has, a domain without a name, one that looks like ours, another service."""
    assert asked("domain", "teleport", domain_name=OURS) == "no"
    assert asked("connect", "teleport") == asked("wormhole", "getattr") == asked("secret", "teleport") == "no"
    assert asked("domain", "start") == asked("domain", "start", domain_name="") == "no"
    assert (
        asked("domain", "start", domain_name="sc-") == asked("domain", "write", domain_name="sc-win") == "no"
    )
    assert asked("domain.start", "start", domain_name="win11") == "no"
    assert asked("hasOwnProperty", "getattr") == asked("__proto__", "getattr") == "no"


def test_it_is_about_nobody_else(asked: Asked) -> None:
    for user in ("root", "libvirt-qemu", "nobody", ""):
        assert asked("domain", "start", user=user, domain_name=OURS) == "not handled"


def test_ours_are_told_by_their_names_alone() -> None:
    instance = new_id()
    assert instance_of(domain_name(instance)) == instance
    for name in (
        "win11",
        "sc-",
        "sc-win",
        f"sc-{instance}x",
        f"xsc-{instance}",
        f"sc-{instance.upper()}",
        instance,
    ):
        assert instance_of(name) is None


def test_libvirt_listens_on_no_network() -> None:
    """Neither configuration has it, and it is started without `--listen`; its sockets are UNIX ones."""
    tools = (RECIPE / "tools" / "libvirtd.conf").read_text()
    for said in (
        tools,
        (RECIPE / "customize").read_text(),
        (RECIPE / "services" / "libvirtd" / "run").read_text(),
    ):
        commands = "\n".join(line for line in said.splitlines() if not line.lstrip().startswith("#"))
        assert "--listen" not in commands and "listen_t" not in commands
    assert 'access_drivers = [ "polkit" ]' in tools and 'unix_sock_rw_perms = "0770"' in tools
    assert 'unix_sock_ro_perms = "0700"' in tools, "nor may other users of the blanket look"


def test_nothing_of_it_runs_until_it_is_asked_for() -> None:
    """No bus and no polkitd among the services of a blanket, and a socket that is root's alone."""
    assert not {"dbus", "polkit"} & {path.name for path in (RECIPE / "services").iterdir()}
    assert 'unix_sock_rw_perms = "0700"' in (RECIPE / "customize").read_text()
    asks = [line for line in (RECIPE / "boot").read_text().splitlines() if "open-to-tools" in line]
    assert asks == ["[ -e /var/lib/supercloud/tools/open ] && /usr/lib/supercloud/open-to-tools boot"]
