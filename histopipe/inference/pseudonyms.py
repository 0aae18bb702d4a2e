"""Names of cases and files in outputs: their own, or pseudonyms that reveal nothing without the key.

A pseudonym shows 80 bits of an HMAC-SHA256 (RFC 2104) of the case id. Case ids are short and often sequential, so a
plain digest could be inverted by trying them all; with a secret key it can't. The same key gives a case the same
pseudonym in every run, so that predictions can be joined; without a key file, a random key is used once and discarded.
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
    """The names of cases and files in all outputs.

    Attributes:
        pseudonymised: whether they are pseudonyms.
        originals: the original name of each pseudonym, for cases and for files without a known case.
    """

    pseudonymised: bool
    originals: dict[str, str]

    def case(self, case_id: str) -> str:
        """Return a case's name."""

    def file(self, file: str, case_id: str | None = None) -> str:
        """Return a file's name; `case_id` is its case, if that is known."""


@dataclass
class OwnNames:
    """The original names of cases and files."""

    pseudonymised: bool = False
    originals: dict[str, str] = field(default_factory=dict)

    def case(self, case_id: str) -> str:
        """Return the case id."""
        return case_id

    def file(self, file: str, case_id: str | None = None) -> str:
        """Return the file's name."""
        return file


@dataclass
class Pseudonyms:
    """Pseudonyms of cases and files.

    Attributes:
        key: the secret key.
        originals, pseudonymised: see `Names`.
    """

    key: bytes = field(repr=False)
    originals: dict[str, str] = field(default_factory=dict, repr=False)
    pseudonymised: bool = True

    def case(self, case_id: str) -> str:
        """Return `case-` and 16 letters, the same for the same case and key."""
        pseudonym = f"case-{self._code('case', case_id := normal_id(case_id))}"
        self.originals[pseudonym] = case_id
        return pseudonym

    def file(self, file: str, case_id: str | None = None) -> str:
        """Return the case's pseudonym as a folder, then 16 letters for the file, with its ending if that is common."""
        ending = Path(file).suffix.lower()
        pseudonym = self._code("file", file) + (ending if ending in _ENDINGS else "")
        if case_id is None:
            self.originals[pseudonym] = file
            return pseudonym
        return f"{self.case(case_id)}/{pseudonym}"

    def _code(self, kind: str, name: str) -> str:
        digest = hmac.digest(self.key, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256")
        return base64.b32encode(digest)[:LETTERS].decode().lower()


def load_pseudonyms(key_file: Path | None) -> Pseudonyms:
    """Return pseudonyms with the key from a file, else from `HISTOPIPE_PSEUDONYM_KEY`, else with a random key.

    Raises:
        PseudonymError: the key can't be read or is too short.
    """
    source, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").encode()
    if key_file is not None:
        source, key = str(key_file), _read_key(key_file)
    elif KEY_VARIABLE not in os.environ:
        return Pseudonyms(secrets.token_bytes(32))
    if len(key) < SHORTEST_KEY:
        raise PseudonymError(
            f"{source} holds a key of {len(key)} bytes, which can be guessed: make one of at least {SHORTEST_KEY} "
            "(`openssl rand -hex 32`)"
        )
    return Pseudonyms(key)


def _read_key(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as problem:
        raise PseudonymError(f"{path} can't be read ({problem.strerror}): name the file of the key") from None


def choose_names(pseudonymise: bool, key_file: Path | None, table: Path | None, out: Path) -> Names:
    """Return pseudonyms if they are requested, else the original names.

    Args:
        pseudonymise: whether pseudonyms are requested.
        key_file: the file with their key, see `load_pseudonyms`.
        table: the file for the table of pseudonyms and original names; None to write none.
        out: the folder of the outputs, which will be shared.

    Raises:
        PseudonymError: the key is missing or too short, the table would be in the folder or can't be written, or a key
            or table is named without requesting pseudonyms.
    """
    if not pseudonymise:
        if key_file or table:
            raise PseudonymError("a key or table of pseudonyms is named without requesting them: add --pseudonymise")
        return OwnNames()
    if table and Location.from_path(out).holds(Location.from_path(table)):
        raise PseudonymError(f"{table} is in {out}, which would reveal the cases: write the table elsewhere")
    names = load_pseudonyms(key_file)
    if table:
        _require_writable(table)
    return names


def _require_writable(table: Path) -> None:
    """Check before any prediction that the table can be written, and that an existing file is such a table."""
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
    """Return the target of a link to a table, so that the link itself stays."""
    return Path(os.path.realpath(table))


def _unwritable(table: Path, problem: OSError) -> PseudonymError:
    return PseudonymError(f"{table} can't be written ({problem.strerror}): name another path for the table")


def _earlier_rows(table: Path) -> dict[str, str]:
    """Read the rows of an existing table; return the original name of each pseudonym.

    Raises:
        PseudonymError: there is another file at its path.
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
            f"{table} can't be read ({problem.strerror}): ask its owner for access, or name another path for the table"
        ) from None
    except (OSError, csv.Error):
        rows = [[]]
    if any(len(row) != len(_COLUMNS) for row in rows) or rows[:1] not in ([], [list(_COLUMNS)]):
        raise PseudonymError(f"{table} exists and is no table of pseudonyms: name another path for the table")
    return {row[0]: row[1] for row in rows[1:]}


def write_key_table(names: Names, path: Path) -> None:
    """Add pseudonyms with their original names to a table, `pseudonym,original`; only its owner can read a new one.

    Existing rows stay, also those that other processes add at the same time: if the key was random, the table is the
    only way back to the original names. The table is on the disk when this returns.

    Raises:
        PseudonymError: the table can't be written.
        BusyError: another process has locked it for minutes.
    """
    table = _behind_links(path)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(table):
            _rewrite(table, _earlier_rows(table) | names.originals)
    except OSError as problem:
        raise _unwritable(path, problem) from None


def _rewrite(table: Path, rows: Mapping[str, str]) -> None:
    with replaced_file(table) as partial:
        partial.touch(mode=0o600)
        _copy_permissions(table, partial)
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            writer.writerows(sorted(rows.items()))
        flush_file(partial)
    flush_file(table)


def _copy_permissions(table: Path, partial: Path) -> None:
    """Give the new file the group of the earlier table and the group's access to it."""
    state = table.stat()
    with suppress(OSError):  # the process may not belong to that group
        os.chown(partial, -1, state.st_gid)
        partial.chmod(0o600 | (state.st_mode & 0o060))
