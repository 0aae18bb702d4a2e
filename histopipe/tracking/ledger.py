"""The ledger of looks: which test cases were looked at by which promotion, kept as tags of the registered model.

A look is one model judged on test cases. It is written down before anything is measured, as a tag of its own, so that
writers on several machines never write different things into one row; the list of its cases, which most looks share,
is another tag.
Judging the same model against the same champion again is the same look. Cases stand as digests of their ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from histopipe.core.cases.ids import normal_id
from histopipe.tracking.registry import IDENTITY, Registry

LOOK, CASES = "look.", "looked_at."  # how the keys of the tags begin
TAG_LENGTH = 4500  # MLflow's database holds 5,000 characters of a registered model's tag
FLOORS, COMPARED = "floors", "compared"
Kind = Literal["floors", "compared"]


@dataclass(frozen=True)
class Look:
    """One model judged on test cases.

    Attributes:
        key: tells it from every other: the model, and what it was held against.
        model: identity of the judged model.
        kind: whether it was held against the floors alone, or against another model.
        at: when, as ISO 8601 in UTC.
        cases: digests of the cases; None where nobody wrote them down, and all count.
        trainings: ids of the runs that had been graded on the cases for the comparison it came from.
    """

    key: str
    model: str
    kind: str
    at: str
    cases: frozenset[str] | None
    trainings: frozenset[str] = frozenset()

    def saw(self, case: str) -> bool:
        """Whether it looked at a case, by its digest."""
        return self.cases is None or case in self.cases


@dataclass(frozen=True)
class Counts:
    """How often a model's test cases have been looked at, this look included.

    Attributes:
        cases: how many cases they are.
        judged: promotions judged on the most used case.
        compared: those of them in which a model was held against another.
        trainings: trainings graded on these cases, as far as promotions followed.
        fresh: cases that nothing had looked at before.
    """

    cases: int
    judged: int
    compared: int
    trainings: int
    fresh: int

    def tags(self) -> dict[str, str]:
        """The counts as tags of a version."""
        return {f"looks.{name}": str(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        fresh = f"; {self.fresh:,} of them are looked at for the first time" if 0 < self.fresh < self.cases else ""
        return (
            f"look {self.judged:,} at these {self.cases:,} test cases (promotions judged on them, this one included; "
            f"{self.trainings:,} trainings graded{fresh})"
        )


def counts_in(tags: Mapping[str, str]) -> Counts | None:
    """The counts that a version's tags hold; None of versions from before there was a ledger."""
    try:
        return Counts(**{name: int(tags[f"looks.{name}"]) for name in Counts.__dataclass_fields__})
    except (KeyError, ValueError):
        return None


def case_digest(case_id: str) -> str:
    """What stands for a case."""
    return hashlib.sha256(normal_id(str(case_id)).encode()).hexdigest()[:8]


def record_look(
    registry: Registry, model: str, against: Sequence[str], cases: Iterable[str], trainings: Iterable[str]
) -> tuple[Look, list[Look]]:
    """Write a look down, unless it stands there already, and read what else does.

    Args:
        registry: of the data set.
        model: identity of the judged model.
        against: numbers of the versions that it is held against; empty where only floors count.
        cases: ids of the test cases.
        trainings: ids of the runs graded on them.

    Returns:
        The look, and the earlier ones.
    """
    key = hashlib.sha256("/".join([model, *against]).encode()).hexdigest()[:16]
    digests = sorted({case_digest(case) for case in cases})
    listed = hashlib.sha256(",".join(digests).encode()).hexdigest()[:16]
    registry.require_model()
    tags = registry.model_tags()
    if _content(tags.get(f"{LOOK}{key}")).get("cases") != listed:
        parts = {f"{CASES}{listed}.{number}": part for number, part in enumerate(_parts(digests))}
        for name, part in parts.items():
            if tags.get(name) != part:
                registry.tag_model(name, part)
        content = {
            "model": model,
            "kind": COMPARED if against else FLOORS,
            "at": _now_after(read_looks(tags)),
            "cases": listed,
            "trainings": sorted({run[:8] for run in trainings}),
        }
        registry.tag_model(f"{LOOK}{key}", json.dumps(content))
        tags = registry.model_tags()
    looks = read_looks(tags)
    own = next(look for look in looks if look.key == key)
    return own, [look for look in (*looks, *_unlisted(registry, looks)) if (look.at, look.key) < (own.at, own.key)]


def _now_after(looks: Sequence[Look]) -> str:
    """The time, but later than any look that stands there: one machine's clock may be behind another's."""
    later = [time + timedelta(microseconds=1) for look in looks if (time := _time(look.at))]
    return max([datetime.now(UTC), *later]).isoformat(timespec="microseconds")


def _time(text: str) -> datetime | None:
    """When a look was; None where its tag is damaged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None


def _parts(digests: Sequence[str]) -> list[str]:
    size = TAG_LENGTH // 9
    return [",".join(digests[start : start + size]) for start in range(0, max(1, len(digests)), size)]


def read_looks(tags: Mapping[str, str]) -> list[Look]:
    """The looks that a registered model's tags hold, the first one first; a damaged one counts for all cases."""
    found = [_look(key.removeprefix(LOOK), text, tags) for key, text in tags.items() if key.startswith(LOOK)]
    return sorted(found, key=lambda look: (look.at, look.key))


def _content(text: str | None) -> dict[str, Any]:
    """What a look's tag holds; nothing where there is none or it is damaged."""
    try:
        return dict(json.loads(text or "{}"))
    except (TypeError, ValueError):
        return {}


def _look(key: str, text: str, tags: Mapping[str, str]) -> Look:
    content = _content(text)
    start = f"{CASES}{content.get('cases', '')}."
    parts = [part for name, part in tags.items() if name.startswith(start)]
    cases = frozenset(filter(None, ",".join(parts).split(","))) if parts else None
    kind = str(content.get("kind", COMPARED))
    model, at = str(content.get("model", "")), str(content.get("at", ""))
    return Look(key, model, kind, at, cases, frozenset(map(str, content.get("trainings") or ())))


def _unlisted(registry: Registry, looks: Sequence[Look]) -> list[Look]:
    """The versions that were judged before there was a ledger: each has looked at every case, for all that is known."""
    listed = {look.model for look in looks}
    versions = {version.tags.get(IDENTITY): version for version in registry.versions() if "verdict" in version.tags}
    return [
        Look(f"version {version.version}", str(identity), _kind_by(version.tags), "", None)
        for identity, version in versions.items()
        if identity not in listed
    ]


def _kind_by(tags: Mapping[str, str]) -> str:
    return COMPARED if "gate.difference" in tags else FLOORS


def count_looks(look: Look, earlier: Sequence[Look]) -> Counts:
    """How often the cases of a look had been looked at before, and with it."""
    cases = look.cases or frozenset()
    before = [sum(each.saw(case) for each in earlier) for case in cases]
    compared = [sum(each.saw(case) for each in earlier if each.kind == COMPARED) for case in cases]
    on_these = [each for each in earlier if any(map(each.saw, cases))]
    trainings = look.trainings.union(*(each.trainings for each in on_these))
    return Counts(
        len(cases),
        1 + max(before, default=0),
        max(compared, default=0) + (look.kind == COMPARED),
        len(trainings),
        sum(number == 0 for number in before),
    )


def looks_at(registry: Registry, cases: Iterable[str]) -> Counts:
    """How often cases have been looked at, without looking."""
    looks = read_looks(registry.model_tags())
    none = Look("", "", "", "", frozenset(map(case_digest, cases)))
    counts = count_looks(none, [*looks, *_unlisted(registry, looks)])
    return replace(counts, judged=counts.judged - 1)


def number_of(look: Look, earlier: Sequence[Look]) -> int:
    """Which look of its kind it is at the most used of its cases: floors alone don't spend what comparisons may."""
    alike = [each for each in earlier if each.kind == look.kind]
    return 1 + max((sum(each.saw(case) for each in alike) for case in look.cases or ()), default=0)


def number_everywhere(look: Look, earlier: Sequence[Look]) -> int:
    """Count the earlier looks of its kind of which nobody knows the cases: they count at fresh cases too."""
    return sum(each.cases is None for each in earlier if each.kind == look.kind)
