"""How a browser gets a session: a code, for whoever proves to hold a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Request, status

from supercloud.api.bodies import Router
from supercloud.api.guard import WebSignIn
from supercloud.services.sessions import CODE_S, Sessions

PATH = "/web/codes"


@dataclass(frozen=True, slots=True)
class Desk:
    """Where codes are given out. `fingerprint`: of the certificate that browsers are shown."""

    sessions: Sessions
    fingerprint: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """Good once, in a browser, for a session that may do what the token of this request may."""

    code: str
    path: str  # of the page that takes it
    valid_s: float
    fingerprint: str  # SHA-256 of the certificate that the browser is shown, as browsers write it


def router() -> APIRouter:
    """The one operation, at the application's desk."""
    found = Router(tags=["web"])

    @found.post(PATH, status_code=status.HTTP_201_CREATED)
    async def code(_: WebSignIn, request: Request) -> CodeView:
        desk: Desk = request.app.state.desk
        made = desk.sessions.code(request.state.bearer)
        path = f"/web/sign-in?code={made}"
        return CodeView(code=made, path=path, valid_s=CODE_S, fingerprint=desk.fingerprint())

    return found
