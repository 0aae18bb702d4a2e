"""The state that all routes of the service share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from histopipe.service.batching import BatchPredictor
from histopipe.service.examples import make_examples
from histopipe.service.explaining import ExplanationQueue
from histopipe.service.jobs import Jobs
from histopipe.service.large_responses import ReadLimiter
from histopipe.service.limits import Limits
from histopipe.service.metrics import Metrics
from histopipe.service.models import Model, ModelReloader, ModelRequest
from histopipe.service.reading import MemoryBudget, trim_memory


@dataclass
class Service:
    """A served model, with the queues and threads that predict with it.

    Attributes:
        model_request: the model that is served.
        limits: limits on clients.
        token: the token that clients must send; None to ask for none.
        reloader: holder of the model in use.
        metrics: metrics for Prometheus.
        scratch: folder for uploads, used by this service only.
        hosts: host names by which clients may call the service, besides those of this machine; None to allow all.
        stopping: True once the service is about to end.
    """

    model_request: ModelRequest
    limits: Limits
    token: str | None
    reloader: ModelReloader
    metrics: Metrics
    scratch: Path
    hosts: frozenset[str] | None = None
    stopping: bool = False
    memory: MemoryBudget = field(init=False)
    predictor: BatchPredictor = field(init=False)
    explanations: ExplanationQueue = field(init=False)
    jobs: Jobs = field(init=False)
    read_limiter: ReadLimiter = field(init=False)
    _trimming: asyncio.Future[None] | None = None
    _examples: asyncio.Future[list[dict[str, str]]] | None = None

    @property
    def model(self) -> Model:
        """The model in use now; read it once per request, since it may be replaced at any time."""
        return self.reloader.model

    def start(self) -> None:
        """Start the threads and queues; must be called in the event loop."""
        self.memory = MemoryBudget(self.limits.memory)
        self.predictor = BatchPredictor(self.limits, self.metrics.batch.observe)
        self.explanations = ExplanationQueue(self.limits)
        self.read_limiter = ReadLimiter()
        self.jobs = Jobs(
            self.model_request, self.limits, self.scratch, lambda state: self.metrics.jobs.labels(state).inc()
        )
        add_gauge = self.metrics.add_gauge
        add_gauge("histopipe_queue_patches", "Patches that wait for prediction.", lambda: self.predictor.waiting)
        add_gauge("histopipe_held_bytes", "Request bodies and large responses in memory.", lambda: self.memory.held)
        add_gauge("histopipe_jobs_under_way", "Slides and archives that run or wait.", lambda: len(self.jobs))
        self.show_model()

    def maintain(self) -> None:
        """Refuse requests that wait for too long and release memory; must be called regularly in the event loop."""
        self.predictor.drop_late()
        if self._trimming is None or self._trimming.done():
            self._trimming = self._trim() if self.memory.take_trim_request() else None

    def _trim(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(None, trim_memory)

    async def stop(self) -> None:
        """Finish the patches that are queued, cancel jobs and delete all files."""
        self.stopping = True
        self.reloader.close()
        await self.jobs.close()
        self.explanations.close()
        await asyncio.to_thread(self.predictor.close)

    def show_model(self) -> None:
        """Update the metric that names the model in use."""
        self.metrics.model.clear()
        self.metrics.model.labels(self.model.name, self.model.version).set(1)

    async def examples(self) -> list[dict[str, str]]:
        """Return synthetic patches to try, which are drawn at the first call."""
        if self._examples is None:
            point = self.model.point
            classes = (point["negative_class"], point["positive_class"])
            loop = asyncio.get_running_loop()
            self._examples = loop.run_in_executor(None, make_examples, point["data_set"], classes)
        return await asyncio.shield(self._examples)


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    service: Service = request.app.state.service
    return service
