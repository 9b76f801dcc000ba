"""`supercloud policy`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_json, print_rows, print_thing, printable
from supercloud.cli.session import Cloud, OptionalName, Output, connect, said
from supercloud.model.errors import InvalidInput

app = App(name="policy", help="What the loop does by itself: policies and rules, as files.")
_VERSIONS = ("version", "set_at", "by", "policies", "rules", "yara", "dry_run")
_Rules = Annotated[
    tuple[Path, ...], Parameter(name="--rules", help="a file or folder of Sigma rules, as often as needed")
]
_Yara = Annotated[
    tuple[Path, ...],
    Parameter(name="--yara", help="a file or folder of YARA rules over guests' memory, as often as needed"),
]


@app.command
def test(
    policy: Path,
    /,
    *,
    events: Annotated[Path | None, Parameter(help="OCSF events, one a line, as JSON")] = None,
    recording: Annotated[
        tuple[Path, ...], Parameter(help="what a blanket's detectors were shown: files, or a folder of them")
    ] = (),
    rules: _Rules = (),
    output: Output = Format.TABLE,
) -> None:
    """Try a policy on recorded events: what would have been found, decided and done, and why.

    Nothing is asked of anybody and nothing is done. Time is the events' own; reactions succeed at once. What
    an event says of its layer, domain and cloud is believed here: `unmapped: {layer, domain, cloud, object}`.
    A recording is shown to the detectors themselves, and what they tell is tried, by the usual rules unless
    there are others.

    Example: supercloud policy test policy.yaml --events attack.jsonl --rules rules/

    Example: supercloud policy test policy.yaml --recording quiet-hour.jsonl.gz

    Args:
        policy: A file of policies (YAML); - is standard input.
    """
    from supercloud.cli import policy as files

    found = files.load(policy)
    loaded = _loaded(rules) if rules else None
    own = None if loaded is None else loaded.rules
    if (events is None) == (not recording):
        raise InvalidInput("say on what it is tried", hint="with --events FILE, or with --recording FILE")
    tried = (
        files.tried(found, own, files.events_of(events)) if events else files.replayed(found, own, recording)
    )
    if output is Format.JSON:
        counts = {} if loaded is None else {"rules": dict(loaded.counts())}
        print_json({**tried.public(), **counts})
        return
    _say(f"{tried.events} events, {tried.findings} findings, {len(tried.incidents)} incidents")
    for refused in tried.refused:
        _say(f"not taken: {refused}")
    for incident in tried.incidents:
        _say(f"\n{incident['id']}  {incident['state']}  {incident['severity']}  {incident['title']}")
        for entry in incident["timeline"]:
            at = datetime.fromtimestamp(entry["at"], UTC).strftime("%H:%M:%S.%f")[:-3]
            _say(f"  {at}  {entry['kind']:<8}  {entry['says']}")


@app.command
def rules(
    *places: Path,
    served: Annotated[bool, Parameter(help="those that are used, and not those that are not")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say of Sigma rules which can be used here, and of each other one why not.

    Example: supercloud policy rules rules/ -o json

    Args:
        places: Files, or folders with *.yml in them.
    """
    loaded = _loaded(places)
    used: list[dict[str, Any]] = [
        {"rule": one.id, "title": one.title, "severity": one.severity, "source": one.source}
        for one in loaded.rules.rules
    ]
    used += [
        {"rule": one.id, "title": one.title, "severity": one.severity, "source": one.counting}
        for one in loaded.rules.correlations
    ]
    unused = [
        {"file": one.file, "rule": one.rule, "title": one.title, "lack": one.lack, "why": one.why}
        for one in loaded.unserved
    ]
    if output is Format.JSON:
        print_json({"counts": dict(loaded.counts()), "served": used, "unserved": unused})
        return
    if served:
        print_rows(used, ("rule", "severity", "source", "title"), output)
    else:
        print_rows(unused, ("rule", "lack", "why", "title"), output)
    counts = ", ".join(f"{many} {what}" for what, many in loaded.counts().items())
    sys.stderr.write(f"{counts}\n")


_Blanket = Annotated[str | None, Parameter(help="of this blanket alone, before its cloud's")]
_Horizontal = Annotated[
    bool, Parameter(negative="", help="what the cloud does over all of its blankets, and not each of them")
]


@app.command(name="set")
def set_(
    policy: Path,
    /,
    *,
    cloud: Cloud = None,
    blanket: _Blanket = None,
    horizontal: _Horizontal = False,
    dry_run: Annotated[bool, Parameter(negative="", help="say what would be done, and do nothing")] = False,
    rules: _Rules = (),
    yara: _Yara = (),
    output: Output = Format.TABLE,
) -> None:
    """Have a cloud's blankets, or one of them, go by a policy, and by rules of your own.

    It reaches each blanket that is connected, and each other one as it connects. What loops of blankets do by
    themselves they also do while the control plane is away.

    Example: supercloud policy set policy.yaml --cloud mine --rules rules/ --dry-run

    Example: supercloud policy set policy.yaml --cloud mine --yara memory.yar

    Args:
        policy: A file of policies (YAML); - is standard input.
    """
    import json
    from dataclasses import replace

    from supercloud.cli import policy as files
    from supercloud.security import usual
    from supercloud.security.terms import RuleSet
    from supercloud.wire.codec import to_json

    found = files.load(policy)
    loaded = _loaded(rules) if rules else None
    own = None if loaded is None else loaded.rules
    if yara:
        own = replace(own or usual.RULES, yara=files.yara_of(yara))
    body = {
        "policy": found.model_dump_json(by_alias=True, exclude_unset=True),
        "rules": None if own is None else json.dumps(to_json(RuleSet, own)),
        "dry_run": dry_run,
    }
    path, query = _where(cloud, blanket, horizontal=horizontal)
    answer = connect().put(path, body, **query)
    for one in () if loaded is None else loaded.unserved:
        sys.stderr.write(f"{printable(f'not used: {one.title or one.file}: {one.why}')}\n")
    _tell(answer, output)


@app.command
def show(
    blanket: OptionalName = None,
    /,
    *,
    cloud: Cloud = None,
    horizontal: _Horizontal = False,
    output: Output = Format.TABLE,
) -> None:
    """Show the policy that a blanket's loop goes by, or a cloud's and which blankets have it.

    Example: supercloud policy show --cloud mine

    Args:
        blanket: Its name; without it, the cloud's.
    """
    path, query = _where(cloud, blanket, horizontal=horizontal)
    found = connect().get(path, **query)
    if output is Format.JSON or blanket is not None:
        print_thing(found, output)
        return
    rows = found.pop("blankets")
    print_thing(found, output)
    sys.stdout.write("\n")
    print_rows(rows, ("blanket", "own", "version", "waits", "problem"), output)


@app.command
def history(
    blanket: OptionalName = None,
    /,
    *,
    cloud: Cloud = None,
    horizontal: _Horizontal = False,
    output: Output = Format.TABLE,
) -> None:
    """List the versions of a cloud's policy, or of a blanket's own; the newest first.

    Example: supercloud policy history --cloud mine

    Args:
        blanket: Its name; without it, the cloud's.
    """
    path, query = _where(cloud, blanket, horizontal=horizontal)
    print_rows(connect().get(f"{path}/versions", **query), _VERSIONS, output)


@app.command
def rollback(
    version: int,
    /,
    *,
    cloud: Cloud = None,
    blanket: _Blanket = None,
    horizontal: _Horizontal = False,
    dry_run: Annotated[
        bool | None, Parameter(negative="--no-dry-run", help="as it was then, unless you say")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Go back to an earlier version, as a new one.

    Example: supercloud policy rollback 3 --cloud mine

    Args:
        version: As history shows it.
    """
    path, query = _where(cloud, blanket, horizontal=horizontal)
    answer = connect().post(f"{path}/rollback", {"version": version, "dry_run": dry_run}, **query)
    _tell(answer, output)


@app.command
def unset(
    *,
    cloud: Cloud = None,
    blanket: _Blanket = None,
    horizontal: _Horizontal = False,
    output: Output = Format.TABLE,
) -> None:
    """Take a blanket's own policy away, so that its cloud's counts, or the cloud's.

    Example: supercloud policy unset --blanket n1
    """
    path, query = _where(cloud, blanket, horizontal=horizontal)
    _tell(connect().delete(path, **query), output)


def _where(cloud: str | None, blanket: str | None, *, horizontal: bool) -> tuple[str, dict[str, Any]]:
    """
    Raises:
        InvalidInput: neither a cloud nor a blanket is named.
    """
    if blanket is not None:
        if horizontal:
            raise InvalidInput(
                "a blanket does nothing over others", hint="leave --blanket or --horizontal out"
            )
        return f"/blankets/{blanket}/policy", {"cloud": cloud}
    if cloud is None:
        raise InvalidInput("say whose policy it is", hint="with --cloud CLOUD, or with a blanket")
    return f"/clouds/{cloud}/policy", {"horizontal": "true" if horizontal else None}


def _tell(answer: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        print_json(answer)
        return
    if "blanket" in answer:
        goes = "goes by it as soon as it is back" if answer["waits"] else "goes by it"
        said(f"blanket {answer['blanket']} {goes}", output)
        return
    rows = answer["blankets"]
    late = [row["blanket"] for row in rows if row["waits"]]
    for row in rows:
        if row["problem"]:
            sys.stderr.write(f"{printable(row['blanket'])} does not take it: {printable(row['problem'])}\n")
    kind = "horizontal policy" if answer["horizontal"] else "policy"
    waits = f"; as soon as they are back: {', '.join(late)}" if late else ""
    said(f"version {answer['version']} is the {kind} of cloud {answer['cloud']}{waits}", output)


def _loaded(places: tuple[Path, ...]) -> Any:
    from supercloud.cli import policy as files
    from supercloud.security.sigma import load

    return load(files.rule_files(places))


def _say(line: str) -> None:
    sys.stdout.write(
        f"{printable(line) if not line.startswith(chr(10)) else chr(10) + printable(line[1:])}\n"
    )
