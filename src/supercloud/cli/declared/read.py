"""A file into what it declares, or all that is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File

from pydantic import ValidationError

from supercloud.cli.declared import references, userdata
from supercloud.cli.declared.models import CloudFile, filled
from supercloud.cli.declared.tree import MAX_BYTES, Path, Place, Problem, Tree, parse
from supercloud.cli.declared.wrong import problems_of
from supercloud.cli.output import printable
from supercloud.model.errors import InvalidInput
from supercloud.model.names import Name
from supercloud.model.quota import Quota
from supercloud.services.requests import AddProvider, GrantTrust
from supercloud.services.views import WantedCloud

_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the file asks for, as the API would be asked, and user data in clear, by instance."""

    wanted: WantedCloud
    providers: Mapping[Name, AddProvider]
    user_data: Mapping[Name, str] = field(default_factory=dict, repr=False)
    quota: Quota | None = None  # None: whatever the cloud has
    trust: Mapping[Name, GrantTrust] = field(default_factory=dict)


class Document:
    """One that was read, and where what it says stands in it."""

    def __init__(self, title: str, declared: Declared, tree: Tree) -> None:
        self.title = title
        self.declared = declared
        self._tree = tree

    def where(self, path: Path) -> str:
        """`file:line:column`."""
        return f"{self.title}:{self._tree.key_place(path)}"


class Wrong(InvalidInput):
    """With every problem that the file has, in its order."""

    def __init__(self, title: str, problems: list[Problem]) -> None:
        count = len(problems)
        things = "1 thing is" if count == 1 else f"{count} things are"
        super().__init__(f"{title}: {things} wrong in it", hint="nothing was done")
        self.lines = [printable(f"{title}:{problem}") for problem in problems[:_SHOWN]]
        if count > _SHOWN:
            self.lines.append(printable(f"{title}: and {count - _SHOWN} more"))


def load(file: File) -> Document:
    """`-` is standard input.

    Raises:
        Wrong: what it says cannot be.
        InvalidInput: it cannot be read.
    """
    if str(file) == "-":
        return read(sys.stdin.buffer.read(MAX_BYTES + 1), "<stdin>", File.cwd())
    try:
        with file.open("rb") as content:
            return read(content.read(MAX_BYTES + 1), str(file), file.absolute().parent)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error


def read(content: bytes, title: str, folder: File) -> Document:
    """`folder` is where files that it names are.

    Raises:
        Wrong: with all that is wrong at once.
    """
    tree = parse(content)
    problems = list(tree.problems)
    if tree.data is None and not problems:
        problems.append(Problem(Place(1, 1), "the file is empty", "supercloud export CLOUD writes one"))
    user_data = _UserData(folder, tree)
    model = None
    if tree.data is not None:
        problems += user_data.problems
        problems += references.check(tree)
        try:
            model = CloudFile.model_validate_json(json.dumps(filled(tree.data)))
        except ValidationError as error:
            problems += problems_of(error, tree)
    if problems or model is None:
        raise Wrong(title, sorted(set(problems)))
    return Document(title, _declared(model, user_data.texts), tree)


class _UserData:
    """What the `userDataFile`s hold, by instance."""

    def __init__(self, folder: File, tree: Tree) -> None:
        self.texts: dict[Name, str] = {}
        self.problems: list[Problem] = []
        for name, instance in references.entries(tree.data, "instances").items():
            named = instance.get("userDataFile")
            if not isinstance(named, str):
                continue
            try:
                self.texts[name] = userdata.content(folder, named)
            except InvalidInput as error:
                place = tree.place(("instances", name, "userDataFile"))
                self.problems.append(Problem(place, error.message, error.hint or "make it shorter"))


def _declared(model: CloudFile, beside: Mapping[Name, str]) -> Declared:
    """`beside` is user data of files of its own."""
    cloud = model.cloud.name
    within = {name: one.user_data for name, one in model.instances.items() if one.user_data is not None}
    user_data = {**within, **beside}
    return Declared(
        user_data=user_data,
        quota=None if model.cloud.quota is None else model.cloud.quota.request(),
        providers={name: one.request(name) for name, one in model.providers.items()},
        trust={name: one.request(cloud) for name, one in model.trust.items()},
        wanted=WantedCloud(
            cloud=model.cloud.request(),
            blankets=tuple(one.request(name, cloud) for name, one in model.blankets.items()),
            networks=tuple(one.request(name, cloud) for name, one in model.networks.items()),
            volumes=tuple(one.request(name, cloud) for name, one in model.volumes.items()),
            instances=tuple(one.request(name, cloud) for name, one in model.instances.items()),
            attached={name: one.volumes for name, one in model.instances.items() if one.volumes},
            user_data=tuple(sorted(user_data)),
        ),
    )
