"""The ledger of looks: which promotion looked at which test cases, kept as tags of the registered model.

A look is one model judged on test cases. It is recorded before anything is measured, as a tag of its own, so that
writers on several machines never write different things into one row; the list of its cases, which most looks share, is
another tag. Judging the same model against the same champion again is the same look. Cases are represented by digests
of their ids.
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

LOOK, CASES = "look.", "looked_at."  # prefixes of the tags' keys
TAG_LENGTH = 4500  # MLflow's database stores up to 5,000 characters per tag of a registered model
FLOORS, COMPARED = "floors", "compared"
Kind = Literal["floors", "compared"]


@dataclass(frozen=True)
class LedgerEntry:
    """One entry of the ledger: one model judged on test cases.

    Attributes:
        key: key of the look: a digest of the model and of what it was compared with.
        model: identity of the judged model.
        kind: whether it was compared with the floors alone, or with another model.
        at: time of the look, as ISO 8601 in UTC.
        cases: digests of the cases; None where they weren't recorded, and all cases count.
        trainings: ids of the runs that had been evaluated on the cases for the comparison before the look.
    """

    key: str
    model: str
    kind: str
    at: str
    cases: frozenset[str] | None
    trainings: frozenset[str] = frozenset()

    def includes(self, case: str) -> bool:
        """Return whether the look included a case, by its digest."""
        return self.cases is None or case in self.cases


@dataclass(frozen=True)
class Counts:
    """The numbers of looks at a model's test cases, this look included.

    Attributes:
        cases: number of cases.
        judged: promotions judged on the most used case.
        compared: those of them in which a model was compared with another.
        trainings: trainings evaluated on these cases, as far as promotions followed.
        fresh: cases that no earlier look included.
    """

    cases: int
    judged: int
    compared: int
    trainings: int
    fresh: int

    def tags(self) -> dict[str, str]:
        """Return the counts as tags of a version."""
        return {f"looks.{name}": str(value) for name, value in vars(self).items()}

    def __str__(self) -> str:
        fresh = f"; {self.fresh:,} of them are looked at for the first time" if 0 < self.fresh < self.cases else ""
        return (
            f"look {self.judged:,} at these {self.cases:,} test cases (promotions judged on them, this one included; "
            f"{self.trainings:,} trainings evaluated{fresh})"
        )


def read_counts(tags: Mapping[str, str]) -> Counts | None:
    """Read the counts from a version's tags; None for versions from before the ledger."""
    try:
        return Counts(**{name: int(tags[f"looks.{name}"]) for name in Counts.__dataclass_fields__})
    except (KeyError, ValueError):
        return None


def case_digest(case_id: str) -> str:
    """Compute the digest that represents a case."""
    return hashlib.sha256(normal_id(str(case_id)).encode()).hexdigest()[:8]


def record_look(
    registry: Registry, model: str, against: Sequence[str], cases: Iterable[str], trainings: Iterable[str]
) -> tuple[LedgerEntry, list[LedgerEntry]]:
    """Record a look, unless it is recorded already, and read the others.

    Args:
        registry: registry of the data set.
        model: identity of the judged model.
        against: numbers of the versions that it is compared with; empty where only floors count.
        cases: ids of the test cases.
        trainings: ids of the runs evaluated on them.

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


def _now_after(looks: Sequence[LedgerEntry]) -> str:
    """Return the time, but later than any recorded look: one machine's clock may be behind another's."""
    later = [time + timedelta(microseconds=1) for look in looks if (time := _time(look.at))]
    return max([datetime.now(UTC), *later]).isoformat(timespec="microseconds")


def _time(text: str) -> datetime | None:
    """Return the time of a look; None where its tag is damaged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None


def _parts(digests: Sequence[str]) -> list[str]:
    size = TAG_LENGTH // 9
    return [",".join(digests[start : start + size]) for start in range(0, max(1, len(digests)), size)]


def read_looks(tags: Mapping[str, str]) -> list[LedgerEntry]:
    """Read the looks from a registered model's tags, in order of time; a damaged one counts for all cases."""
    looks = [_look(key.removeprefix(LOOK), text, tags) for key, text in tags.items() if key.startswith(LOOK)]
    return sorted(looks, key=lambda look: (look.at, look.key))


def _content(text: str | None) -> dict[str, Any]:
    """Parse a look's tag; empty where there is none or it is damaged."""
    try:
        return dict(json.loads(text or "{}"))
    except (TypeError, ValueError):
        return {}


def _look(key: str, text: str, tags: Mapping[str, str]) -> LedgerEntry:
    content = _content(text)
    start = f"{CASES}{content.get('cases', '')}."
    parts = [part for name, part in tags.items() if name.startswith(start)]
    cases = frozenset(filter(None, ",".join(parts).split(","))) if parts else None
    kind = str(content.get("kind", COMPARED))
    model, at = str(content.get("model", "")), str(content.get("at", ""))
    return LedgerEntry(key, model, kind, at, cases, frozenset(map(str, content.get("trainings") or ())))


def _unlisted(registry: Registry, looks: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """List the versions that were judged before the ledger; each counts as a look at every case."""
    listed = {look.model for look in looks}
    versions = {version.tags.get(IDENTITY): version for version in registry.versions() if "verdict" in version.tags}
    return [
        LedgerEntry(f"version {version.version}", str(identity), _kind_of(version.tags), "", None)
        for identity, version in versions.items()
        if identity not in listed
    ]


def _kind_of(tags: Mapping[str, str]) -> str:
    return COMPARED if "gate.difference" in tags else FLOORS


def count_looks(look: LedgerEntry, earlier: Sequence[LedgerEntry]) -> Counts:
    """Count the looks at the cases of a look, itself included."""
    cases = look.cases or frozenset()
    before = [_count_at(case, earlier) for case in cases]
    compared = [_count_at(case, _of_kind(COMPARED, earlier)) for case in cases]
    overlapping = [entry for entry in earlier if any(map(entry.includes, cases))]
    trainings = look.trainings.union(*(entry.trainings for entry in overlapping))
    return Counts(
        len(cases),
        1 + max(before, default=0),
        max(compared, default=0) + (look.kind == COMPARED),
        len(trainings),
        sum(number == 0 for number in before),
    )


def _count_at(case: str, looks: Iterable[LedgerEntry]) -> int:
    return sum(entry.includes(case) for entry in looks)


def _of_kind(kind: str, looks: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    return [entry for entry in looks if entry.kind == kind]


def count_looks_at(registry: Registry, cases: Iterable[str]) -> Counts:
    """Count the looks at cases, without adding one."""
    looks = read_looks(registry.model_tags())
    unrecorded = LedgerEntry("", "", "", "", frozenset(map(case_digest, cases)))
    counts = count_looks(unrecorded, [*looks, *_unlisted(registry, looks)])
    return replace(counts, judged=counts.judged - 1)


def number_among_kind(look: LedgerEntry, earlier: Sequence[LedgerEntry]) -> int:
    """Return the number of a look among those of its kind at its most used case, counted from 1.

    Looks at floors alone don't use up what comparisons may spend.
    """
    alike = _of_kind(look.kind, earlier)
    return 1 + max((_count_at(case, alike) for case in look.cases or ()), default=0)


def count_unrecorded(look: LedgerEntry, earlier: Sequence[LedgerEntry]) -> int:
    """Count the earlier looks of a look's kind whose cases weren't recorded: they count for fresh cases too."""
    return sum(entry.cases is None for entry in _of_kind(look.kind, earlier))
