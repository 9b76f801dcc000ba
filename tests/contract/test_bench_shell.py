"""A blanket's console as the bench uses it: a real shell on a real terminal."""

from __future__ import annotations

import os
import pty
import secrets
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest

from supercloud.cli.shell import Shell
from supercloud.model.errors import Failed, Unavailable

pytestmark = pytest.mark.contract


class Terminal:
    """shell.Stream over the controlling end of a pseudo-terminal."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "sh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "ENV": ""}
        )
        os.close(theirs)

    def send(self, message: bytes) -> None:
        os.write(self._ours, message)

    def recv(self, timeout: float | None = None) -> bytes:
        ready, _, _ = select.select([self._ours], [], [], timeout)
        if not ready:
            raise TimeoutError
        return os.read(self._ours, 65536)

    def close(self) -> None:
        os.close(self._ours)  # the shell gets its hang-up
        self.process.wait(10)


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell(Terminal(), "n1") as opened:
        yield opened


def test_a_command_is_answered_with_what_it_wrote_and_nothing_else(shell: Shell) -> None:
    assert shell.run("echo one; echo two >&2; printf three") == "one\ntwo\nthree"
    assert shell.run("true") == ""
    assert shell.run("cd / && pwd") == "/\n"
    assert shell.run("pwd") == "/\n", "it is one shell"


def test_a_failure_says_what_failed_and_why(shell: Shell) -> None:
    with pytest.raises(Failed, match=r"in blanket n1, sh: .*no luck"):
        shell.run("sh -c 'echo first; echo no luck; exit 3'")
    assert shell.run("echo on") == "on\n", "the shell goes on"


def test_a_command_that_does_not_end_is_given_up(shell: Shell) -> None:
    with pytest.raises(Unavailable, match="did not carry out"):
        shell.run("read answer", timeout_s=0.3)


def test_files_come_back_as_they_went(shell: Shell, tmp_path: os.PathLike[str]) -> None:
    content = secrets.token_bytes(20_000)
    path = os.path.join(tmp_path, "file")  # noqa: PTH118 - a path in the shell's machine
    shell.put(path, content)
    assert shell.get(path) == content
    assert shell.run(f"stat -c %a {path}") == "600\n"
    shell.put(path, b"")
    assert shell.get(path) == b""


def test_background_work_does_not_hold_the_answer(shell: Shell) -> None:
    said = shell.run("sleep 60 </dev/null >/dev/null 2>&1 & echo $!", timeout_s=5)
    os.kill(int(said), signal.SIGKILL)
