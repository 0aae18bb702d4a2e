"""Progress bars for copied and downloaded bytes, shown on terminals only so that logs stay readable."""

from __future__ import annotations

from typing import Any


def show_byte_progress(total: int | None, label: str, done: int = 0) -> Any:
    """Create a progress bar on stderr that counts bytes, for use in a `with` block."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=label, unit="B", unit_scale=True, disable=None, leave=False)
