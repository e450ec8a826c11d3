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
        self.registry = here = CollectorRegistry()
        ProcessCollector(registry=here)
        self.requests = Counter("qseq_requests", "Observations that came in", registry=here)
        self.errors = Counter("qseq_errors", "Requests that were not answered with actions", ["kind"], registry=here)
        self.refused = Counter("qseq_refused_connections", "Connections not let in", ["reason"], registry=here)
        self.reloads = Counter("qseq_reloads", "Newer checkpoints, by what became of them", ["outcome"], registry=here)
        self.delayed = Counter("qseq_delayed_requests", "Requests over their client's rate", registry=here)
        self.latency = Histogram(
            "qseq_latency_seconds", "From an observation's arrival to its answer", buckets=SECONDS, registry=here
        )
        self.compute = Histogram("qseq_compute_seconds", "Of its batch, by request", buckets=SECONDS, registry=here)
        self.batch_size = Histogram("qseq_batch_size", "Of its batch, by request", buckets=SIZES, registry=here)
        self.clients = Gauge("qseq_clients", "Clients connected", registry=here)
        self.pages = Gauge("qseq_pages", "Live pages connected", registry=here)
        self.step = Gauge("qseq_policy_step", "Training step of the checkpoint that is served", registry=here)

    def text(self) -> bytes:
        """All of them, for Prometheus to read."""
        return generate_latest(self.registry)
