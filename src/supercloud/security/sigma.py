"""Sigma into the loop's own terms, and of what cannot be used, why.

pySigma reads and validates the syntax; only what its tree means is turned into `terms` here. It runs where
people hand rules in, never in a blanket: what a blanket gets is the result. No rule's text is trusted: it is
bounded, read without YAML's aliases, and its regular expressions are RE2's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.correlations import (
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
    SigmaCorrelationRule,
    SigmaExtendedCorrelationCondition,
)
from sigma.exceptions import SigmaError
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import PythonRegexEngine
from sigma.rule import SigmaRule
from sigma.rule.base import SigmaRuleBase
from sigma.types import (
    Placeholder,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
    SpecialChars,
)

from supercloud.model.errors import InvalidInput
from supercloud.model.findings import Severity
from supercloud.model.ocsf import one_line
from supercloud.security import match, terms
from supercloud.security.events import COMMON, SOURCES, EventSource

#: Here a regular expression is only read: what RE2 does not take is not used (`match.py`), and said to be so.
_AS_WRITTEN = SigmaPolicy(regex_engine=PythonRegexEngine())
#: Of one file, which may hold several rules.
FILE_BYTES = 1 << 20
_LEVELS = {
    "INFORMATIONAL": Severity.INFORMATIONAL,
    "LOW": Severity.LOW,
    "MEDIUM": Severity.MEDIUM,
    "HIGH": Severity.HIGH,
    "CRITICAL": Severity.CRITICAL,
}


class Lack(StrEnum):
    """Why a rule cannot be used."""

    LOG_SOURCE = "log source"  # no source here gives such events
    FIELD = "field"  # there is a source, whose events have not all fields
    CONSTRUCT = "construct"  # the syntax means what is not decided on a stream, or not in linear time
    INVALID = "invalid"  # it is no Sigma
    PART = "part"  # of a correlation: a rule that it is made of is not used


class _Unserved(Exception):
    def __init__(self, lack: Lack, why: str) -> None:
        super().__init__(why)
        self.lack = lack
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    file: str
    rule: str
    title: str
    lack: Lack
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    rules: terms.RuleSet
    unserved: tuple[Unserved, ...]

    def counts(self) -> Mapping[str, int]:
        """How many are used, and how many not for each reason."""
        lacks = Counter(one.lack.value for one in self.unserved)
        return {"served": len(self.rules.rules) + len(self.rules.correlations), **lacks}


def load(files: Iterable[tuple[str, bytes]], sources: Sequence[EventSource] = SOURCES) -> Loaded:
    """Every rule of the files, each by its name and content. Never raises for what they hold."""
    reader = _Reader(sources)
    for name, content in files:
        reader.file(name, content)
    return reader.loaded()


class _Reader:
    def __init__(self, sources: Sequence[EventSource]) -> None:
        self._sources = sources
        self._rules: dict[str, terms.Rule] = {}
        self._names: dict[str, str] = {}  # what a rule can be called by, its id
        self._waiting: list[tuple[str, SigmaCorrelationRule]] = []
        self._unserved: list[Unserved] = []

    def file(self, name: str, content: bytes) -> None:
        try:
            documents = _documents(content)
        except _Unserved as error:
            self._refuse(name, "", "", error)
            return
        for document in documents:
            self._document(name, document)

    def _document(self, file: str, document: Any) -> None:
        if not isinstance(document, dict):
            self._refuse(file, "", "", _Unserved(Lack.INVALID, "a rule is a mapping"))
            return
        called, title = str(document.get("id") or document.get("name") or ""), str(document.get("title", ""))
        try:
            if "filter" in document or "action" in document:
                raise _Unserved(Lack.CONSTRUCT, "filters and actions over several rules are not read")
            if "correlation" in document:
                rule = _parsed(SigmaCorrelationRule, document)
                self._waiting.append((file, rule))
                return
            self._add(self._rule(_parsed(SigmaRule, document)))
        except _Unserved as error:
            self._refuse(file, called, title, error)

    def _add(self, rule: terms.Rule) -> None:
        if rule.id in self._rules:
            raise _Unserved(Lack.INVALID, f"another rule is called {rule.id} as well")
        self._rules[rule.id] = rule
        self._names |= {name: rule.id for name in (rule.id, rule.name) if name}

    def _refuse(self, file: str, rule: str, title: str, error: _Unserved) -> None:
        self._unserved.append(
            Unserved(
                file=file,
                rule=one_line(rule)[:200],
                title=one_line(title)[:256],
                lack=error.lack,
                why=one_line(error.why)[:400],
            )
        )

    # ------------------------------------------------------------ one rule

    def _rule(self, rule: SigmaRule) -> terms.Rule:
        condition = _condition(rule)
        source = self._source(rule, _fields(condition))
        return _checked(
            terms.Rule(
                id=_id(rule),
                name=rule.name,
                title=one_line(rule.title)[:256] or _id(rule),
                severity=_severity(rule),
                source=source.name,
                condition=condition,
            )
        )

    def _source(self, rule: SigmaRule, fields: set[str]) -> EventSource:
        wanted = rule.logsource
        said = {
            part: value
            for part in ("category", "product", "service")
            if (value := getattr(wanted, part)) is not None
        }
        found = [one for one in self._sources if all(getattr(one, key) == said[key] for key in said)]
        if not found:
            told = ", ".join(f"{key} {value}" for key, value in said.items())
            raise _Unserved(Lack.LOG_SOURCE, f"nothing here gives events of {told}")
        lacking = [sorted(fields - COMMON - set(one.fields)) for one in found]
        for one, missing in zip(found, lacking, strict=True):
            if not missing:
                return one
        raise _Unserved(Lack.FIELD, f"events of {found[0].name} have no {', '.join(lacking[0])}")

    # ------------------------------------------------------------ correlations

    def loaded(self) -> Loaded:
        """Correlations last, each after those that it is made of."""
        done: list[terms.Correlation] = []
        waiting = self._waiting
        while waiting:
            later = []
            for file, rule in waiting:
                if any(ref.reference in self._still(waiting, rule) for ref in rule.rules or ()):
                    later.append((file, rule))
                    continue
                try:
                    done.append(self._correlation(rule))
                    self._names |= {name: _id(rule) for name in (_id(rule), rule.name) if name}
                except _Unserved as error:
                    self._refuse(file, _id(rule), rule.title, error)
            if len(later) == len(waiting):  # they are made of one another
                for file, rule in later:
                    self._refuse(file, _id(rule), rule.title, _Unserved(Lack.INVALID, "made of itself"))
                break
            waiting = later
        silent = self._silent(done)
        return Loaded(
            rules=terms.RuleSet(
                rules=tuple(_replaced(rule, reports=rule.id not in silent) for rule in self._rules.values()),
                correlations=tuple(_replaced(one, reports=one.id not in silent) for one in done),
            ),
            unserved=tuple(self._unserved),
        )

    def _still(self, waiting: list[tuple[str, SigmaCorrelationRule]], of: SigmaCorrelationRule) -> set[str]:
        others = [rule for _, rule in waiting if rule is not of and _id(rule) not in self._names]
        refused = {one.rule for one in self._unserved}
        return {
            name
            for rule in others
            if _id(rule) not in refused
            for name in (_id(rule), rule.name)
            if name is not None
        } | ({_id(of)} if of.rules and any(ref.reference == _id(of) for ref in of.rules) else set())

    def _silent(self, correlations: list[terms.Correlation]) -> set[str]:
        """What is only a part of something: Sigma has it report nothing, unless it is said to."""
        loud = {_id(rule) for _, rule in self._waiting if rule.generate}
        return {part for one in correlations if one.id not in loud for part in one.rules}

    def _correlation(self, rule: SigmaCorrelationRule) -> terms.Correlation:
        condition, counting = rule.condition, _counting(rule)
        if isinstance(condition, SigmaExtendedCorrelationCondition):
            raise _Unserved(Lack.CONSTRUCT, "conditions over the rules of a correlation are not read")
        parts = tuple(self._part(ref.reference) for ref in rule.rules or ())
        least = _least(condition, counting, len(parts))
        values = condition.fieldref if counting is terms.Counting.VALUE_COUNT else None
        if isinstance(values, list):
            raise _Unserved(Lack.CONSTRUCT, "values of several fields together are not counted")
        aliases = {
            name: {self._part(part): field for part, field in mapping.items()}
            for name, mapping in rule.aliases.to_dict().items()
        }
        found: terms.Correlation = _built(
            lambda: terms.Correlation(
                id=_id(rule),
                name=rule.name,
                title=one_line(rule.title)[:256] or _id(rule),
                severity=_severity(rule),
                counting=counting,
                rules=parts,
                group_by=tuple(rule.group_by or ()),
                seconds=float(rule.timespan.seconds),
                least=least,
                values_of=values,
                aliases=aliases,
            )
        )
        if len(parts) > 64 or len(found.group_by) > 8 or not 0 < found.seconds <= 31 * 86400:
            raise _Unserved(Lack.CONSTRUCT, "it is of more rules, fields or days than are kept")
        return found

    def _part(self, reference: str) -> str:
        try:
            return self._names[reference]
        except KeyError as error:
            known = {one.rule: one for one in self._unserved}
            why = f": {known[reference].why}" if reference in known else ""
            raise _Unserved(Lack.PART, f"rule {reference} is not used{why}") from error


def _documents(content: bytes) -> list[Any]:
    if len(content) > FILE_BYTES:
        raise _Unserved(Lack.INVALID, f"it has more than {FILE_BYTES} bytes")
    try:
        # An alias makes much of little: no rule needs one.
        for event in yaml.parse(content, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise _Unserved(Lack.INVALID, "YAML's aliases are not read")
        return [one for one in yaml.load_all(content, Loader=yaml.CSafeLoader) if one is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Unserved(Lack.INVALID, f"it is no YAML: {error}") from error


def _parsed(kind: Any, document: dict[str, Any]) -> Any:
    try:
        return kind.from_dict(document, policy=_AS_WRITTEN)
    except (SigmaError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise _Unserved(Lack.INVALID, str(error)) from error


def _built(make: Any) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise _Unserved(Lack.INVALID, str(error)) from error


def _id(rule: SigmaRuleBase) -> str:
    return (str(rule.id) if rule.id is not None else rule.name or one_line(rule.title))[:200]


def _severity(rule: SigmaRuleBase) -> Severity:
    return Severity.UNKNOWN if rule.level is None else _LEVELS[rule.level.name]


def _checked(rule: terms.Rule) -> terms.Rule:
    try:
        match.compiled(rule.condition)
    except InvalidInput as error:
        raise _Unserved(Lack.CONSTRUCT, error.message) from error
    return rule


def _replaced(one: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(one, **changes)


# ---------------------------------------------------------------- conditions


def _condition(rule: SigmaRule) -> terms.Term:
    try:
        trees = [one.parsed for one in rule.detection.parsed_condition]
    except (SigmaError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _Unserved(Lack.INVALID, str(error)) from error
    found = tuple(_term(tree) for tree in trees)
    return found[0] if len(found) == 1 else terms.Some(of=found)


def _term(tree: Any) -> terms.Term:
    match tree:
        case ConditionAND():
            return terms.All(of=tuple(_term(one) for one in tree.args))
        case ConditionOR():
            return terms.Some(of=tuple(_term(one) for one in tree.args))
        case ConditionNOT():
            return terms.Not(of=_term(tree.args[0]))
        case ConditionFieldEqualsValueExpression():
            return _has(tree.field, tree.value)
        case ConditionValueExpression():
            return _has(None, tree.value)
    raise _Unserved(Lack.CONSTRUCT, "its condition is empty, or of a kind that is not known here")


def _has(field: str | None, value: Any) -> terms.Term:
    if isinstance(value, SigmaExpansion):
        return terms.Some(of=tuple(_has(field, one) for one in value.values))
    return terms.Has(field=field, test=_test(value, keyword=field is None))


def _test(value: Any, *, keyword: bool) -> terms.Test:  # noqa: PLR0911 - one line for each of Sigma's types
    match value:
        case SigmaTimestampPart():
            raise _Unserved(Lack.CONSTRUCT, "parts of times are not looked at")
        case SigmaString():
            pattern = _pattern(value)
            # A keyword is looked for within texts.
            return terms.Like(
                pattern=f"*{pattern}*" if keyword else pattern, cased=isinstance(value, SigmaCasedString)
            )
        case SigmaNumber():
            return terms.Number(value=float(value.number))
        case SigmaBool():
            return terms.Flag(value=bool(value))
        case SigmaRegularExpression():
            flags = "".join(sorted(value.sigma_to_re_flag[flag] for flag in value.flags))
            text = str(value.regexp)
            return terms.Regex(pattern=f"(?{flags}){text}" if flags else text)
        case SigmaCIDRExpression():
            return terms.Cidr(net=value.cidr)
        case SigmaCompareExpression():
            return terms.Number(value=float(value.number.number), op=terms.Op(value.op.name.lower()))
        case SigmaExists():
            return terms.Exists(value=bool(value))
        case SigmaNull():
            return terms.Null()
        case SigmaFieldReference() if not (value.starts_with or value.ends_with):
            return terms.Same(field=value.field)
    raise _Unserved(Lack.CONSTRUCT, f"{type(value).__name__} is not decided here")


_ESCAPES = str.maketrans({"\\": "\\\\", "*": "\\*", "?": "\\?"})


def _pattern(value: SigmaString) -> str:
    parts: list[str] = []
    for part in value.s:
        if isinstance(part, str):
            parts.append(part.translate(_ESCAPES))
        elif isinstance(part, Placeholder):
            raise _Unserved(Lack.CONSTRUCT, f"placeholder {part.name} stands for nothing here")
        else:
            parts.append("*" if part is SpecialChars.WILDCARD_MULTI else "?")
    return "".join(parts)


def _fields(term: terms.Term) -> set[str]:
    match term:
        case terms.All(of=parts) | terms.Some(of=parts):
            return set().union(*(_fields(one) for one in parts))
        case terms.Not(of=part):
            return _fields(part)
        case terms.Has(field=name, test=test):
            other = {test.field} if isinstance(test, terms.Same) else set()
            return ({name} if name is not None else set()) | other
    raise AssertionError(term)


# ---------------------------------------------------------------- of correlations


def _counting(rule: SigmaCorrelationRule) -> terms.Counting:
    try:
        return terms.Counting(rule.type.name.lower())
    except ValueError as error:
        raise _Unserved(Lack.CONSTRUCT, f"{rule.type.name.lower()} is not decided here") from error


_O = SigmaCorrelationConditionOperator


def _least(condition: SigmaCorrelationCondition, counting: terms.Counting, parts: int) -> int:
    """From which number on it holds. What is only known at the end of a time is not decided on a stream."""
    if counting in {terms.Counting.TEMPORAL, terms.Counting.TEMPORAL_ORDERED}:
        return parts
    if condition.op not in {_O.GT, _O.GTE}:
        raise _Unserved(Lack.CONSTRUCT, f"{condition.op.name.lower()} is known only when the time is over")
    least = int(condition.count) + (condition.op is _O.GT)
    if not 1 <= least <= 100_000:
        raise _Unserved(Lack.CONSTRUCT, f"{least} is more than is counted, or nothing")
    return least
