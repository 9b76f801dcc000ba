"""The northbound API over HTTP: who may speak, what a failure looks like, that what is promised is sent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
from api_rig import HOST, Served, ended, problem
from control_rig import DIGEST, IMAGE, World, furnish, share_with
from incident_rig import incident_event
from provider_rig import told_about
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from supercloud.api.guard import EVENTS
from supercloud.api.limits import BODY_BYTES
from supercloud.client.http import CONTROLLER_NAME
from supercloud.keystore.userdata import keep_user_data
from supercloud.model.names import MIB, new_id
from supercloud.ports.agent import USER_DATA_BYTES, UserData
from supercloud.services import inbox
from supercloud.services.requests import AddPrincipal
from supercloud.trust.keys import IdentityKey, to_text

pytestmark = pytest.mark.contract


async def test_a_life_over_http(api: Served, world: World, http: httpx.AsyncClient) -> None:
    await furnish(api.bench, world.keys)
    request = {"name": "n1", "cloud": "c", "provider": "p"}
    assert (await ended(http, await http.post("/blankets", json=request)))["state"] == "succeeded"
    run = {
        "name": "web",
        "cloud": "c",
        "image": "debian",
        "networks": ["lan"],
        "ssh_keys": ["ssh-ed25519 AAAA"],
        "user_data": _plain(await keep_user_data(world.keys, b"#cloud-config\n", instance="web")),
    }
    assert (await ended(http, await http.post("/instances", json=run)))["state"] == "succeeded"
    shown = (await http.get("/instances/web")).json()
    assert (shown["state"], shown["blanket"], shown["epoch"]) == ("running", "n1", 1)
    assert shown["right_left_s"] > 50
    problem(await http.post("/instances", json=run), 409, "conflict")
    problem(await http.delete("/clouds/c"), 409, "conflict")
    assert (await ended(http, await http.delete("/instances/web", params={"force": True})))["error"] is None
    assert (await http.get("/instances")).json() == []
    kinds = [one["kind"] for one in (await http.get("/operations")).json()]
    assert kinds == ["instance.remove", "instance.run", "blanket.add"], "the newest first"
    assert len((await http.get("/operations", params={"kind": "instance.run"})).json()) == 1
    assert len((await http.get("/operations", params={"limit": 2})).json()) == 2
    assert (await http.delete("/networks/lan")).status_code == 204


async def test_answers_are_as_described(api: Served, world: World, http: httpx.AsyncClient) -> None:
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    await api.bench.run(on="n1")
    shown = await api.bench.control.blanket("n1")
    cloud = (await api.bench.control.cloud("c")).id
    await inbox.finding(api.bench.parts.store, shown.id, cloud, "clone.seen", {})
    await api.bench.control.add_principal(AddPrincipal(name="dave", key=IdentityKey.new().name))
    await share_with(api.bench, "dave")
    await told_about(api.bench.control, "n1", shown.id)
    incident = incident_event(new_id(), cloud=cloud, blanket=shown.id)
    assert await inbox.take(api.bench.parts.store, shown.id, cloud, [incident], at=time.time()) == 1
    described = (await http.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    read = [
        path
        for path, item in described["paths"].items()
        if "get" in item and "{" not in path and not path.endswith(EVENTS)
    ]
    assert len(read) == 18
    for path in read:
        answer = await http.get(path.removeprefix("/v1"))
        wanted = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema_rs.validate({**wanted, "components": described["components"]}, answer.json())
        assert answer.json(), f"{path} was tried with something in it"
    for path, item in described["paths"].items():
        for operation in item.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"], path


_REFUSED = [
    ("GET", "/clouds/nowhere", None, 404, "not-found"),
    ("GET", "/nothing", None, 404, "not-found"),
    ("PATCH", "/clouds", None, 405, "invalid-input"),
    ("GET", f"/operations/{new_id()}", None, 404, "not-found"),
    ("GET", "/operations/7", None, 422, "invalid-input"),
    ("GET", "/clouds/UPPER", None, 422, "invalid-input"),
    ("GET", "/clouds/%00", None, 422, "invalid-input"),
    ("GET", "/clouds/..%2fstatus", None, 404, "not-found"),
    ("GET", "/instances?cloud=%00", None, 422, "invalid-input"),
    ("POST", "/clouds", b"", 422, "invalid-input"),
    ("POST", "/clouds", b"{", 422, "invalid-input"),
    ("POST", "/clouds", b"\xff\xfe", 422, "invalid-input"),
    ("POST", "/clouds", b"[" * 100_000, 422, "invalid-input"),
    ("POST", "/clouds", b'{"name": "a", "right_length_s": NaN}', 422, "invalid-input"),
    ("POST", "/clouds", b'{"name": "a", "right_length_s": 1e999}', 422, "invalid-input"),
    ("POST", "/clouds", b'{"name": "a\\n"}', 422, "invalid-input"),
    ("POST", "/clouds", b'{"name": "a", "cpu_model": "x\\u0000"}', 422, "invalid-input"),
    ("POST", "/clouds", b'{"name": "\\ud800"}', 422, "invalid-input"),
    ("POST", "/providers", b'{"name": "q", "kind": "x", "options": {"\\ud800": ""}}', 422, "invalid-input"),
    ("POST", "/providers", b'{"name": "q", "kind": "Main frame"}', 422, "invalid-input"),
    ("POST", "/networks", b'{"name": "a", "cloud": "c", "cidr": "10.9.0.7/24"}', 422, "invalid-input"),
    ("POST", "/networks", b'{"name": "a", "cloud": "c", "cidr": "8.8.8.0/24"}', 422, "invalid-input"),
    ("POST", "/networks", b'{"name": "a", "cloud": "c", "cidr": "999.1.1.1/99"}', 422, "invalid-input"),
    ("POST", "/volumes", b'{"name": "a", "cloud": "c", "size_bytes": 1}', 422, "invalid-input"),
    ("POST", "/volumes", b'{"name": "a", "cloud": "c", "size_bytes": 1e30}', 422, "invalid-input"),
    ("PUT", "/images/sha256:" + "0" * 64 + "/content", b"x", 404, "not-found"),
    ("PUT", "/images/sha256:0/content", b"x", 422, "invalid-input"),
]


async def test_what_cannot_be_is_refused_in_one_form(http: httpx.AsyncClient) -> None:
    async def everything() -> list[Any]:
        return [(await http.get(kind)).json() for kind in ("/clouds", "/providers", "/networks", "/volumes")]

    await http.post("/clouds", json={"name": "c"})
    before = await everything()
    for method, path, body, status, code in _REFUSED:
        headers = {"Content-Type": "application/json"}
        answer = await http.request(method, path, content=body, headers=headers)
        try:
            problem(answer, status, code)
        except AssertionError as error:
            raise AssertionError(f"{method} {path} {body!r:.80}") from error
    assert await everything() == before


def _plain(data: UserData) -> dict[str, str]:
    return {"digest": data.digest, "ciphertext": data.ciphertext}


def _sealed(raw: bytes) -> dict[str, str]:
    return {"digest": f"sha256:{hashlib.sha256(raw).hexdigest()}", "ciphertext": to_text(raw)}


async def test_a_body_means_what_it_says(http: httpx.AsyncClient) -> None:
    image = {"name": "x", "digest": DIGEST, "size_bytes": 9, "virtual_bytes": 9}
    for size in (False, "9", 9.5, [9], None):
        refused = await http.post("/images", json={**image, "size_bytes": size})
        assert "size_bytes" in problem(refused, 422, "invalid-input"), size
    who = {"name": "x", "key": "ed25519/" + "0" * 64}
    for word in (1, "yes", "true"):
        refused = await http.post("/principals", json={**who, "operator": word})
        assert "operator" in problem(refused, 422, "invalid-input"), word
    assert "not JSON" in problem(await http.post("/images", content=b"{"), 422, "invalid-input")
    assert (await http.get("/images")).json() == []
    made = await http.post("/images", json={**image, "size_bytes": 9.0})
    assert made.status_code == 201, "which in JSON is a whole number"


async def test_who_asks_in_a_way_that_is_not_there_is_told_which_are(
    api: Served, http: httpx.AsyncClient
) -> None:
    south = f"https://{HOST}:{api.access.port}/southbound/v1"
    for path, methods in (
        ("/clouds", "GET, POST"),
        ("/clouds/c", "DELETE, GET"),
        (f"{south}/windows", "GET, POST"),
    ):
        answer = await http.patch(path, json={})
        problem(answer, 405, "invalid-input")
        assert answer.headers["allow"] == methods, path
    problem(await http.patch("/nothing", json={}), 404, "not-found")


async def test_user_data_is_taken_encrypted_only_and_has_a_limit(
    api: Served, world: World, http: httpx.AsyncClient
) -> None:
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    run = {"name": "web", "cloud": "c", "image": "debian", "ssh_keys": []}
    clear, fits = b"x" * USER_DATA_BYTES, {**run, "user_data": None}
    fits["user_data"] = _plain(await keep_user_data(world.keys, clear, instance="web"))
    longer = _sealed(bytes(28 + 1 + USER_DATA_BYTES))
    for data in (
        "#cloud-config\n",  # in clear it is not taken
        {"digest": DIGEST, "ciphertext": "#cloud-config\n"},
        {"digest": DIGEST, "ciphertext": fits["user_data"]["ciphertext"]},
        {"digest": "sha256:0", "ciphertext": fits["user_data"]["ciphertext"]},
        _sealed(bytes(27)),
        longer,
        {**longer, "ciphertext": longer["ciphertext"] * 2},
        {"digest": DIGEST},
    ):
        problem(await http.post("/instances", json={**run, "user_data": data}), 422, "invalid-input")
    answer = await http.post("/instances", content=b"x" * (BODY_BYTES + 1))
    assert "at most" in problem(answer, 413, "invalid-input")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    with contextlib.suppress(httpx.NetworkError):  # the server may close while the client still sends
        problem(await http.post("/instances", content=endless()), 413, "invalid-input")
    assert (await http.get("/instances")).json() == [] == (await http.get("/volumes")).json()
    assert (await ended(http, await http.post("/instances", json=fits)))["state"] == "succeeded"


async def test_uploads_go_on_where_they_ended(api: Served, world: World, http: httpx.AsyncClient) -> None:
    request = {"name": "debian", "digest": DIGEST, "size_bytes": len(IMAGE), "virtual_bytes": 64 * MIB}
    assert (await http.post("/images", json=request)).json()["present_bytes"] == 0
    content = f"/images/{DIGEST}/content"
    assert (await http.put(content, content=IMAGE[:1000])).json()["present_bytes"] == 1000
    assert (await http.post("/images", json=request)).json()["present_bytes"] == 1000
    problem(await http.put(content, content=IMAGE, params={"offset": 5}), 409, "conflict")
    more = await http.put(content, content=IMAGE[1000:] + b"more", params={"offset": 1000})
    problem(more, 422, "invalid-input")
    here = (await http.get("/images/debian")).json()["present_bytes"]
    rest = await http.put(content, content=IMAGE[here:], params={"offset": here})
    assert rest.status_code == 200 and rest.json()["complete"], rest.text
    other = {**request, "name": "broken", "digest": "sha256:" + "1" * 64}
    assert (await http.post("/images", json=other)).status_code == 201
    problem(await http.put(f"/images/{other['digest']}/content", content=IMAGE), 422, "invalid-input")
    assert (await http.get("/images/broken")).json()["present_bytes"] == 0
    assert (await http.delete("/images/broken")).status_code == 204
    left = [path.name for path in (world.folder / "images").iterdir()]
    assert left == [DIGEST.removeprefix("sha256:")]


async def test_nobody_speaks_without_a_token(api: Served) -> None:
    said = await asyncio.to_thread(_said, api.access.port, _context(api), {})
    assert said.startswith(b"HTTP/1.1 401") and b"www-authenticate: Biscuit" in said.lower().replace(
        b"biscuit", b"Biscuit"
    )
    assert await asyncio.to_thread(_speaks, api)
    old = _context(api)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(_said, api.access.port, old, {})


def _context(api: Served) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(api.access.authority)
    return context


def _speaks(api: Served) -> bool:
    signed = api.sign().headers("GET", "/v1/status", b"")
    return _said(api.access.port, _context(api), signed).startswith(b"HTTP/1.1 200")


def _said(port: int, context: ssl.SSLContext, headers: dict[str, str]) -> bytes:
    """The answer to a request. Raises OSError where none comes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with (
        socket.create_connection((HOST, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=CONTROLLER_NAME) as wrapped,
    ):
        wrapped.sendall(f"GET /v1/status HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
        answer = wrapped.recv(1000)
        if not answer:
            raise ConnectionResetError("closed without an answer")
        return answer


_NO_HTTP = [
    b"\x00" * 100,
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
    b"GET /" + b"a" * 1_000_000,
    b"POST /v1/clouds HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/clouds HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/status HTTP/9.9\r\n\r\n",
]


async def test_no_bytes_end_the_listener(api: Served) -> None:
    for data in _NO_HTTP:
        reader, writer = await asyncio.open_connection(
            HOST, api.access.port, ssl=api.client().tls, server_hostname=CONTROLLER_NAME
        )
        writer.write(data)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await reader.read(1000)
        writer.close()
    assert await asyncio.to_thread(_speaks, api)


async def test_streams_carry_bytes_or_say_why_not(api: Served, world: World) -> None:
    await furnish(api.bench, world.keys)
    await api.bench.blanket("n1")
    await api.bench.run(on="n1")
    client = api.client()

    @contextlib.asynccontextmanager
    async def opened(path: str, **query: object) -> AsyncIterator[Any]:
        where = await asyncio.to_thread(lambda: client.stream(path, **query))
        async with connect(**where) as stream:
            yield stream

    async with opened("/instances/web/streams/tcp", port=22) as stream:
        await stream.send(b"ping" * 1000)
        got = b""
        async with asyncio.timeout(10):
            while len(got) < 4000:
                got += await stream.recv()
        assert got == b"ping" * 1000
    for path, query, said in (
        ("/instances/nobody/streams/console", {}, "not-found"),
        ("/instances/web/streams/console", {"port": 5}, "invalid-input"),
        ("/instances/web/streams/tcp", {}, "invalid-input"),
    ):
        with pytest.raises(ConnectionClosedError) as closed:
            async with opened(path, **query) as stream:
                await stream.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4000
        assert closed.value.rcvd.reason.startswith(said)
    for path, query in (
        ("/instances/web/streams/memory", {}),
        ("/instances/web/streams/tcp", {"port": 70000}),
        ("/instances/a%00b/streams/console", {}),
    ):
        with pytest.raises(Exception):  # noqa: B017 - refused at the handshake, whichever way
            async with opened(path, **query) as stream:
                await stream.recv()
    assert (await asyncio.to_thread(client.get, "/status"))["instances_running"] == 1
