"""Principals and tokens as users have them: several people at one control plane, by HTTP and by commands."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from api_rig import HOST, Named, Served, Signing, problem
from control_rig import World, furnish
from sqlalchemy import text

from supercloud.client.http import CONTROLLER_NAME
from supercloud.controlplane.operator import OperatorToken
from supercloud.model.permissions import Permission, Role
from supercloud.services.directory import Directory
from supercloud.services.requests import AddPrincipal, CreateCloud, MintToken
from supercloud.services.store import schema
from supercloud.services.store.engine import Store
from supercloud.trust import tokens
from supercloud.trust.keys import IdentityKey
from supercloud.trust.proof import channel_of
from supercloud.trust.tokens import Bounds, attenuate, hand_on

pytestmark = pytest.mark.contract


@pytest.fixture
async def http(api: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Whose requests sign themselves."""
    async with httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.access.port}", headers={"Host": CONTROLLER_NAME}, timeout=30
    ) as client:
        client._transport = Named(api.client().tls)
        yield client


async def minted(api: Served, name: str, key: IdentityKey) -> str:
    await api.bench.control.add_principal(AddPrincipal(name=name, key=key.name))
    return (await api.bench.control.mint_token(MintToken(principal=name))).token


# ---------------------------------------------------------------- a life on the command line


async def test_two_people_and_a_program_on_one_control_plane(api: Served, tmp_path: Path) -> None:
    ok, wrong = api.ok, api.wrong
    made = {name: (await ok("key", "new", name)).out.strip() for name in ("alice", "bob")}
    assert "already" in await wrong("key", "new", "bob", status=4)
    listed = {one["name"]: one for one in (await ok("key", "ls", "-o", "json")).json}
    assert listed["alice"]["key"] == made["alice"] and listed["operator"]["used"]
    assert (api.home / "keys" / "alice.pem").stat().st_mode & 0o777 == 0o600
    await ok("principal", "add", "alice", "--key", made["alice"])
    assert "key: " in await wrong("principal", "add", "eve", "--key", "ed25519/none", status=2)

    file = tmp_path / "alice.token"
    mint = ("token", "mint", "--for", "alice", "--until", "30d", "--into", str(file))
    assert "written to" in (await ok(*mint)).out and file.stat().st_mode & 0o777 == 0o600
    assert "exists" in await wrong(*mint, status=4)
    assert "does not hold" in await wrong("token", "use", "bob", "--token", str(file), status=2)
    await ok("token", "use", "alice", "--token", str(file))
    as_alice, as_bob = {"SUPERCLOUD_KEY": "alice"}, {"SUPERCLOUD_KEY": "bob"}
    assert (await api.run("cloud", "create", "mine", **as_alice)).status == 0
    assert (await api.run("cloud", "create", "other", **as_alice)).status == 0
    await ok("cloud", "create", "mine")  # what is another's does not exist, so its name is free
    shown = (await api.run("cloud", "show", "mine", "-o", "json", **as_alice)).json
    assert shown["owner"] == "alice"
    assert [one["name"] for one in (await ok("cloud", "ls", "-o", "json")).json] == ["mine"]
    refused = await api.run("provider", "add", "p", "--kind", "simulated", **as_alice)
    assert refused.status == 5 and "provider:write is not for principals of role owner" in refused.err

    less = ("token", "attenuate", "--cloud", "mine", "--only", "vm:read", "cloud:read", "--until", "2h")
    (tmp_path / "less").write_text((await api.run(*less, **as_alice)).out)
    on = ("token", "hand-on", made["bob"], "--token", str(tmp_path / "less"))
    (tmp_path / "bobs").write_text((await api.run(*on, **as_alice)).out)
    described = (await ok("token", "show", "--token", str(tmp_path / "bobs"), "-o", "json")).json
    assert (described["holder"], described["minted_for"]) == (made["bob"], made["alice"])
    assert 7000 < described["expires_at"] - time.time() < 7201 and len(described["blocks"]) == 3
    await ok("token", "use", "bob", "--token", str(tmp_path / "bobs"))
    assert [one["name"] for one in (await api.run("cloud", "ls", "-o", "json", **as_bob)).json] == ["mine"]
    assert (await api.run("vm", "ls", **as_bob)).status == 0
    for words in (("cloud", "rm", "mine"), ("cloud", "create", "x"), ("network", "ls"), ("token", "mint")):
        assert (await api.run(*words, **as_bob)).status == 5, words

    revoked = await api.run("token", "revoke", "--token", str(tmp_path / "less"), **as_alice)
    assert "all that descends" in revoked.out
    gone = await api.run("vm", "ls", **as_bob)
    assert gone.status == 5 and "revoked" in gone.err
    assert (await api.run("vm", "ls", **as_alice)).status == 0, "its parent counts on"
    (token,) = [one for one in (await ok("token", "ls", "-o", "json")).json if one["principal"] == "alice"]
    await ok("token", "revoke", token["id"][:12])
    assert "revoked" in (await api.run("vm", "ls", **as_alice)).err


async def test_somebody_with_a_home_of_her_own(api: Served, tmp_path: Path) -> None:
    home = tmp_path / "hers"
    hers = {"SUPERCLOUD_HOME": str(home), "SUPERCLOUD_KEY": "alice"}
    key = (await api.run("key", "new", "alice", **hers)).out.strip()
    await api.ok("principal", "add", "alice", "--key", key)
    token, authority = str(tmp_path / "t"), str(api.home / "authority.pem")
    await api.ok("token", "mint", "--for", "alice", "--into", token)
    at = f"{HOST}:{api.access.port}"
    use = ("token", "use", "alice", "--token", token)
    for words, status in (
        (("--at", at), 2),
        (("--at", "nowhere", "--authority", authority), 2),
        (("--at", at, "--authority", token), 2),
        (("--at", at, "--authority", authority), 0),
    ):
        assert (await api.run(*use, *words, **hers)).status == status, words
    assert (await api.run("cloud", "create", "mine", **hers)).status == 0
    assert (await api.ok("principal", "show", "alice", "-o", "json")).json["clouds"] == 1
    (home / "ports.json").write_text("{}")
    refused = await api.run(*use, "--at", at, "--authority", authority, **hers)
    assert refused.status == 4 and "of its own" in refused.err


async def test_words_that_cannot_be(api: Served, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("no token")
    odd = str(tmp_path / "odd")
    assert "not a token" in await api.wrong("token", "show", "--token", odd, status=2)
    assert "vm:fly" in await api.wrong("token", "attenuate", "--only", "vm:fly", status=2)
    assert "left out" in await api.wrong("token", "attenuate", status=2)
    assert "is over" in await api.wrong("token", "attenuate", "--until", "2001-01-01", status=2)
    assert "not a time" in await api.wrong("token", "mint", "--until", "soon", status=2)
    assert "not a public key" in await api.wrong("token", "hand-on", "bob", status=2)
    assert "by its id or by" in await api.wrong("token", "revoke", status=2)
    assert "token ls" in await api.wrong("token", "revoke", "0123456789", status=3)
    assert "supercloud key ls" in (await api.run("vm", "ls", SUPERCLOUD_KEY="nobody")).err
    assert "not the name of a key" in (await api.run("vm", "ls", SUPERCLOUD_KEY="../x")).err
    (api.home / "keys" / "operator.pem").chmod(0o644)
    assert "chmod 600" in (await api.run("vm", "ls")).err


# ---------------------------------------------------------------- proofs over the wire


async def test_a_request_counts_once_and_as_it_was_signed(api: Served, http: httpx.AsyncClient) -> None:
    sign = api.sign()
    status = sign.headers("GET", "/v1/status", b"")
    assert (await http.get("/v1/status", headers=status)).status_code == 200
    assert "came before" in problem(await http.get("/v1/status", headers=status), 401, "unauthenticated")

    asked = b'{"name": "mine"}'
    other = await http.post(
        "/v1/clouds", content=b'{"name": "evil"}', headers=_json(sign, "/v1/clouds", asked)
    )
    assert "not the one that was signed" in problem(other, 401, "unauthenticated")
    more = await http.post("/v1/clouds", content=asked + b" ", headers=_json(sign, "/v1/clouds", asked))
    problem(more, 401, "unauthenticated")
    assert (await http.get("/v1/clouds", auth=sign)).json() == []
    assert (
        await http.post("/v1/clouds", content=asked, headers=_json(sign, "/v1/clouds", asked))
    ).status_code == 201

    for method, path in (("GET", "/v1/clouds?cloud=x"), ("GET", "/v1/operations"), ("DELETE", "/v1/status")):
        refused = await http.request(method, path, headers=sign.headers("GET", "/v1/clouds", b""))
        problem(refused, 401, "unauthenticated")


def _json(sign: Signing, path: str, body: bytes) -> dict[str, str]:
    return {**sign.headers("POST", path, body), "Content-Type": "application/json"}


async def test_a_stolen_token_alone_is_useless(api: Served, http: httpx.AsyncClient) -> None:
    mine = api.sign()
    stolen = Signing(IdentityKey.new(), mine.token, mine.channel)
    refused = await http.get("/v1/status", auth=stolen)
    assert "holder" in problem(refused, 401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Biscuit"
    bare = await http.get("/v1/status", headers={"Authorization": f"Bearer {mine.token}"})
    problem(bare, 401, "unauthenticated")
    bare = await http.get("/v1/status", headers={"Authorization": f"Biscuit {mine.token}"})
    assert "another connection" in problem(bare, 401, "unauthenticated")
    elsewhere = Signing(mine.key, mine.token, channel_of(b"another server's certificate"))
    refused = await http.get("/v1/status", auth=elsewhere)
    assert "another connection" in problem(refused, 401, "unauthenticated")


async def test_what_was_handed_on_is_the_next_holders_alone(api: Served, http: httpx.AsyncClient) -> None:
    alice, bob = IdentityKey.new(), IdentityKey.new()
    whole = await minted(api, "alice", alice)
    handed = hand_on(whole, alice, bob.name)
    assert (await http.get("/v1/clouds", auth=Signing(bob, handed, api.channel))).status_code == 200
    problem(await http.get("/v1/clouds", auth=Signing(alice, handed, api.channel)), 401, "unauthenticated")
    assert (await http.get("/v1/clouds", auth=Signing(alice, whole, api.channel))).status_code == 200
    for path, body in (("/v1/tokens", {}), ("/v1/principals", {"name": "b", "key": bob.name})):
        refused = await http.post(path, json=body, auth=Signing(bob, handed, api.channel))
        problem(refused, 403, "denied")
    mine = api.sign()
    revoking = Bounds(only=frozenset({Permission.TOKEN_REVOKE}))
    lent = Signing(bob, hand_on(mine.token, mine.key, bob.name, revoking), api.channel)
    refused = await http.post("/v1/tokens/revoke", json={"token": whole}, auth=lent)
    assert "not yours" in problem(refused, 403, "denied"), "what an operator lends is no operator"
    # Bob may give back what he was handed, and nothing else of Alice's.
    mine = Signing(bob, handed, api.channel)
    for token, status in (
        (whole, 403),
        (attenuate(handed, Bounds(until=time.time() + 9)), 200),
        (handed, 200),
    ):
        answer = await http.post("/v1/tokens/revoke", json={"token": token}, auth=mine)
        assert answer.status_code == status, answer.text
    assert "revoked" in problem(await http.get("/v1/clouds", auth=mine), 401, "unauthenticated")
    assert (await http.get("/v1/clouds", auth=Signing(alice, whole, api.channel))).status_code == 200


async def test_tokens_end_with_their_principals_key_and_with_it(api: Served, http: httpx.AsyncClient) -> None:
    control, old, new = api.bench.control, IdentityKey.new(), IdentityKey.new()
    before = Signing(old, await minted(api, "alice", old), api.channel)
    assert (await http.get("/v1/clouds", auth=before)).status_code == 200
    await control.rekey_principal("alice", key=new.name)
    problem(await http.get("/v1/clouds", auth=before), 401, "unauthenticated")
    token = (await control.mint_token(MintToken(principal="alice"))).token
    after = Signing(new, token, api.channel)
    assert (await http.get("/v1/clouds", auth=after)).status_code == 200
    operator = api.sign()
    own = {"name": "hers"}
    assert (await http.post("/v1/clouds", json=own, auth=after)).status_code == 201
    refused = await http.delete("/v1/principals/alice", auth=operator)
    assert "owns cloud hers" in problem(refused, 409, "conflict")
    assert (await http.delete("/v1/clouds/hers", auth=after)).status_code == 204
    assert (await http.delete("/v1/principals/alice", auth=operator)).status_code == 204
    problem(await http.get("/v1/clouds", auth=after), 401, "unauthenticated")
    last = await http.delete("/v1/principals/operator", auth=operator)
    assert "last operator" in problem(last, 409, "conflict")


async def test_another_roots_token_and_a_demoted_operators_do_not_count(
    api: Served, http: httpx.AsyncClient
) -> None:
    key, root = IdentityKey.new(), IdentityKey.new()
    foreign = tokens.mint(root, principal="x", roles=Role, holder=key.name, until=time.time() + 99)
    problem(await http.get("/v1/status", auth=Signing(key, foreign, api.channel)), 401, "unauthenticated")
    await api.bench.control.add_principal(AddPrincipal(name="two", key=key.name, operator=True))
    token = (await api.bench.control.mint_token(MintToken(principal="two"))).token
    second = Signing(key, token, api.channel)
    assert (await http.get("/v1/principals", auth=second)).status_code == 200
    async with api.bench.parts.store.write() as session:
        await session.execute(text("UPDATE principals SET roles = '[\"owner\"]' WHERE name = 'two'"))
    api.bench.parts.directory.changed()
    assert "fewer roles" in problem(await http.get("/v1/principals", auth=second), 401, "unauthenticated")


# ---------------------------------------------------------------- inside


async def test_a_snapshot_is_read_again_after_every_change(store: Store) -> None:
    directory = Directory(store)
    first = await directory.look()
    if store.sqlite:
        assert await directory.look() is first
    async with store.write() as session:
        await session.execute(text("INSERT INTO revocations VALUES ('ab', 1.0, 2.0)"))
    directory.changed()
    assert (await directory.look()).revoked == {"ab"}


async def test_the_operators_token_is_kept_while_it_counts(api: Served, tmp_path: Path) -> None:
    control, parts = api.bench.control, api.bench.parts
    key, file = IdentityKey.new(), tmp_path / "k" / "operator.token"
    keeping = OperatorToken(control, parts, key.name, file)
    await keeping.keep()
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    await keeping.keep()
    assert file.read_text() == first
    principal = tokens.peek(first.strip())
    assert principal.roles == {Role.OPERATOR, Role.OWNER} and principal.holder == key.name
    for spoilt in (
        "",
        "rubbish",
        (await control.mint_token(MintToken(principal=principal.principal, lasts_s=9))).token,
    ):
        file.write_text(spoilt)
        await keeping.keep()
        assert tokens.peek(file.read_text().strip()).until > time.time() + 80 * 86400
    assert [one.name for one in await control.principals()] == ["operator", f"operator-{key.name[-8:]}"]
    other = IdentityKey.new()
    await OperatorToken(control, parts, other.name, file).keep()
    assert tokens.peek(file.read_text().strip()).holder == other.name, "the former key was lost"


async def test_what_was_there_before_principals_is_the_operators(
    empty_database_url: str, tmp_path: Path
) -> None:
    """Upgraded with rows that refer to what is changed, on both databases."""
    store = await Store.open(empty_database_url, migrate=False)
    try:
        await schema.upgrade(store.engine, "0001")
        async with store.write() as session:
            for statement in (
                "INSERT INTO clouds VALUES ('c1', 'old', 'Westmere', 60, 15, 30, 1, 0)",
                "INSERT INTO images VALUES ('i1', 'debian', 'sha256:0', 1, 1, true, 0)",
                "INSERT INTO networks VALUES ('n1', 'c1', 'lan', 5000, '10.0.0.0/24', '10.0.0.1', 0)",
            ):
                await session.execute(text(statement))
        await schema.upgrade(store.engine)
        async with store.read() as session:
            kept = (await session.execute(text("SELECT name, owner, mesh_generation FROM clouds"))).all()
            assert [tuple(row) for row in kept] == [("old", None, 1)]
            assert (await session.execute(text("SELECT cloud FROM networks"))).scalars().all() == ["c1"]
            if store.sqlite:
                assert (await session.execute(text("PRAGMA foreign_keys"))).scalar() == 1
                assert (await session.execute(text("PRAGMA foreign_key_check"))).all() == []
    finally:
        await store.close()


async def test_clouds_of_before_are_seen_by_operators_alone(
    api: Served, world: World, http: httpx.AsyncClient
) -> None:
    await furnish(api.bench, world.keys)
    alice = IdentityKey.new()
    hers = Signing(alice, await minted(api, "alice", alice), api.channel)
    for path in ("/v1/clouds", "/v1/images", "/v1/networks"):
        assert len((await http.get(path, auth=api.sign())).json()) == 1
        assert (await http.get(path, auth=hers)).json() == []
    assert (await http.get("/v1/clouds/c", auth=api.sign())).json()["owner"] is None
    await api.bench.control.create_cloud(CreateCloud(name="d"))
    status = (await http.get("/v1/status", auth=hers)).json()
    assert (status["clouds"], status["blankets"], status["instances"]) == (0, 0, 0)
