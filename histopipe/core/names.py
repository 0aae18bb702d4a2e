"""Characters that names of files and cases may contain: one definition for every reader and every table.

Names come from archives, folders, manifests and uploads, and end up in tables, titles, log lines and addresses. A line
break in a name would add the row of a case that doesn't exist; a bidirectional override would display another name.
"""

from __future__ import annotations

import re

# C0, DEL, C1; the line and paragraph separators; embeddings, overrides and isolates of writing direction
CONTROL = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
CONTROL_IN_NAME = "name holds a line break or another control character"  # why a reader sets a member aside

_CONTROL = re.compile(CONTROL)


def has_control_characters(name: str) -> bool:
    """Return whether a name has a line break, another control character or a bidirectional override."""
    return not name.isprintable() and _CONTROL.search(name) is not None


def remove_control_characters(name: str) -> str:
    """Return a name without control characters."""
    return _CONTROL.sub("", name) if not name.isprintable() else name


def escape_control_characters(name: str) -> str:
    r"""Return a name as one line of valid text; control characters and bytes outside UTF-8 are escaped.

    Example:
        >>> escape_control_characters("Icon\r")
        'Icon\\x0d'
    """
    if name.isprintable():
        return name
    spelt = _CONTROL.sub(lambda match: _spelt(match[0]), name)
    return spelt.encode("utf-8", "backslashreplace").decode()


def _spelt(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def with_slashes(name: str) -> str:
    r"""Return a path with forward slashes, as zip and tar have them: Windows writes `\` for the same folders.

    A path that would lead out of its archive stays unchanged, so that `require_usable_member` refuses it under its real
    name.

    Example:
        >>> with_slashes("10253\\0\\a.png")
        '10253/0/a.png'
    """
    if "\\" not in name:
        return name
    changed = name.replace("\\", "/")
    leads_out = changed.startswith("/") or ".." in changed.split("/") or ":" in changed.partition("/")[0]
    return name if leads_out else changed
