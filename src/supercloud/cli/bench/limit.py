"""The least that could serve a request here: `python -m supercloud.cli.bench.limit FOLDER`.

The same listener as the API's, with TLS of an authority of its own, and behind it nothing: what is
asked for at `/v1/N` is N fixed bytes of JSON. It prints how it is reached, and ends when its standard input
does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from supercloud.api.listener import create_server, serve
from supercloud.cli.bench.children import until_left_alone
from supercloud.client import Access
from supercloud.keystore.memory import memory_keystore
from supercloud.trust.files import write_private
from supercloud.trust.keys import IdentityKey
from supercloud.trust.tls import Credentials, server_context


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application."""
    if scope["type"] != "http":
        return
    size = int(scope["path"].rpartition("/")[2])
    body = b'"' + b"x" * (size - 2) + b'"'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _run(folder: Path, port: int) -> None:
    keys = memory_keystore()
    controller = IdentityKey.new()
    ours = await keys.issue_controller(csr_pem=controller.csr())
    # The client signs its requests all the same, and nobody looks.
    files = {"key": IdentityKey.new().to_pem(), "token": "none", "authority": ours.authority_pem}
    for name, text in files.items():
        write_private(folder / f"{name}.pem", text.encode())
    access = Access(
        host="127.0.0.1",
        port=port,
        **{name: str(folder / f"{name}.pem") for name in files},
    )
    credentials = Credentials(ours.certificate_pem, controller.to_pem())
    context = server_context(credentials, ours.authority_pem, anonymous=True)
    server = create_server(cast(Any, hello), context, host=access.host, port=access.port)
    serving = asyncio.create_task(serve(server))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    sys.stdout.write(json.dumps(asdict(access)) + "\n")
    sys.stdout.flush()
    await until_left_alone()
    serving.cancel()
    await asyncio.wait((serving,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    asyncio.run(_run(given.folder, given.port))


if __name__ == "__main__":
    main()
