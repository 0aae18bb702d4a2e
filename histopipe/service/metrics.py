"""What Prometheus is told, and by what names."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter(
            "histopipe_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "histopipe_request_seconds", "From headers to the answer's end.", ["route"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batch = Histogram(
            "histopipe_batch_patches", "Patches graded together.", buckets=PATCHES, registry=registry
        )
        self.jobs = Counter("histopipe_jobs", "Slides and archives that ended.", ["state"], registry=registry)
        self.reloads = Counter("histopipe_reloads", "New versions of the model.", ["outcome"], registry=registry)
        self.model = Gauge("histopipe_model_info", "The model in use.", ["name", "version"], registry=registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
