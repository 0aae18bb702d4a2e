"""What all tasks have in common: retries where they help, no caching, GPUs for trainings."""

from __future__ import annotations

from prefect import Task
from prefect.cache_policies import NO_CACHE

from tasks import data, evaluation, monitoring, prediction, promotion, search, studies, training
from tasks.declaration import GPU_TAG, JITTER
from tasks.distributed import parts
from tasks.processes import worth_retrying

MODULES = (data, evaluation, monitoring, parts, prediction, promotion, search, studies, training)


def test_every_task_is_retried_where_that_helps_and_never_cached() -> None:
    tasks = {each.name: each for module in MODULES for each in vars(module).values() if isinstance(each, Task)}
    assert len(tasks) == 18
    for name, each in tasks.items():
        assert each.cache_policy == NO_CACHE, name
        assert each.retry_condition_fn is worth_retrying, name
        assert each.retry_jitter_factor == (JITTER if each.retry_delay_seconds else None), name
    assert {name for name, each in tasks.items() if GPU_TAG in each.tags} == {"train", "trial", "train-variant"}
    assert tasks["ingest-part"].retries == 0
    assert {tasks[name].retries for name in ("train", "fetch", "promote")} == {2}
