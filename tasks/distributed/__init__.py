"""Run stages on other machines: Dask workers that each have their own clone, and a DVC remote between them.

A worker gets the parameters and `dvc.lock` of the flow's clone, lets DVC pull the inputs that the lock names, runs its
stage alone, and pushes the outputs with the run-cache. The flow's clone takes them from there (docs/production.md). The
rest of `tasks` uses only the names listed here.
"""

from tasks.distributed.parts import decode_on_workers
from tasks.distributed.stages import hand_out, is_distributed, reproduce_for_flow
from tasks.distributed.workers import dask_runner, is_on_worker

__all__ = ["dask_runner", "decode_on_workers", "hand_out", "is_distributed", "is_on_worker", "reproduce_for_flow"]
