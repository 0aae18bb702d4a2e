"""Files that operating systems and file servers leave in folders and archives next to those of the user.

No user puts them there on purpose: readers skip them, and they change neither the name of a case nor the folder that
wraps an archive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_FOLDERS = frozenset(
    {
        "__macosx",  # Finder's, next to the folder that a user packed
        ".spotlight-v100",
        ".trashes",
        ".fseventsd",
        ".temporaryitems",
        ".documentrevisions-v100",
        ".appledouble",  # Netatalk
        ".appledb",
        ".appledesktop",
        "network trash folder",
        "temporary items",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "@eadir",  # Synology
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        ".@__thumb",
        ".@upload_cache",
        "lost+found",
        ".trash",
    }
)
_FILES = frozenset(
    {
        ".ds_store",
        "icon\r",  # of a folder, on macOS
        "icon\uf00d",  # the same, as exFAT and SMB write a carriage return
        ".localized",
        ".apdisk",
        ".volumeicon.icns",
        ".metadata_never_index",
        ".com.apple.timemachine.donotpresent",
        ".com.apple.timemachine.supported",
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "indexervolumeguid",
        "wpsettings.dat",
        ".directory",  # KDE
        ".hidden",
        ".dropbox",
        ".dropbox.attr",
        "desktop.db",
    }
)
_PATTERNS = re.compile(
    r"""
    \._.*                                 # AppleDouble: attributes that macOS can't store on a foreign disk
    | \.trash-[0-9]+                      # a Linux desktop's, on a foreign disk
    | \.nfs[0-9a-f]{8,}                   # NFS: files that were deleted while open
    | \.fuse_hidden[0-9a-f]+              # FUSE, the same
    | \.\#.*                              # Emacs' locks, which are links to nowhere
    | \.~lock\..*\#                       # LibreOffice's locks
    | ~\$.*                               # Microsoft Office's locks
    | .*@syno(eastream|resource)          # Synology: extended attributes
    | .*[:\uf03a]zone\.identifier         # Windows: the origin of a download
    | .*[:\uf03a](afp_afpinfo|afp_resource|com\.dropbox\.attributes|com\.dropbox\.attrs)
    """,
    re.VERBOSE | re.DOTALL,
)
_KEPT_FOLDERS, _LONGEST_KEPT = 2**14, 500  # answers remembered: archives name the same few folders again and again


def is_leftover(name: str) -> bool:
    """Return whether an operating system left a file there, by its path with forward slashes.

    Example:
        >>> is_leftover("__MACOSX/10253/0/._a.png"), is_leftover("10253/0/.DS_Store"), is_leftover("10253/0/a.png")
        (True, True, False)
    """
    folder, _, last = name.rpartition("/")
    kept = len(folder) <= _LONGEST_KEPT
    return _is_left(last) or (_remembered(folder) if kept else is_leftover_folder(folder))


def leftovers_among(names: Iterable[str]) -> frozenset[str]:
    """Return the names of an archive that are left-overs; three times as fast as `is_leftover` for each."""
    verdicts: dict[str, bool] = {}
    left = []
    for name in names:
        folder, _, last = name.rpartition("/")
        verdict = verdicts.get(folder)
        if verdict is None:
            verdict = verdicts[folder] = is_leftover_folder(folder)
        # the same quick check as in `_is_left`, without a call
        odd = last[:1] in _STARTS or not last.isascii() or "@" in last or ":" in last
        if verdict or (odd and _is_left(last)):
            left.append(name)
    return frozenset(left)


def is_leftover_folder(path: str) -> bool:
    """Return whether a folder, or one around it, belongs to an operating system."""
    return any(_is_left(part) or part.lower() in _FOLDERS for part in path.split("/"))


_remembered = lru_cache(maxsize=_KEPT_FOLDERS)(is_leftover_folder)


_STARTS = frozenset(start for name in _FILES for start in (name[0], name[0].upper())) | {"", ".", "~"}


def _is_left(part: str) -> bool:
    # a quick check first: all such names start with one of these characters, or contain one of those
    if part[:1] not in _STARTS and part.isascii() and "@" not in part and ":" not in part:
        return False
    return part.lower() in _FILES or _PATTERNS.fullmatch(part.lower()) is not None
