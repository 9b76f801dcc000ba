"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from supercloud.model.errors import Unauthenticated
from supercloud.services.sessions import Sessions
from supercloud.web.ask import Visiting
from supercloud.web.forms import written
from supercloud.web.gate import SESSION, SIGN_IN, VISIT, Visit, keep_cookie
from supercloud.web.pages import page

SIGN_OUT = "/web/sign-out"
_Code = Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")]


async def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


_Kept = Annotated[Sessions, Depends(_sessions)]


def router() -> APIRouter:
    """A code is used up by a form that says who it signs in, never by a link alone: who follows one that
    somebody else sent sees whose session it would be.
    """
    found = APIRouter()

    @found.get(SIGN_IN)
    async def ask(visit: Visiting, sessions: _Kept, code: _Code = None) -> Response:
        if code is None and visit.bearer is not None:
            return RedirectResponse("/web/", status_code=303)
        return _page(visit, sessions, code)

    @found.post(SIGN_IN)
    async def begin(visit: Visiting, sessions: _Kept) -> Response:
        try:
            session = sessions.begin(written(visit.form, "code"))
        except Unauthenticated as error:
            return _page(visit, sessions, None, problem=error)
        sessions.end(visit.secret)  # the one of before
        answer = RedirectResponse("/web/", status_code=303)
        keep_cookie(answer, SESSION, session)
        keep_cookie(answer, VISIT, "")
        return answer

    @found.post(SIGN_OUT)
    async def end(visit: Visiting, sessions: _Kept) -> Response:
        sessions.end(visit.secret)
        answer = RedirectResponse(SIGN_IN, status_code=303)
        keep_cookie(answer, SESSION, "")
        answer.headers["Clear-Site-Data"] = '"cache"'
        return answer

    return found


def _page(
    visit: Visit, sessions: Sessions, code: str | None, *, problem: Unauthenticated | None = None
) -> Response:
    whose = None
    if code:
        try:
            whose = sessions.behind(code).known.name
        except Unauthenticated as error:
            problem, code = error, None
    answer = page(
        "sign_in.html",
        visit,
        title="Sign in",
        status=problem.http_status if problem is not None else 200,
        problem=problem,
        code=code or "",
        whose=whose,
    )
    if visit.bearer is None:
        keep_cookie(answer, VISIT, visit.secret)
    return answer
