"""What is counted while it happens, as Prometheus reads it. Each application has its own registry.

Labels are bounded by the code: templates of routes, methods, classes of status, slugs of problems, names of stages. No
label is a collection, a person or a key: names are personal or the customer's own, and their number has no bound.
What is looked up when somebody asks is in `service.gauges`.
"""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.current import StageName

Comparison = Literal["verify", "verify-enrolled", "search"]
"""Who was compared: two images; an image and somebody enrolled; an image or embedding and a collection."""

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS: Final = (0.0001, 0.00025, *_REQUEST_SECONDS[:-1])
_BATCH_CROPS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters and histograms of one service.

    Attributes:
        registry: holds them; further collectors may be added.
        in_flight: requests that are being answered.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.in_flight = Gauge(
            "facemargin_requests_in_flight", "Requests that are being answered.", registry=self.registry
        )
        self._requests = Histogram(
            "facemargin_request_seconds",
            "Time from a request's head to the end of its reply.",
            ("route", "method", "status"),
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self._problems = Counter(
            "facemargin_problems",
            "Replies that are problems, by their type.",
            ("type",),
            registry=self.registry,
        )
        self._stages = Histogram(
            "facemargin_stage_seconds",
            "Time of a stage of a request; wait is for a thread, embed includes its queue.",
            ("stage",),
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "facemargin_batch_seconds",
            "Time of a batch in the network.",
            buckets=_STAGE_SECONDS,
            registry=self.registry,
        )
        self._batch_crops = Histogram(
            "facemargin_batch_crops", "Crops in a batch.", buckets=_BATCH_CROPS, registry=self.registry
        )
        self._decisions = Counter(
            "facemargin_decisions",
            "Comparisons that were decided, and searches; a search is a match where it found anybody.",
            ("kind", "outcome"),
            registry=self.registry,
        )

    def request(self, route: str, method: str, status: int, seconds: float, problem: str | None) -> None:
        """Count a request; its status is 0 where it was cut off."""
        shown = f"{status // 100}xx" if status else "none"
        self._requests.labels(route, method, shown).observe(seconds)
        if problem is not None:
            self._problems.labels(problem).inc()

    def stage(self, name: StageName, seconds: float) -> None:
        """Count a stage of a request."""
        self._stages.labels(name).observe(seconds)

    def batch(self, crops: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_crops.observe(crops)
        self._batch_seconds.observe(seconds)

    def decided(self, kind: Comparison, match: bool) -> None:
        """Count a decision."""
        self._decisions.labels(kind, "match" if match else "no-match").inc()

    def text(self, accept: str) -> tuple[bytes, str]:
        """All figures, and their media type, in the format that the header Accept prefers."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type
