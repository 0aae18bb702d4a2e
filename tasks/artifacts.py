"""What a stage wrote, shown in Prefect's UI: tables, pictures and progress."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.reproduction import task_logger

_EPOCH = re.compile(r"epoch (\d+)/(\d+): ")


def artifact_key(*parts: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def publish_table(rows: list[dict[str, Any]], description: str, *key: str) -> None:
    """Show rows as a table."""
    create_table_artifact(table=rows, key=artifact_key(*key), description=description)


def publish_markdown(text: str, description: str, *key: str) -> None:
    """Show a text with its tables."""
    create_markdown_artifact(markdown=text, key=artifact_key(*key), description=description)


def publish_image(path: Path, description: str, *key: str) -> None:
    """Show a PNG, carried inside the artifact: the UI may run where the file isn't."""
    content = base64.b64encode(path.read_bytes()).decode()
    create_image_artifact(f"data:image/png;base64,{content}", key=artifact_key(*key), description=description)


def epoch_progress(description: str, *key: str) -> Callable[[str], None]:
    """A reader of a training's log that keeps a progress bar in the UI."""
    created = create_progress_artifact(progress=0.0, key=artifact_key(*key), description=description)
    artifact = cast(UUID, created)  # a coroutine only where the caller is one

    def read(line: str) -> None:
        match = _EPOCH.search(line)
        if match:
            try:
                update_progress_artifact(artifact, progress=100.0 * int(match[1]) / int(match[2]))
            except Exception as problem:  # a server that is away for a moment must not end a training
                task_logger().warning("the progress bar stays behind: %s", problem)

    return read
