"""What the tasks around stages have in common: what is tried again, after how long, and where it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from tasks.processes import worth_retrying

GPU_TAG = "gpu"  # of tasks that train
JITTER = 0.5  # by which waits before retries differ, so that machines don't all come back at once

P = ParamSpec("P")
R = TypeVar("R")


def stage_task(
    name: str, run_name: str | None = None, *, retries: int = 1, delay: float = 0, gpu: bool = False
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a Prefect task that runs a stage; nothing is cached, since DVC knows what is up to date.

    Args:
        name: of the task.
        run_name: of its runs, with the function's arguments in braces; Prefect's own by default.
        retries: how often a failed run is tried again, unless the failure is bad input.
        delay: seconds before that.
        gpu: whether it trains, so that it goes to a GPU where there is one.
    """
    return task(
        name=name,
        task_run_name=run_name,
        retries=retries,
        retry_delay_seconds=delay or None,
        retry_jitter_factor=JITTER if delay else None,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        tags=[GPU_TAG] if gpu else None,
    )
