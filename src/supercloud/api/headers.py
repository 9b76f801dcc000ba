"""The headers that middleware reads and writes, in the API's description."""

from __future__ import annotations

from typing import Any

from supercloud.api.conditions import about_one
from supercloud.api.problems import MEDIA_TYPE
from supercloud.api.repeats import HEADER, METHODS

#: As api.conditions and api.repeats read them.
_TAG = r'(W/)?"[!#-~]{0,128}"'
_TAGS = {"type": "string", "pattern": rf"^(\*|{_TAG}(, ?{_TAG}){{0,15}})$"}
_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": (
        "Yours for this one request. The same request with the same key is answered as before, for 24 hours."
    ),
    "schema": {"type": "string", "pattern": r'^("[!#-\[\]-~]{1,128}"|[A-Za-z0-9_.:-]{1,128})$'},
}
_CONDITIONS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": said,
        "schema": _TAGS,
        "example": '"5d41402abc4b2a76b9719d911017c592"',
    }
    for name, said in (
        ("If-Match", "Only if the thing still has this entity tag"),
        ("If-None-Match", "Only if the thing has another entity tag"),
    )
]
_ETAG = {"description": "Of what is shown, but for what counts down", "schema": {"type": "string"}}
_LINK = {"description": 'To the next part, `rel="next"`, where there is more', "schema": {"type": "string"}}


def describe(document: dict[str, Any]) -> None:
    """Add them to every operation that they concern. Doing it again changes nothing."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            _add(operation, method.upper(), thing="{" in path and about_one(path))


def _add(operation: dict[str, Any], method: str, *, thing: bool) -> None:
    parameters = operation.setdefault("parameters", [])
    known = {one["name"] for one in parameters}
    wanted = [_KEY] if method in METHODS else []
    wanted += _CONDITIONS if method == "GET" or thing else []
    parameters += [one for one in wanted if one["name"] not in known]
    answers = operation["responses"]
    problem = answers["default"]["content"][MEDIA_TYPE]
    if thing and method != "GET":
        answers["412"] = {"description": "Not as it was any more", "content": {MEDIA_TYPE: problem}}
    shown = answers.get("200", {})
    if method == "GET" and "application/json" in shown.get("content", {}):
        shown["headers"] = {"ETag": _ETAG} | ({"Link": _LINK} if "cursor" in known else {})
        answers["304"] = {"description": "You have it already"}
