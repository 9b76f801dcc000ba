"""What a cloud's file may say, and how it is told what it may not: everything at once, each at its place."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from clouds import declared
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from supercloud.cli.declared import models
from supercloud.cli.declared.read import Declared, Wrong, read
from supercloud.cli.declared.tree import MAX_BYTES, parse
from supercloud.cli.declared.write import document
from supercloud.services.requests import (
    AddBlanket,
    AddProvider,
    CreateCloud,
    CreateNetwork,
    CreateVolume,
    RunInstance,
)
from supercloud.services.views import WantedCloud

pytestmark = pytest.mark.unit
HEAD = "version: 1\ncloud: {name: mine}\n"
BLANKETS = HEAD + "blankets: {n1: {provider: north}, s1: {provider: north}}\n"
WEB = HEAD + "instances:\n  web:\n    image: debian\n"


def problems(text: str | bytes, folder: Path = Path("/nowhere")) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    try:
        read(content, "c", folder)
    except Wrong as error:
        return error.lines
    return []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c:1:1: the file is empty; supercloud export"),
        ("- a", "c:1:1: this is not a mapping; write"),
        (HEAD.replace("1", "2"), "c:1:10: this is version 2 of the format, and version 1 is read"),
        ("cloud: {name: mine}", "c:1:1: `version` is missing; add it: of this format"),
        (HEAD.replace("mine", "Mine"), "c:2:15: “Mine” is not a name; use up to 63 lower-case"),
        (HEAD.replace("mine", "007"), "c:2:15: 7 is not text; put it in quotes"),
        (HEAD + "blanket: {}", "c:3:1: there is no `blanket` here; did you mean `blankets`?"),
        (HEAD + "levels: {}", "c:3:1: there is no `levels` here; there is: blankets, cloud, instances,"),
        (
            HEAD + "trust:\n  a: {to: lab, kind: connect, network: lan, toNetwork: x}",
            "c:4:40: there is no network lan in this file",
        ),
        (
            HEAD + "trust:\n  a: {to: lab, kind: place, blanket: big}",
            "c:4:38: there is no blanket big in this file",
        ),
        (HEAD + "trust: {a: {to: lab, kind: place}}", "c:3:12: place needs `blanket`"),
        (HEAD + "trust: {a: {to: lab, kind: share-image}}", "c:3:12: share-image needs `image`"),
        (
            HEAD + "trust: {a: {to: lab, kind: see-findings, image: x}}",
            "c:3:12: `image` is nothing that see-findings",
        ),
        (
            HEAD + "trust: {a: {to: lab, kind: see-findings, lasts: long}}",
            "c:3:49: 'long' is not a length of time",
        ),
        (HEAD + "networks: {lan: 10.0.0.0/24}", "c:3:17: “10.0.0.0/24” is not a mapping; write `key: value`"),
        (HEAD + "networks: {lan: {cidr: 8.8.8.0/24}}", "c:3:24: 8.8.8.0/24 is not a private network"),
        (HEAD + "networks: {lan: {cidr: lan}}", "c:3:24: “lan” is not a network; write it as 10.20.0.0/24"),
        (HEAD + "networks: {l_n: {cidr: 10.1.0.0/24}}", "c:3:12: “l_n” is not a name; use up to"),
        (HEAD + "volumes: {a: {size: 10Q}}", "c:3:21: '10Q' is not a size such as 512M or 10G; change it:"),
        (HEAD + "volumes: {a: {size: 1K}}", "c:3:21: a volume's size is a whole number of MiB, at least one"),
        (BLANKETS.replace("north}}", "north, vcpus: 65}}"), "c:3:64: 65 is too large; write at most 64"),
        (
            BLANKETS.replace("north}}", "north, memory: 32M}}"),
            "c:3:65: 32 is too small; write at least 64 (MiB)",
        ),
        (
            BLANKETS.replace("north}}", "north, flavour: kvn}}"),
            "c:3:66: “kvn” is not known here; write 'kvm'",
        ),
        (HEAD.replace("mine", "a, rightMargin: 1"), "c:2:31: the margin has to be 15 to 600 s"),
        (WEB + "    hold: yes", "c:6:11: “yes” is neither true nor false; write true or false"),
        (WEB + "    networks: lan", "c:6:15: “lan” is not a list; write it as [a, b]"),
        (WEB + "    publish: [80]", "c:6:14: a published port needs a --network"),
        (WEB + "    publish: [http]", "c:6:15: 'http' is not PORT or PORT_HERE:PORT; change it: TCP ports"),
        (WEB + "    blanket: n1", "c:6:14: there is no blanket n1 in this file; there is none"),
        (WEB + "    userData: x\n    userDataFile: y", "c:7:19: there is `userData` as well; change it:"),
        (WEB + '    userData: "\\0"', "c:6:15: “?” has a NUL in it; leave it out"),
        (WEB + "    sshKeys: ['a\n\n     b']", "c:6:15: “a?b” is more than one line"),
        (
            BLANKETS + "volumes: {a: {size: 1G, blanket: n2}}",
            "c:4:34: there is no blanket n2 in this file; there is: n1, s1",
        ),
        (HEAD + "blankets: {n1: {vcpus: 1}}", "c:3:12: blanket n1 says neither `provider` nor `in`; say"),
        (
            HEAD + "blankets: {n1: {provider: north, in: n2}}",
            "c:3:12: blanket n1 says both `provider` and `in`; say one",
        ),
        (HEAD + "cloud: {name: b}", "c:3:1: `cloud` is here twice, first in line 2; remove one"),
        (HEAD + "networks: &a {}\nvolumes: *a", "c:4:10: aliases are not read; write out"),
        (
            HEAD + "networks: !!python/object:os.system {}",
            "c:3:11: tags such as tag:yaml.org,2002:python/obj",
        ),
        (HEAD + "? [a]\n: b", "c:3:3: this cannot be a key; a key is plain text"),
        (HEAD + "a: " + "[" * 20 + "]" * 20, "c:3:19: nested more than 16 deep"),
        (HEAD + "---\na: b", "c:3:1: a second document begins; one file is one cloud"),
        (HEAD + "networks: {lan: [}", "c:3:18: this is not YAML: while parsing a flow node"),
        (HEAD + "\tnetworks: {}", "c:3:1: this is not YAML: while scanning for the next token found"),
        (HEAD + 'a: "\\UFFFFFFFF"', "c:3:"),
        (HEAD + '"\\ud800": a', "c:3:1: this cannot be a key"),
        (HEAD + 'networks: "\\ud800"', "c:3:11: half of a surrogate pair is no text"),
        (HEAD + "a: \x07", "c:3:4: U+0007 is not allowed in YAML"),
        (HEAD.encode() + b"a: \xff", "c:3:4: this is not UTF-8; save it as UTF-8"),
        (b"\xef\xbb\xbf" + HEAD.encode() + b"a: \xff", "c:3:4: this is not UTF-8"),
        (b"x" * (MAX_BYTES + 1), "c:1:1: it has more than 4194304 bytes"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(text: str | bytes, said: str) -> None:
    found = problems(text)
    assert any(line.startswith(said) for line in found), found
    assert all("; " in line and line.isprintable() for line in found)


def test_everything_is_said_at_once() -> None:
    text = """\
version: 1
cloud: {name: Mine, rihgtMargin: 15}
blankets:
  n1: {memory: 2G, vcpus: "2"}
networks:
  wide: {cidr: 10.20.0.0/16}
  one: {cidr: 10.20.1.0/24}
  two: {cidr: 10.20.2.0/24}
volumes:
  data: {size: 1G, blanket: n1}
  web-root: {size: 1G}
instances:
  web: {image: debian, networks: [lan], publish: ["8080:80"], volumes: [data], blanket: n2}
  db: {image: debian, networks: [one], publish: ["8080:80"], volumes: [data, dat]}
"""
    assert [line.split(": ", 1)[0] for line in problems(text)] == [
        f"c:{place}"
        for place in ("2:15", "2:21", "4:3", "4:27", "7:15", "8:15", "11:3", "13:35", "13:73", "13:89")
    ] + ["c:14:50", "c:14:72", "c:14:78"]


def test_a_thousand_problems_are_cut_short() -> None:
    found = problems(HEAD + "".join(f"k{index}: 1\n" for index in range(1000)))
    assert len(found) == 51 and found[-1] == "c: and 950 more"


def test_scalars_are_those_of_yaml_1_2() -> None:
    text = "[on, no, 0o17, 017, 1_000, 1:30, 1e3, .5, ~, 'true', True, 0x1F, 1e999, .inf, 2001-01-01, '']"
    assert parse(text.encode()).data == [
        *("on", "no", 15, 17, "1_000", "1:30", 1000.0, 0.5, None, "true", True, 31),
        *("1e999", ".inf", "2001-01-01", ""),
    ]


def test_sections_may_be_empty_and_sizes_be_numbers(tmp_path: Path) -> None:
    text = HEAD + "providers:\nblankets:\nvolumes: {a: {size: 1048576}, b: {size: 1.5g}, c: {size: 2GiB}}\n"
    wanted = read(text.encode(), "c", tmp_path).declared.wanted
    assert [one.size_bytes for one in wanted.volumes] == [1 << 20, 3 << 29, 2 << 30]


# ---------------------------------------------------------------- user data beside the file


def test_user_data_comes_from_a_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "web.yaml").write_text("#cloud-config\n")
    (tmp_path / "link").symlink_to("below/web.yaml")
    for named in ("below/web.yaml", "link", "below/../below/web.yaml", str(tmp_path / "below" / "web.yaml")):
        found = read((WEB + f"    userDataFile: {named}").encode(), "c", tmp_path).declared
        assert found.user_data == {"web": "#cloud-config\n"} and found.wanted.user_data == ("web",), named
    within = read((WEB + "    userData: x").encode(), "c", tmp_path).declared
    assert within.user_data == {"web": "x"} and within.wanted.instances[0].user_data is None


def test_no_other_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "out").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    (folder / "large").write_bytes(b"x" * 65537)
    (folder / "bytes").write_bytes(b"\xff")
    (folder / "nul").write_bytes(b"a\0")
    os.mkfifo(folder / "pipe")
    for named, why in (
        ("../secret", "is outside of the folder"),
        ("out", "is outside of the folder"),
        (str(tmp_path / "secret"), "is outside of the folder"),
        ("/dev/zero", "is outside of the folder"),
        ("loop", "cannot be read"),
        ("none", "cannot be read: No such file"),
        ("x" * 300, "cannot be read: File name too long"),
        ("sub", "cannot be read: it is not a file"),
        ("pipe", "cannot be read: it is not a file"),
        ("large", "user data has at most 65536 bytes"),
        ("bytes", "cannot be read: it is not text"),
        ("nul", "has a NUL in it"),
    ):
        (line,) = problems(WEB + f"    userDataFile: {named}", folder)
        assert line.startswith("c:6:19: ") and why in line and "secret;" not in line, line


# ---------------------------------------------------------------- one definition of each rule

#: What a request has, and the file says elsewhere or in another form.
_KEYS = {
    "cloud": "",
    "name": "",
    "parent": "in",
    "owner": "",  # a file makes what is its own user's
    "on": "blanket",
    "memory_mib": "memory",
    "disk_bytes": "disk",
    "size_bytes": "size",
    "right_length_s": "rightLength",
    "right_margin_s": "rightMargin",
    "right_grace_s": "rightGrace",
    "user_data": "userData",
    "ssh_keys": "sshKeys",
    "debug_shell": "debugShell",
    "cpu_model": "cpuModel",
}
_PAIRS: list[tuple[type[Any], type[models.Part]]] = [
    (CreateCloud, models.Cloud),
    (AddProvider, models.Provider),
    (AddBlanket, models.Blanket),
    (CreateNetwork, models.Network),
    (CreateVolume, models.Volume),
    (RunInstance, models.Instance),
]


@pytest.mark.parametrize(("request_type", "part"), _PAIRS)
def test_the_file_has_all_that_a_request_has(request_type: type[Any], part: type[models.Part]) -> None:
    fields = {_KEYS.get(one.name, one.name) for one in dataclasses.fields(request_type)} - {""}
    own = (
        {"name"}
        if part is models.Cloud
        else {"volumes", "userDataFile"}
        if part is models.Instance
        else set()
    )
    assert set(models.keys_of(part)) == fields | own
    assert all(models.keys_of(part).values()), "each is explained in the schema"


@settings(max_examples=60, deadline=None)
@given(declared())
def test_what_the_file_asks_for_the_api_takes(wanted: Declared) -> None:
    """By its own types; and the file's defaults are the API's."""
    found = TypeAdapter(WantedCloud).validate_python(dataclasses.asdict(wanted.wanted))
    assert found == wanted.wanted
    bare = read(
        (WEB + "volumes: {a: {size: 1M}}\n").encode() + BLANKETS[len(HEAD) :].encode(), "c", Path("/")
    )
    assert bare.declared.wanted.instances == (RunInstance(name="web", cloud="mine", image="debian"),)
    assert bare.declared.wanted.blankets[0] == AddBlanket(name="n1", cloud="mine", provider="north")


# ---------------------------------------------------------------- the schema that editors have

SCHEMA = jsonschema_rs.validator_for(models.json_schema())
#: What a schema cannot say: what one entry says of another, and arithmetic.
_UNSAYABLE = (
    "in this file",
    "overlaps",
    "already",
    "boots from",
    "is for blanket",
    "as well",
    "is too small",
    "is too large",
    "whole number of MiB",
    "is not PORT",
    "private network",
    "is not a network:",
    "blankets themselves",
    "a right has to last",
    "the margin has to be",
    "the grace time",
    "needs a --network",
    "at most 4 networks",
    "in the list twice",
    "user data has at most",
    "cannot be read",
    "each once",
)


def test_the_schema_is_one() -> None:
    jsonschema_rs.meta.validate(models.json_schema())


@settings(max_examples=60, deadline=None)
@given(declared())
def test_the_schema_takes_what_is_written(wanted: Declared) -> None:
    SCHEMA.validate(document(wanted.wanted, wanted.providers))


_values = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        2.5,
        1 << 60,
        "",
        "x",
        "X",
        "1G",
        "10.1.0.0/24",
        "80:80",
        [],
        ["x"],
        [1],
        {},
        {"x": 1},
    ]
)


@settings(max_examples=300, deadline=None)
@given(declared(), st.data())
def test_the_schema_and_the_models_agree(wanted: Declared, data: st.DataObject) -> None:
    """Something is put somewhere else. What the models take the schema takes, and what they refuse it refuses
    where a schema can."""
    content = document(wanted.wanted, wanted.providers)
    place: Any = content
    while True:
        key = data.draw(
            st.sampled_from([*place, "new", "userData", "userDataFile"])
            if isinstance(place, dict)
            else st.just(0)
        )
        below = place.get(key) if isinstance(place, dict) else None
        if not isinstance(below, dict) or not below or data.draw(st.integers(0, 3)) == 0:
            break
        place = below
    place[key] = data.draw(_values)
    found = problems(json.dumps(content))
    if not found:
        SCHEMA.validate(content)
    elif not all(any(said in line for said in _UNSAYABLE) for line in found):
        assert not SCHEMA.is_valid(content), found
