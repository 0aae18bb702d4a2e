"""Names for what is shared: the cases' own, or pseudonyms that say nothing without the key.

A pseudonym is an HMAC-SHA256 (RFC 2104) of the case id, of which 80 bits are shown. Case ids are short and often in
sequence, so a plain digest could be undone by trying them all; with a secret key it can't. The same key gives a case
the same pseudonym in every run, so that gradings can be joined; without one, a key is drawn, used and forgotten.
"""

from __future__ import annotations

import base64
import csv
import hmac
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from histopipe.core.cases.ids import normal_id
from histopipe.core.errors import HistopipeError, PseudonymError
from histopipe.core.files import replaced_file
from histopipe.core.locking import flush_file, locked_file, require_locks
from histopipe.core.outputs.overlap import Location

KEY_VARIABLE = "HISTOPIPE_PSEUDONYM_KEY"
SHORTEST_KEY = 16  # bytes
LETTERS = 16  # of base 32: two of a million cases share a pseudonym with odds of 1 to 2 trillion

_COLUMNS = ("pseudonym", "original")
_ENDINGS = frozenset(
    [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".czi"]
)


class Names(Protocol):
    """What cases and files are called in everything that is written.

    Attributes:
        pseudonymised: whether these are other names than their own.
        known: what each pseudonym stands for, of cases and of files without a known case.
    """

    pseudonymised: bool
    known: dict[str, str]

    def case(self, case_id: str) -> str:
        """A case's name."""

    def file(self, file: str, case_id: str | None = None) -> str:
        """A file's name; `case_id` is its case, where that is known."""


@dataclass
class OwnNames:
    """Cases and files are called what they are called."""

    pseudonymised: bool = False
    known: dict[str, str] = field(default_factory=dict)

    def case(self, case_id: str) -> str:
        """The case id."""
        return case_id

    def file(self, file: str, case_id: str | None = None) -> str:
        """The file's name."""
        return file


@dataclass
class Pseudonyms:
    """Cases and files are called by pseudonyms.

    Attributes:
        key: the secret.
        known, pseudonymised: as in `Names`.
    """

    key: bytes = field(repr=False)
    known: dict[str, str] = field(default_factory=dict, repr=False)
    pseudonymised: bool = True

    def case(self, case_id: str) -> str:
        """`case-` and 16 letters, the same for the same case and key."""
        pseudonym = f"case-{self._code('case', case_id := normal_id(case_id))}"
        self.known[pseudonym] = case_id
        return pseudonym

    def file(self, file: str, case_id: str | None = None) -> str:
        """The case's pseudonym as a folder, then 16 letters for the file, with its ending if it is a usual one."""
        ending = Path(file).suffix.lower()
        pseudonym = self._code("file", file) + (ending if ending in _ENDINGS else "")
        if case_id is None:
            self.known[pseudonym] = file
            return pseudonym
        return f"{self.case(case_id)}/{pseudonym}"

    def _code(self, kind: str, name: str) -> str:
        digest = hmac.digest(self.key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256")
        return base64.b32encode(digest)[:LETTERS].decode().lower()


def pseudonyms(key_file: Path | None) -> Pseudonyms:
    """Pseudonyms by the key in a file, else by that in `HISTOPIPE_PSEUDONYM_KEY`, else by one for this run alone.

    Raises:
        PseudonymError: the key can't be read or is too short.
    """
    where, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").encode()
    if key_file is not None:
        where, key = str(key_file), _read(key_file)
    elif KEY_VARIABLE not in os.environ:
        return Pseudonyms(secrets.token_bytes(32))
    if len(key) < SHORTEST_KEY:
        raise PseudonymError(
            f"{where} holds a key of {len(key)} bytes, which can be guessed: make one of at least {SHORTEST_KEY} "
            "(`openssl rand -hex 32`)"
        )
    return Pseudonyms(key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as problem:
        raise PseudonymError(f"{path} can't be read ({problem.strerror}): name the file of the key") from None


def names_asked(asked: bool, key_file: Path | None, table: Path | None, out: Path) -> Names:
    """Own names, or pseudonyms where they are asked for.

    Args:
        asked: whether they are.
        key_file: of their key, as `pseudonyms` takes it.
        table: where to write what they stand for; None for nowhere.
        out: the folder that is to be shared.

    Raises:
        PseudonymError: the key is missing or too short, the table would lie in the folder or can't be written, or a key
            or table is named without asking for pseudonyms.
    """
    if not asked:
        if key_file or table:
            raise PseudonymError("a key or table of pseudonyms is named, but none are asked for: add --pseudonymise")
        return OwnNames()
    if table and Location.of(out).holds(Location.of(table)):
        raise PseudonymError(f"{table} lies in {out}, which would give the cases away: write the table elsewhere")
    names = pseudonyms(key_file)
    if table:
        _require_place(table)
    return names


def _require_place(table: Path) -> None:
    """Check before anything is graded that a table can be written, and that what lies there is one."""
    real = _behind_links(table)
    _earlier_rows(real)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        require_locks(real.parent)
    except OSError as problem:
        raise _unwritable(table, problem) from None
    except HistopipeError as problem:
        raise PseudonymError(str(problem)) from None


def _behind_links(table: Path) -> Path:
    """The file that a link to a table leads to: the link must stay one."""
    return Path(os.path.realpath(table))


def _unwritable(table: Path, problem: OSError) -> PseudonymError:
    return PseudonymError(f"{table} can't be written ({problem.strerror}): name another place for the table")


def _earlier_rows(table: Path) -> dict[str, str]:
    """What a table holds already.

    Raises:
        PseudonymError: there is something else in its place.
    """
    try:
        if os.path.lexists(table) and not table.is_file():  # /dev/null would be replaced, a pipe waited for
            raise OSError
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.reader(stream))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError as problem:
        raise PseudonymError(
            f"{table} can't be read ({problem.strerror}): have its owner let you, or name another place for the table"
        ) from None
    except (OSError, csv.Error):
        rows = [[]]
    if any(len(row) != len(_COLUMNS) for row in rows) or rows[:1] not in ([], [list(_COLUMNS)]):
        raise PseudonymError(f"{table} is there already and no table of pseudonyms: name another place for the table")
    return {row[0]: row[1] for row in rows[1:]}


def write_key_table(names: Names, path: Path) -> None:
    """Add which pseudonym stands for what to a table, `pseudonym,original`; a new one is for its owner alone.

    Rows that are there stay, those included that others add at the same time: a key that was drawn and forgotten leaves
    nothing else behind. The table is on the disk when this returns.

    Raises:
        PseudonymError: it can't be written.
        BusyError: another process holds it for minutes.
    """
    table = _behind_links(path)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(table):
            _rewrite(table, _earlier_rows(table) | names.known)
    except OSError as problem:
        raise _unwritable(path, problem) from None


def _rewrite(table: Path, rows: Mapping[str, str]) -> None:
    with replaced_file(table) as beside:
        beside.touch(mode=0o600)
        _as_permitted(table, beside)
        with beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            writer.writerows(sorted(rows.items()))
        flush_file(beside)
    flush_file(table)


def _as_permitted(table: Path, beside: Path) -> None:
    """Whom the table's owner shares it with keeps access."""
    state = table.stat()
    with suppress(OSError):  # a group that one doesn't belong to
        os.chown(beside, -1, state.st_gid)
        beside.chmod(0o600 | (state.st_mode & 0o060))
