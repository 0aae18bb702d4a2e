"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, histograms and gauges of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter(
            "histopipe_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "histopipe_request_seconds", "Time from a request's headers to the end of the response.", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.batch = Histogram(
            "histopipe_batch_patches", "Patches predicted in one batch.", buckets=PATCHES, registry=registry
        )
        self.jobs = Counter("histopipe_jobs", "Finished jobs, by their final state.", ["state"], registry=registry)
        self.reloads = Counter(
            "histopipe_reloads", "Attempts to load a new version of the model.", ["outcome"], registry=registry
        )
        self.model = Gauge("histopipe_model_info", "The model in use.", ["name", "version"], registry=registry)

    def add_gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed whenever Prometheus reads it."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
