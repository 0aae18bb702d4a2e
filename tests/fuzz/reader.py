"""What a campaign runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

READ = "read"


class Reader(NamedTuple):
    """Something that is given hostile input.

    Attributes:
        inputs: what it is given.
        read: gives `READ`, or why the input was refused; anything else that it raises is a fault. It may write into the
            folder that it is told of, and finds the input there as a file called `input`.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], str]
