"""The declaration of tasks that run stages: retries, delays and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from tasks.processes import worth_retrying

GPU_TAG = "gpu"  # tag of tasks that train
JITTER = 0.5  # random part of the delay before retries, so that machines don't all retry at once

P = ParamSpec("P")
R = TypeVar("R")


def stage_task(
    name: str, run_name: str | None = None, *, retries: int = 1, delay: float = 0, gpu: bool = False
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a function as a Prefect task that runs a stage; nothing is cached, since DVC checks what is current.

    Args:
        name: name of the task.
        run_name: name of its runs, with the function's arguments in braces; Prefect's by default.
        retries: number of retries of a failed run, unless its input is bad.
        delay: delay before a retry, in seconds.
        gpu: whether it trains, and goes to a GPU where there is one.
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
