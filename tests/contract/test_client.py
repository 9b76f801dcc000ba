"""The client: lists as a whole, answers that get lost, what changes; and the same for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from typing import Any

import pytest
from api_rig import Served
from hypothesis import given, settings
from hypothesis import strategies as st

from supercloud.client import Client, sse
from supercloud.client.aio import AsyncClient
from supercloud.client.http import next_cursor
from supercloud.client.sse import Reader, Said
from supercloud.model.errors import Conflict, Failed, OutcomeUnknown, Unauthenticated, Unavailable
from supercloud.services.views import CloudView, OperationView, VolumeView

pytestmark = pytest.mark.contract


def _volumes(client: Client) -> None:
    client.post("/clouds", {"name": "c"})
    for number in range(7):
        client.post("/volumes", {"name": f"v{number}", "cloud": "c", "size_bytes": 1 << 20})


async def test_it_gives_whole_lists_and_typed_things(api: Served) -> None:
    def work() -> None:
        client = api.client()
        _volumes(client)
        names = [f"v{number}" for number in range(7)]
        assert [one["name"] for one in client.all("/volumes", limit=3)] == names
        volumes: list[VolumeView] = client.all("/volumes", VolumeView, cloud="c")
        assert [one.name for one in volumes] == names
        assert client.get("/clouds/c", CloudView).name == "c"
        assert len(client.get("/volumes", limit=2)) == 2, "one part"

    await asyncio.to_thread(work)


class _Cut:
    """Lets requests through and loses so many answers to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lose: int) -> None:
        self.lose, self.sent = lose, 0
        real = http.client.HTTPConnection.getresponse

        def getresponse(connection: Any) -> Any:
            answer = real(connection)
            self.sent += 1
            if self.sent <= self.lose:
                answer.read()
                connection.close()
                raise ConnectionResetError("cut")
            return answer

        monkeypatch.setattr(http.client.HTTPConnection, "getresponse", getresponse)


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    api: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work() -> None:
        client = api.client()
        cut = _Cut(monkeypatch, 2)
        made = client.post("/clouds", {"name": "c"})
        assert cut.sent == 3 and made["name"] == "c"
        cut.lose, cut.sent = 1, 0
        assert client.delete("/clouds/c") is None
        with pytest.raises(Conflict):
            client.post("/clouds", {"name": "d"})
            client.post("/clouds", {"name": "d"})
        cut.lose, cut.sent = 99, 0
        with pytest.raises(OutcomeUnknown):
            client.post("/clouds", {"name": "e"})
        with pytest.raises(Unavailable):
            client.get("/clouds")
        cut.lose = 0
        assert [one["name"] for one in client.get("/clouds")] == ["d", "e"]

    await asyncio.to_thread(work)


async def test_it_follows_what_changes_over_a_connection_that_breaks(
    api: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "_AGAIN_S", 0.01)

    def work() -> None:
        client = api.client()
        watched = client.events(kind=["cloud", "network"])
        assert next(watched).name == "ready"
        client.post("/clouds", {"name": "c"})
        first = next(watched)
        assert (first.data["kind"], first.data["name"]) == ("cloud", "c")
        ending = api.bench.parts.feed
        client.post("/networks", {"name": "n", "cloud": "c", "cidr": "10.9.0.0/24"})
        told = [one.data.get("name") for one in client.events(since=first.id, lasts_s=0)]
        assert told == [None, "n"]
        assert next(watched).data["name"] == "n"
        ending.broken()
        assert next(watched).name == "lost"
        client.post("/clouds", {"name": "d"})
        assert next(watched).data["name"] == "d"
        watched.close()
        with pytest.raises(Unauthenticated):
            token = client._token
            again = client.events()
            next(again)
            client.post("/tokens/revoke", {"token": token})
            list(again)

    await asyncio.to_thread(work)


async def test_the_same_for_asyncio(api: Served) -> None:
    client = AsyncClient(api.access, connections=3)
    await asyncio.gather(*(client.post("/clouds", {"name": f"c{number}"}) for number in range(6)))
    clouds = await client.all("/clouds", CloudView, limit=2)
    assert [one.name for one in clouds] == [f"c{number}" for number in range(6)]
    assert (await client.get("/clouds/c1", CloudView)).name == "c1"
    with pytest.raises(Conflict):
        await client.post("/clouds", {"name": "c0"})
    operation = await client.post("/clouds/c0/rotate-keys")
    assert OperationView(**await client.wait(operation)).state == "succeeded"
    async with asyncio.timeout(60):
        async with contextlib.aclosing(client.events(kind=["cloud"])) as events:
            async for said in events:
                if said.name == "ready":
                    await client.delete("/clouds/c5")
                elif said.data["act"] == "removed":
                    break


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["change", "ready"]), st.dictionaries(st.text(), st.text())), max_size=5
    ),
    cuts=st.lists(st.integers(1, 30), max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_events_are_read_however_their_bytes_come(
    events: list[tuple[str, dict[str, str]]], cuts: list[int]
) -> None:
    raw = b"".join(
        b": still here\n\n" + f"event: {name}\ndata: {json.dumps(data)}\nid: x-{number}\n\n".encode()
        for number, (name, data) in enumerate(events)
    )
    reader, found = Reader(), []
    for size in [*cuts, len(raw)]:
        found += list(reader.take(raw[:size]))
        raw = raw[size:]
    assert found == [Said(name, f"x-{number}", data) for number, (name, data) in enumerate(events)]


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_bytes_hurt_who_reads(raw: bytes) -> None:
    with contextlib.suppress(Failed):
        assert all(isinstance(one.data, dict) for one in Reader().take(raw + b"\n\n"))


def test_an_event_without_end_is_refused() -> None:
    reader = Reader()
    with pytest.raises(Failed, match="bytes"):
        for _ in range(40):
            list(reader.take(b"data: " + b"x" * 65536))


def test_a_link_leads_to_the_next_part() -> None:
    assert next_cursor('</v1/volumes?limit=2&cursor=aB-_9>; rel="next"') == "aB-_9"
    assert next_cursor("") is None and next_cursor('</v1/volumes?x=1>; rel="prev"') is None
