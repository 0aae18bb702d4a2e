"""What the answers of one server share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request

from histopipe.service.examples import draw_examples
from histopipe.service.explaining import Explanations
from histopipe.service.grading import Grader
from histopipe.service.jobs import Jobs
from histopipe.service.large import Turns
from histopipe.service.limits import Limits
from histopipe.service.metrics import Metrics
from histopipe.service.models import Asked, Keeper, Model
from histopipe.service.reading import Memory, trim_memory


@dataclass
class Service:
    """A model, and what grades by it.

    Attributes:
        asked: which model is served.
        limits: of clients.
        token: that they must bring; None where none is asked for.
        keeper: has the model in use.
        metrics: for Prometheus.
        scratch: a folder of this server's own, for uploads.
        hosts: names by which it may be called, beside those of this machine alone; None where any will do.
        stopping: whether it is about to end.
    """

    asked: Asked
    limits: Limits
    token: str | None
    keeper: Keeper
    metrics: Metrics
    scratch: Path
    hosts: frozenset[str] | None = None
    stopping: bool = False
    memory: Memory = field(init=False)
    grader: Grader = field(init=False)
    explanations: Explanations = field(init=False)
    jobs: Jobs = field(init=False)
    turns: Turns = field(init=False)
    _trimming: asyncio.Future[None] | None = None
    _examples: asyncio.Future[list[dict[str, str]]] | None = None

    @property
    def model(self) -> Model:
        """The one in use now: take it once for each request."""
        return self.keeper.model

    def start(self) -> None:
        """Begin to grade; called in the event loop."""
        self.memory = Memory(self.limits.memory)
        self.grader = Grader(self.limits, self.metrics.batch.observe)
        self.explanations = Explanations(self.limits)
        self.turns = Turns()
        self.jobs = Jobs(self.asked, self.limits, self.scratch, lambda state: self.metrics.jobs.labels(state).inc())
        self.metrics.watch("histopipe_queue_patches", "Patches that wait for their turn.", lambda: self.grader.waiting)
        self.metrics.watch("histopipe_held_bytes", "Bodies and large answers in memory.", lambda: self.memory.held)
        self.metrics.watch("histopipe_jobs_under_way", "Slides and archives under way.", lambda: len(self.jobs))
        self.show_model()

    def look_after(self) -> None:
        """Refuse what waits for too long, and give back memory; to be called now and then, in the event loop."""
        self.grader.drop_late()
        if self._trimming is None or self._trimming.done():
            self._trimming = self._trim() if self.memory.wants_trim() else None

    def _trim(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(None, trim_memory)

    async def stop(self) -> None:
        """Finish what was begun with, cancel jobs, leave nothing on disk."""
        self.stopping = True
        self.keeper.close()
        await self.jobs.close()
        self.explanations.close()
        await asyncio.to_thread(self.grader.close)

    def show_model(self) -> None:
        """Tell Prometheus which model is in use."""
        self.metrics.model.clear()
        self.metrics.model.labels(self.model.name, self.model.version).set(1)

    async def examples(self) -> list[dict[str, str]]:
        """Patches to try, drawn once."""
        if self._examples is None:
            point = self.model.point
            classes = (point["negative_class"], point["positive_class"])
            loop = asyncio.get_running_loop()
            self._examples = loop.run_in_executor(None, draw_examples, point["data_set"], classes)
        return await asyncio.shield(self._examples)


def service_of(request: Request) -> Service:
    """The service that a request is answered by."""
    found: Service = request.app.state.service
    return found
