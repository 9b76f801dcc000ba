"""What the control plane's program does so that thousands of agents can be connected."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.contract
_CONNECTIONS = 150
_MOST_KIB = 100

#: Both ends of so many idle TLS connections, in a process of its own, and what each end keeps resident.
_PROGRAM = """
import asyncio, json, resource, sys
import psutil
from supercloud.controlplane.main import expect_many
from supercloud.keystore.memory import memory_keystore
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import CONTROLLER_NAME, Credentials, client_context, server_context

resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

async def main(connections):
    expect_many()
    key = IdentityKey.new()
    ours = await memory_keystore().issue_controller(csr_pem=key.csr())
    own = Credentials(ours.certificate_pem, key.to_pem())
    server = await asyncio.start_server(
        lambda *_: None, "127.0.0.1", 0, ssl=server_context(own, ours.authority_pem, anonymous=True)
    )
    port = server.sockets[0].getsockname()[1]
    tls = client_context(ours.authority_pem)
    kept = []
    async def connect():
        kept.append(await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=CONTROLLER_NAME
        ))
    for _ in range(20):
        await connect()
    before = psutil.Process().memory_info().rss
    for _ in range(connections):
        await connect()
    print(json.dumps((psutil.Process().memory_info().rss - before) / connections / 2 / 1024))

asyncio.run(main(int(sys.argv[1])))
"""


def test_a_connection_costs_little_and_there_may_be_more_than_the_usual_bound_of_open_files() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(_CONNECTIONS)], check=True, capture_output=True, text=True
    ).stdout
    assert 0 < json.loads(said) < _MOST_KIB
