"""No secret is where it must not be: arguments, environments, logs, the database, what operations remember.

Every key that exists is known here, because the key store and the machines are in this process; then all that
the control plane wrote is searched for each of them, in every form that a careless line would give it.
"""

from __future__ import annotations

import base64
import logging
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import agent_double
import pytest
import structlog
from api_rig import Served, served
from control_rig import World
from test_cli import disk

pytestmark = pytest.mark.contract
_TOOLS = ("qemu-img", "prlimit", "timeout", "ssh")
USER_SECRET = "correct-horse-battery-staple"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database is enough here."""
    return f"sqlite:///{tmp_path / 'supercloud.db'}"


@pytest.fixture
def keys(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every key as it came to be: what it is for -> the passphrase."""
    found: dict[str, str] = {}
    new_image_key, open_sealed = world.keys.new_image_key, agent_double.open_sealed

    async def image_key(**values: object) -> object:
        key = await new_image_key(**values)  # type: ignore[arg-type]
        found[f"image {key.id}"] = key.passphrase
        return key

    def opened(sealed: object, **values: object) -> bytes:
        key = open_sealed(sealed, **values)  # type: ignore[arg-type]
        # A passphrase, in hexadecimal; that of user data is the bytes themselves.
        user_data = str(values["purpose"]).startswith("user-data:")
        found[str(values["purpose"])] = key.hex() if user_data else key.decode()
        return key

    monkeypatch.setattr(world.keys, "new_image_key", image_key)
    monkeypatch.setattr(agent_double, "open_sealed", opened)
    return found


@pytest.fixture
async def cli(world: World, keys: dict[str, str], tmp_path: Path) -> AsyncIterator[Served]:
    """After `keys`: what is served is bound when it begins to be."""
    async with served(world, tmp_path / "h") as made:
        yield made


def forms(secret: str) -> set[bytes]:
    """As text, as the bytes that hexadecimal digits stand for, and both encoded again."""
    plain = {secret.encode()}
    if len(secret) % 2 == 0 and all(char in "0123456789abcdef" for char in secret):
        plain.add(bytes.fromhex(secret))
    # Within a longer text it is only the middle of a base64 form that is sure, at each of three alignments.
    coded = {
        code(bytes(shift) + one)[4:-4]
        for one in plain
        for code in (base64.b64encode, base64.urlsafe_b64encode)
        for shift in range(3)
        if len(one) > 16
    }
    hexed = {one.hex().encode() for one in plain} | {one.hex().upper().encode() for one in plain}
    return plain | coded | hexed


def where(secret: str, files: list[Path]) -> list[str]:
    wanted = forms(secret)
    return [path.name for path in files if any(form in path.read_bytes() for form in wanted)]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Every program that is started says first with what arguments and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in _TOOLS:
        real = shutil.which(tool)
        if real:
            script = f'#!/bin/sh\n{{ printf "%s\\n" "$0" "$@"; env; }} >> {folder}/said\nexec {real} "$@"\n'
            (folder / tool).write_text(script)
            (folder / tool).chmod(0o755)
    return folder


async def test_no_secret_is_where_it_must_not_be(
    cli: Served,
    keys: dict[str, str],
    programs: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    data = tmp_path / "user-data"
    data.write_text(f"#cloud-config\npassword: {USER_SECRET}\n")
    seeds: dict[str, bytes | None] = {}
    path = f"{programs}:{os.environ['PATH']}"
    for words in (
        ("provider", "add", "p", "--kind", "simulated"),
        ("cloud", "create", "c"),
        ("network", "create", "lan", "--cloud", "c", "--cidr", "10.7.0.0/24"),
        ("blanket", "add", "n1", "--cloud", "c", "--provider", "p"),
        ("blanket", "add", "s1", "--cloud", "c", "--provider", "p"),
        ("image", "import", str(disk(tmp_path)), "--name", "debian"),
        ("vm", "run", "web", "--cloud", "c", "--image", "debian", "--on", "n1", "--user-data", str(data)),
        ("volume", "create", "data", "--cloud", "c", "--size", "8M"),
        ("volume", "attach", "data", "web"),
        ("vm", "migrate", "web", "--to", "s1"),
        ("cloud", "rotate-keys", "c"),
        ("volume", "detach", "data"),
        ("volume", "backup", "data", "--to", "saved"),
        ("vm", "rm", "web", "--force"),
    ):
        done = await cli.run(*words, PATH=path)
        assert done.status == 0, (words, done)
        for machine in cli.bench.site.machines.values():
            seeds |= machine.seeds
        said = tmp_path / f"said-{words[0]}-{words[1]}"
        said.write_text(done.out + done.err)
    captured = capfd.readouterr()
    (tmp_path / "log").write_text(captured.out + captured.err)
    tokens = {f"token of {one.birth.name}": one.birth.secret for one in cli.bench.site.machines.values()}
    private = {
        f"key of {one.birth.name}": one.passport.keys.identity.to_pem().splitlines()[1]
        for one in cli.bench.site.machines.values()
    }
    assert sum(name.startswith("image ") for name in keys) == 1
    assert sum(name.startswith("volume:") for name in keys) >= 3, "one for each copy of each volume"
    assert sum(name.startswith("user-data:") for name in keys) == 1
    assert list(seeds.values()) == [data.read_bytes()], "the guest has it"

    databases = [path for path in tmp_path.iterdir() if ".db" in path.name or "sqlite" in path.name]
    assert len(databases) >= 2, "the store and what operations remember"
    files = [*databases, tmp_path / "log", programs / "said", *tmp_path.glob("said-*")]
    assert "agent.joined" in (tmp_path / "log").read_text() and "qemu-img" in (programs / "said").read_text()
    for name, secret in (keys | tokens | private).items():
        assert where(secret, files) == [], name
        argvs = "\n".join(word for argv in cli.argvs for word in argv)
        assert secret not in argvs
    assert where(USER_SECRET, files) == []
    assert all(USER_SECRET not in word for argv in cli.argvs for word in argv)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """The control: each form of a secret, and one amid others."""
    secret = os.urandom(32).hex()
    raw = bytes.fromhex(secret)
    for number, text in enumerate(
        (
            secret.encode(),
            secret.upper().encode(),
            raw,
            base64.b64encode(raw),
            base64.urlsafe_b64encode(raw),
            base64.b64encode(b"x" + raw + b"y"),
            base64.b64encode(b'{"key": "' + secret.encode() + b'"}'),
        )
    ):
        file = tmp_path / str(number)
        file.write_bytes(b"before" + text + b"after")
        assert where(secret, [file]) == [str(number)], text
    (tmp_path / "nothing").write_bytes(os.urandom(10_000))
    assert where(secret, [tmp_path / "nothing"]) == []
