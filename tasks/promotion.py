"""The gate before the champion."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from histopipe.core.workspace import Workspace, stage_name
from histopipe.promotion.summary import promotion_summary
from tasks.artifacts import publish_markdown
from tasks.parallel import for_prediction
from tasks.reproduction import JITTER, reproduce, worth_retrying


@task(
    name="promote",
    task_run_name="promote-{dataset}",
    retries=2,
    retry_delay_seconds=10,
    retry_jitter_factor=JITTER,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
)
def promote(dataset: str) -> None:
    """Let the best model by validation become champion if it passes the gates; shows which did and why."""
    with for_prediction() as environment:
        reproduce(stage_name("promote", dataset), environment=environment)
    publish_markdown(promotion_summary(dataset, Workspace.around()), f"Champion of {dataset}", "promotion", dataset)
