"""What a server counts, in Prometheus' form."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics:
    """Counters of one server; a registry of its own, so that several servers of a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        here = {"registry": self.registry}
        self.requests = Counter("qseq_requests", "Observations that came in", **here)
        self.errors = Counter("qseq_errors", "Requests that were not answered with actions", ["kind"], **here)
        self.refused = Counter("qseq_refused_connections", "Connections not let in", ["reason"], **here)
        self.reloads = Counter("qseq_reloads", "Newer checkpoints, by what became of them", ["outcome"], **here)
        self.delayed = Counter("qseq_delayed_requests", "Requests over their client's rate", **here)
        self.latency = Histogram(
            "qseq_latency_seconds", "From an observation's arrival to its answer", buckets=SECONDS, **here
        )
        self.compute = Histogram("qseq_compute_seconds", "Of one batch, by request", buckets=SECONDS, **here)
        self.batch_size = Histogram("qseq_batch_size", "Requests decided together, by request", buckets=SIZES, **here)
        self.clients = Gauge("qseq_clients", "Clients connected", **here)
        self.pages = Gauge("qseq_pages", "Live pages connected", **here)
        self.step = Gauge("qseq_policy_step", "Training step of the checkpoint that is served", **here)

    def text(self) -> bytes:
        """All of them, for Prometheus to read."""
        return generate_latest(self.registry)
