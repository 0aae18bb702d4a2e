"""The task that promotes a champion."""

from __future__ import annotations

from histopipe.core.workspace import Workspace, stage_name
from histopipe.promotion.summary import promotion_summary
from tasks.artifacts import publish_markdown
from tasks.declaration import stage_task
from tasks.parallel import for_prediction
from tasks.reproduction import reproduce


@stage_task("promote", "promote-{dataset}", retries=2, delay=10)
def promote(dataset: str) -> None:
    """Make the best model by validation champion if it passes the gates; show which did and why."""
    with for_prediction() as environment:
        reproduce(stage_name("promote", dataset), environment=environment)
    publish_markdown(promotion_summary(dataset, Workspace.find()), f"Champion of {dataset}", "promotion", dataset)
