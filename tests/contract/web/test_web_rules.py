"""That a browser is no way around any rule of the API."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from api_rig import Served, Signing
from control_rig import World
from fastapi.routing import APIRoute, APIWebSocketRoute
from test_authorization import _assembled
from web_rig import FILLED, code, crawled, flattened, links, signed_in

from supercloud.api import guard
from supercloud.api.app import create_app
from supercloud.api.sessions import Desk
from supercloud.model.errors import NotFound
from supercloud.model.permissions import Permission
from supercloud.services.doorkeeper import Bearer, Doorkeeper
from supercloud.services.sessions import Sessions
from supercloud.trust.tokens import Bounds, attenuate
from supercloud.web.actions import ACTIONS
from supercloud.web.gate import DOMAIN_EVENTS
from supercloud.web.kinds import KINDS
from supercloud.web.levels import LEVELLED
from supercloud.web.making import MAKINGS

pytestmark = pytest.mark.contract


async def test_less_of_a_token_is_less_of_a_session(cloud: Served) -> None:
    sign = cloud.sign()
    reads = frozenset(one for one in Permission if one.value.endswith(":read"))
    reader = attenuate(sign.token, Bounds(only=reads))
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        await code(cloud, Signing(sign.key, reader, cloud.channel))
    reader = attenuate(sign.token, Bounds(only=reads | {Permission.WEB_SIGN_IN}))
    async with signed_in(cloud, Signing(sign.key, reader, cloud.channel)) as one:
        (path,) = {link for link in links(await one.get("/web/instances")) if "/instances/" in link}
        page = await one.get(path)
        assert page.status_code == 200 and "/stop" not in page.text and "console" not in page.text
        for action in [name for kind, name in ACTIONS if kind == "instances"]:
            refused = await one.post(f"{path}/{action}", {**FILLED, "sure": "web"})
            assert refused.status_code == 403, "though the page does not offer it"
            assert "the token does not allow" in refused.text
        assert "/web/new/" not in (await one.get("/web/instances")).text
        for made in MAKINGS:
            assert (await one.get(f"/web/new/{made}")).status_code == 403
            assert (await one.post(f"/web/new/{made}", FILLED)).status_code == 403
        assert "Change" not in (await one.get(f"{path}/level")).text
        assert (await one.post(f"{path}/level", FILLED)).status_code == 403
    scoped = attenuate(sign.token, Bounds(only=frozenset({Permission.VM_READ, Permission.WEB_SIGN_IN})))
    async with signed_in(cloud, Signing(sign.key, scoped, cloud.channel)) as one:
        assert (await one.get("/web/")).status_code == 200, "what may not be read is left out"
        assert (await one.get("/web/images")).status_code == 403
        assert "/web/images" not in links(await one.get("/web/")), "nor is there a way to it"


async def test_others_things_are_not_there(api: Served, world: World) -> None:
    cast = await _assembled(api, world)
    ids = [one["id"] for one in itertools.chain.from_iterable((await cast.seen())[:-1])]
    async with signed_in(api, cast.signing["alice"]) as alice, signed_in(api, cast.signing["bob"]) as bob:
        hers = [path for path in await crawled(alice) if any(one in path for one in ids)]
        assert len(hers) >= 6
        for path in hers:
            if "/providers/" in path:
                continue  # everybody's
            assert (await bob.get(path)).status_code == 404, path
        for path, page in (await crawled(bob)).items():
            assert not any(one in page.text for one in ids), path
        for (collection, action), _ in ACTIONS.items():
            for path in [one for one in hers if one.startswith(f"/web/{collection}/") and "?" not in one]:
                form = {**FILLED, "to": "n1", "sure": "web"}
                assert (await bob.post(f"{path}/{action}", form)).status_code in {403, 404}, path
        for path in [one for one in hers if one.endswith("/level")]:
            assert (await bob.post(path, FILLED)).status_code == 404, path


# ---------------------------------------------------------------- the same rules as the API's


class _Asked:
    """Stands for a control plane: notes what was asked, and has nothing."""

    def __init__(self, permission: Permission, noted: set[tuple[str, Permission]]) -> None:
        self._permission = permission
        self._noted = noted

    def southbound(self) -> _Asked:
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*_: object, **__: object) -> None:
            self._noted.add((name, self._permission))
            raise NotFound("nothing is here")

        return ask


async def rules() -> set[tuple[str, Permission]]:
    """What the API asks of a control plane, and under which permission: of every operation that it has."""
    noted: set[tuple[str, Permission]] = set()
    app = create_app(MagicMock(), MagicMock(), Desk(Sessions(), str))
    for route in flattened(app.routes):
        if isinstance(route, APIRoute | APIWebSocketRoute) and (needs := guard.permissions(route.dependant)):
            parameters = inspect.signature(route.endpoint).parameters
            given: dict[str, Any] = {
                name: MagicMock() if one.default is inspect.Parameter.empty else one.default
                for name, one in parameters.items()
            }
            given[next(iter(parameters))] = _Asked(needs[0], noted)
            if "/web/" not in route.path:
                with pytest.raises(NotFound):
                    await route.endpoint(**given)
    return noted


async def test_the_web_asks_nothing_but_what_the_api_does_under_the_same_permission(
    cloud: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await rules()
    assert len(known) > 45 and ("stop_instance", Permission.VM_RUN) in known
    noted: set[tuple[str, Permission]] = set()
    admit = Doorkeeper.admit

    class Noting:
        def __init__(self, control: Any, permission: Permission) -> None:
            self._control, self._permission = control, permission

        def southbound(self) -> Noting:
            return Noting(self._control.southbound(), self._permission)

        def __getattr__(self, name: str) -> Any:
            noted.add((name, self._permission))
            return getattr(self._control, name)

    def noting(self: Doorkeeper, bearer: Bearer, permission: Permission, terms: Any = ()) -> Any:
        return Noting(admit(self, bearer, permission, terms), permission)

    async with signed_in(cloud) as one:
        monkeypatch.setattr(Doorkeeper, "admit", noting)
        await crawled(one)
        for path in LEVELLED:
            await one.post(f"/web/{path}/nosuch/level", FILLED)
        for path in MAKINGS:
            await one.post(f"/web/new/{path}", {**FILLED, "cloud": "nosuch", "name": "Not one"})
        for kind, name in ACTIONS:
            await one.post(f"/web/{kind}/nosuch/{name}", FILLED)
        async with one.socket("/web/instances/web/console"), one.socket("/web/blankets/north/console"):
            pass
        async with one.http.stream("GET", "/web/events") as stream:
            await anext(stream.aiter_lines())
        async with one.http.stream("GET", DOMAIN_EVENTS) as stream:
            await anext(stream.aiter_lines())
    for action in ACTIONS.values():
        with pytest.raises(NotFound):
            await action.ask(_Asked(action.permission, noted), "nosuch", _form())  # type: ignore[arg-type]
    for making in MAKINGS.values():
        with pytest.raises(NotFound):
            await making.ask(_Asked(making.permission, noted), _form())  # type: ignore[arg-type]
    acts = {"stop_instance", "cancel", "open_stream", "blanket_console", "watch", "set_level", "plan_window"}
    assert acts | {"run_instance", "remove_cloud", "explain_level", "health"} <= {name for name, _ in noted}
    assert noted <= known, noted - known


def _form() -> dict[str, tuple[str, ...]]:
    return {name: (value,) for name, value in FILLED.items()}


def test_nothing_that_is_done_gives_rights_away() -> None:
    """A session is worth less than a key: it makes no tokens, and no principals."""
    done = [*ACTIONS.values(), *MAKINGS.values()]
    given = {one.permission for one in done} | {one.read for one in KINDS.values()}
    assert not given & {Permission.TOKEN_MINT, Permission.PRINCIPAL_WRITE, Permission.CLOUD_EXPORT}
