"""`python -m supercloud.keystore`: run the owner's key store, back it up, restore it.

Serving needs no word: `--state DIR --socket PATH`. The other commands name what they do.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supercloud import logs
from supercloud.keystore.backup import back_up, open_backup, read_backup, restore, write_backup
from supercloud.keystore.client import RemoteOwner
from supercloud.keystore.records import Policy
from supercloud.keystore.server import listening
from supercloud.keystore.store import OwnedKeyStore
from supercloud.keystore.vault import Vault, has_state, make_key, read_key
from supercloud.model.errors import Conflict, NotFound, SupercloudError

_STEPS = ("status", "prepare", "switch", "retire", "recreate")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is the error's (see model.errors)."""
    options = _parser().parse_args(arguments)
    _harden()
    try:
        options.run(options)
    except SupercloudError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supercloud.keystore", description=__doc__)
    parser.set_defaults(run=_serve)
    parser.add_argument("--state", type=Path, help="directory of the encrypted state")
    parser.add_argument("--owner-key", type=Path, help="file that opens it (default: DIR/owner.key)")
    parser.add_argument("--socket", type=Path, help="UNIX socket; the owner's is beside it, + .owner")
    parser.add_argument("--policy", type=Policy, choices=list(Policy), help="who may have keys; remembered")
    parser.add_argument(
        "--controller-uid", type=int, default=os.getuid(), help="user that the control plane runs as"
    )
    commands = parser.add_subparsers(title="commands")
    for name, run, what in (
        ("backup", _back_up, "write everything into one encrypted file (while serving, too)"),
        ("restore", _restore, "begin a state from such a file"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("file", type=Path)
        command.add_argument("--recovery-key", type=Path, required=True)
        command.set_defaults(run=run)
    authority = commands.add_parser("authority", help="replace the authority of the running key store")
    authority.add_argument("step", choices=_STEPS)
    authority.add_argument("--force", action="store_true", help="although somebody is cut off by it")
    authority.set_defaults(run=lambda options: asyncio.run(_authority(options)))
    for name in ("approve", "revoke"):
        command = commands.add_parser(name, help=f"{name} a blanket at the running key store")
        command.add_argument("blanket")
        command.set_defaults(run=lambda options, name=name: asyncio.run(_blanket(options, name)))
    return parser


def _harden() -> None:
    """No key in a core dump or a traceback's local variables, no file for others."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    logs.configure()


def _needed(value: Path | None, option: str) -> Path:
    if value is None:
        raise NotFound(f"{option} is needed")
    return value


def _owner_key(options: argparse.Namespace, state: Path) -> bytes:
    """The owner's key; a fresh one only for a fresh state."""
    path: Path = options.owner_key or state / "owner.key"
    if has_state(state) or path.exists():
        return read_key(path)
    return make_key(path)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One key store at a time writes a state. Raises: Conflict."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another key store runs on {state}") from error
        yield
    finally:
        os.close(descriptor)


def _serve(options: argparse.Namespace) -> None:
    state, socket = _needed(options.state, "--state"), _needed(options.socket, "--socket")
    with _locked(state):
        vault = Vault.on_disk(state, _owner_key(options, state))
        store = OwnedKeyStore.begin(vault, policy=options.policy)
        with store.closing():
            asyncio.run(_until_ended(store, socket, options.controller_uid))


async def _until_ended(store: OwnedKeyStore, socket: Path, controller_uid: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with listening(store, socket, controller_uid=controller_uid):
        print("ready", flush=True)
        await ended.wait()


def _back_up(options: argparse.Namespace) -> None:
    state = _needed(options.state, "--state")
    if not has_state(state):
        raise NotFound(f"no key store's state in {state}")
    vault = Vault.on_disk(state, _owner_key(options, state))
    path: Path = options.recovery_key
    write_backup(options.file, back_up(vault, read_key(path) if path.exists() else make_key(path)))
    vault.close()


def _restore(options: argparse.Namespace) -> None:
    state = _needed(options.state, "--state")
    with _locked(state):
        if has_state(state):
            raise Conflict(f"there is a state in {state} already", hint="restore into an empty directory")
        # Opened before anything is made, so that a wrong key can be tried again with the right one.
        records = open_backup(read_backup(options.file), read_key(options.recovery_key))
        vault = Vault.on_disk(state, _owner_key(options, state))
        restore(vault, records)
        vault.close()


async def _authority(options: argparse.Namespace) -> None:
    owner = RemoteOwner(_needed(options.socket, "--socket"))
    try:
        if options.step == "prepare":
            await owner.prepare_authority()
        elif options.step == "switch":
            await owner.switch_authority(force=options.force)
        elif options.step == "retire":
            await owner.retire_authority(force=options.force)
        elif options.step == "recreate":
            await owner.recreate_authority()
        status = await owner.authority_status()
        print(f"authority {status.number}{', being replaced' if status.replacing else ''}")
        print(f"not told of the newest: {', '.join(status.untold) or 'nobody'}")
        print(f"certified by an older one: {', '.join(status.behind) or 'nobody'}")
    finally:
        await owner.close()


async def _blanket(options: argparse.Namespace, act: str) -> None:
    owner = RemoteOwner(_needed(options.socket, "--socket"))
    try:
        await (owner.approve if act == "approve" else owner.revoke)(blanket=options.blanket)
    finally:
        await owner.close()


if __name__ == "__main__":
    sys.exit(main())
