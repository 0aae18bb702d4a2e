"""Case ids: the normal form to which every reader converts them, and ids that look alike.

The normal form is Unicode's NFC, without invisible characters, with single plain spaces. NFC joins spellings that
Unicode itself calls the same text (`é` as one character or as two). NFKC would join further ones, such as `P²` with
`P2`, which may be two patients: those are look-alikes, which messages name but which are never joined.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import pandas as pd

from histopipe.core.cases.readings import READINGS, match_other_reading

MOST_NAMED = 3  # groups of look-alikes in a message

# Unicode's Default_Ignorable_Code_Point, interlinear annotations and the empty Braille cell: they take no room or show
# nothing (soft hyphen, zero-width space and joiners, marks of direction, byte order mark, variation selectors …).
# Without embeddings, overrides and isolates of direction, which `histopipe.core.names` counts among control characters.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u2065\u206a-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")  # Unicode's category Zs
_WHOLE = re.compile(r"(?P<whole>-?[0-9]+)(?:\.0*)?")
_SCIENTIFIC = re.compile(r"[0-9](?:\.[0-9]+)?[eE]\+?[0-9]{1,2}")
_LOST = re.compile(r"[0-9](?:\.[0-9]+)?E\+(?:1[1-9]|[2-9][0-9])")  # Excel shows numbers of 12 digits and more so

# Letters of other scripts that are drawn like Latin ones in most fonts (of Unicode's confusables, the Cyrillic and
# Greek ones), dashes, and letters that are mistaken for digits.
_DRAWN_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухΑΒΕΖΗΙΚΜΝΟΡΤΥΧοιν‐‑‒–—―−",
    "ABESIJKMHOPCTYXaesijopcyxABEZHIKMNOPTYXoiv-------",
)
_DIGIT_ALIKE = str.maketrans("OoIl|", "00111")
_SEPARATORS = re.compile(r"[\s_.\-]+")
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def normal_id(text: str) -> str:
    """Convert one case id to its normal form.

    Args:
        text: the id as it was read. Line breaks and other control characters stay, for readers to refuse.

    Returns:
        The same id in NFC, without invisible characters, with single plain spaces inside and none around.

    Example:
        >>> normal_id("Rene\\u0301\\u200b  1 ")
        'René 1'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _SPACES.sub(" ", _INVISIBLE.sub("", text)))
    elif "  " in text:
        text = _SPACES.sub(" ", text)
    return text.strip()


def normal_ids(column: Sequence[str]) -> list[str]:
    """Convert a column of case ids to normal form; where all are whole numbers, `12.0` and `1.2e1` become `12`.

    Spreadsheets and tables with gaps turn a column of numbers into fractions as a whole. Where an id is no whole
    number, such as `12.1` or `P5`, `12.0` may be a different name and stays. Leading zeros stay: `007` and `7` are two
    ids.

    Args:
        column: the ids, as they were read.

    Returns:
        The normal form of each id, in the same order.

    Example:
        >>> normal_ids(["12.0", "1.3e1"]), normal_ids(["12.0", "P5"])
        (['12', '13'], ['12.0', 'P5'])
    """
    forms = {text: normal_id(text) for text in set(column)}
    wholes = {text: _whole_number(form) for text, form in forms.items()}
    if all(whole is not None for whole in wholes.values()):
        forms = {text: whole or "" for text, whole in wholes.items()}
    return [forms[text] for text in column]


def _whole_number(text: str) -> str | None:
    """Return the digits of a whole number, however it is written; None for anything else."""
    if match := _WHOLE.fullmatch(text):
        return match["whole"]
    if _SCIENTIFIC.fullmatch(text):
        number = Decimal(text)
        return f"{number:f}".partition(".")[0] if number == number.to_integral_value() else None
    return None


def has_lost_digits(text: str) -> bool:
    """Return whether a spreadsheet rounded a number of 12 or more digits to `1.23457E+11`, which many numbers share."""
    return _LOST.fullmatch(text) is not None


def case_key(text: str) -> str:
    """Return a key that two spellings of one case share: the normal form, and the digits of whole numbers.

    It compares lists that were written at different times, when the whole column may have looked different, for
    instance to decide whether a model has seen a case.
    """
    form = normal_id(text)
    return _whole_number(form) or form


def is_among(cases: pd.Series, others: Iterable[object], dataset: str = "") -> pd.Series:
    """Return a boolean Series: whether each case is one of `others`, compared by `case_key`.

    Args:
        cases: the ids to look up.
        others: ids that may have been written by another version, under other parameters.
        dataset: the name of their data set. Where its ids can be read in two ways, an id of one reading is found if it
            may be one of the others under the other reading (see `histopipe.core.cases.readings`).
    """
    keys = {case_key(str(case)) for case in others}
    ids = {case: case_key(case) for case in cases.astype(str).unique()}
    unlike = match_other_reading(ids.values(), keys) if dataset in READINGS else set()
    return cases.astype(str).map({case: key in keys or key in unlike for case, key in ids.items()}).astype(bool)


def with_normal_ids(table: pd.DataFrame, whole_column: bool = False) -> pd.DataFrame:
    """Return a table with every `case_id` in normal form; the same object if nothing changes.

    Args:
        table: a table with a column `case_id`.
        whole_column: whether the table holds all cases of a data set, so that `normal_ids` can recognise numbers.
    """
    cases = [case for case in table["case_id"].unique() if isinstance(case, str)]
    forms = normal_ids(cases) if whole_column else [normal_id(case) for case in cases]
    if cases == forms:
        return table
    renamed = table["case_id"].map(dict(zip(cases, forms, strict=True)))
    return table.assign(case_id=renamed.astype(table["case_id"].dtype))


def look_alikes(ids: Iterable[str]) -> list[list[str]]:
    """Group ids that differ only as two spellings of one name do.

    These are letter case, leading zeros, `12` and `12.0`, separators around and between letters, letters of another
    script or width that are drawn alike, and `O` for `0` or `l` for `1`.

    Args:
        ids: ids in normal form.

    Returns:
        Groups of two or more, each sorted, in the order of their first ids.
    """
    groups: dict[str, list[str]] = {}
    for key in (_spelling, _drawing):
        alike: dict[str, list[str]] = defaultdict(list)
        for name in set(ids := list(ids)):
            alike[key(name)].append(name)
        for names in alike.values():
            if len(names) > 1:
                _join(groups, names)
    distinct = {id(group): sorted(group) for group in groups.values()}
    return sorted(distinct.values())


def _join(groups: dict[str, list[str]], names: list[str]) -> None:
    """Merge the groups of these names into one."""
    joined = sorted({other for name in names for other in groups.get(name, [name])})
    for name in joined:
        groups[name] = joined


def _spelling(name: str) -> str:
    """Reduce an id to its spelling: no letter case, leading zeros, foreign forms or separators between non-numbers."""
    return _LEADING_ZEROS.sub("", _undivided(_latin(name).casefold())) or name


def _drawing(name: str) -> str:
    """Reduce an id to what a careless reader sees: `O` becomes `0`, `l` becomes `1`."""
    return _undivided(_latin(name).translate(_DIGIT_ALIKE).casefold()) or name


def _latin(name: str) -> str:
    latin = name if name.isascii() else unicodedata.normalize("NFKC", name).translate(_DRAWN_ALIKE)
    whole = _WHOLE.fullmatch(latin)
    return whole["whole"] if whole else latin


def _undivided(name: str) -> str:
    """Remove separators, except between two digits: `1-11` and `11-1` aren't alike, `P-1` and `P1` are."""
    if not _SEPARATORS.search(name):
        return name
    parts = [part for part in _SEPARATORS.split(name) if part]
    joined = "".join(parts[:1])
    for part in parts[1:]:
        joined += ("-" if joined[-1].isdigit() and part[0].isdigit() else "") + part
    return joined


def spell_out(name: str) -> str:
    """Format an id for a message, with the code points of characters outside ASCII."""
    return name if name.isascii() else f"{name} ({ascii(name)[1:-1]})"


def describe_groups(groups: Sequence[Sequence[str]], write: Callable[[str], str] = spell_out) -> str:
    """Format the first groups for a message: `p0 and P0; 1 and 01; 4 more`."""
    shown = [" and ".join(map(write, group)) for group in groups[:MOST_NAMED]]
    more = len(groups) - len(shown)
    return "; ".join([*shown, *([f"{more} more"] if more > 0 else [])])
