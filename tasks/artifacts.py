"""Show a stage's outputs in Prefect's UI: tables, figures and progress."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.processes import task_logger

if TYPE_CHECKING:
    import pandas as pd

PREVIEW = 1100  # pixels of a reduced picture's longer side, the most that the UI shows

_EPOCH = re.compile(r"epoch (\d+)/(\d+): ")


def artifact_key(*parts: str) -> str:
    """Return a valid key for Prefect: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def publish_table(rows: list[dict[str, Any]], description: str, *key: str) -> None:
    """Show rows as a table."""
    create_table_artifact(table=rows, key=artifact_key(*key), description=description)


def table_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert a data frame to rows; missing values become null, since JSON has no NaN."""
    values = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in values.to_dict("records")]


def publish_markdown(text: str, description: str, *key: str) -> None:
    """Show a Markdown text."""
    create_markdown_artifact(markdown=text, key=artifact_key(*key), description=description)


def publish_image(path: Path, description: str, *key: str) -> None:
    """Show a PNG, embedded in the artifact, since the UI may run on another machine."""
    _publish_encoded("png", path.read_bytes(), description, *key)


def publish_preview(path: Path, description: str, *key: str) -> None:
    """Show a large picture reduced, as JPEG: a PNG of tissue would put megabytes into the server's database."""
    import PIL.Image

    reduced = io.BytesIO()
    with PIL.Image.open(path) as picture:
        picture.thumbnail((PREVIEW, PREVIEW))
        picture.convert("RGB").save(reduced, "JPEG", quality=85)
    _publish_encoded("jpeg", reduced.getvalue(), description, *key)


def _publish_encoded(kind: str, content: bytes, description: str, *key: str) -> None:
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    create_image_artifact(address, key=artifact_key(*key), description=description)


def epoch_progress(description: str, *key: str) -> Callable[[str], None]:
    """Create a progress bar in the UI; return a function that updates it from the lines of a training's log."""
    created = create_progress_artifact(progress=0.0, key=artifact_key(*key), description=description)
    artifact = cast(UUID, created)  # a coroutine only for asynchronous callers

    def read(line: str) -> None:
        match = _EPOCH.search(line)
        if match:
            try:
                update_progress_artifact(artifact, progress=100.0 * int(match[1]) / int(match[2]))
            except Exception as problem:  # a server that is away briefly must not end a training
                task_logger().warning("the progress bar wasn't updated: %s", problem)

    return read
