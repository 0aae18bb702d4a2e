"""Run stages on other machines: Dask workers that each hold a clone of their own, and a DVC remote between them.

A worker gets the parameters and `dvc.lock` of the flow's clone, has DVC pull the inputs as that lock has them, runs its
stage alone, and pushes what came out with the run-cache. The flow's clone takes it from there (docs/production.md).
The rest of `tasks` uses what is named here, and no module behind it.
"""

from tasks.distributed.parts import decode_on_workers
from tasks.distributed.stages import hand_out, is_distributed, reproduce_for_flow
from tasks.distributed.workers import on_dask, on_worker

__all__ = ["decode_on_workers", "hand_out", "is_distributed", "on_dask", "on_worker", "reproduce_for_flow"]
