"""Figures that are looked up when Prometheus asks: how much there is, how old it is, whether it works.

Of collections only totals are given. A name may be personal, or tell a customer; even under pseudonyms the size of each
collection would be told to everybody who sees a dashboard; and there may be any number of them.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from facemargin import __version__
from service.errors import StoreError
from service.readiness import free_bytes
from service.store.people import Totals, totals

if TYPE_CHECKING:
    from service.context import Service

_COUNTED_FOR_S: Final = 10.0
"""Counting a million rows takes some tenths of a second, so it is not done for every scrape."""


class Gauges(Collector):
    """The state of a service as figures.

    Args:
        service: the whole of it.
        clock: seconds.
    """

    def __init__(self, service: "Service", clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._totals: Totals | None = None
        self._counted_until = clock()

    def collect(self) -> Iterator[Metric]:
        """Look everything up; what cannot be, is left out."""
        yield from self._what_runs()
        yield from self._how_busy()
        yield from self._how_much()
        yield from self._upkeep()
        yield from self._in_order()

    def _what_runs(self) -> Iterator[Metric]:
        models = self._service.models
        yield InfoMetricFamily("facemargin_build", "The version that runs.", {"version": __version__})
        found = InfoMetricFamily("facemargin_model", "The loaded models.", labels=("model", "default"))
        for model in models.values():
            found.add_metric((model.id, str(model is models.default).lower()), {"name": model.bundle.manifest.name})
        yield found

    def _how_busy(self) -> Iterator[Metric]:
        load, batchers = self._service.load, self._service.engine.batchers
        yield _gauge("admitted_requests", "Requests with images that were let in and not answered yet.", load.inside)
        yield _gauge("wait_seconds", "How long a request with images would wait now, estimated.", load.wait_seconds)
        yield _gauge("waiting_crops", "Crops before the networks.", batchers.waiting)

    def _how_much(self) -> Iterator[Metric]:
        if (vectors := self._service.gallery.total) is not None:
            yield _gauge("index_vectors", "Vectors in the search indexes of all collections.", vectors)
        if (found := self._counted()) is not None:
            yield _gauge("collections", "Collections.", found.collections)
            yield _gauge("people", "People in all collections.", found.people)
            yield _gauge("faces", "Faces in all collections.", found.faces)

    def _counted(self) -> Totals | None:
        """The totals of some seconds ago; None where the store does not answer."""
        if self._totals is None or self._clock() >= self._counted_until:
            try:
                with self._service.store.read() as session:
                    self._totals = totals(session)
            except (StoreError, SQLAlchemyError):
                return None
            self._counted_until = self._clock() + _COUNTED_FOR_S
        return self._totals

    def _upkeep(self) -> Iterator[Metric]:
        keeping, service = self._service.housekeeping, self._service
        failures = CounterMetricFamily(
            "facemargin_housekeeping_failures", "Jobs of the housekeeping that failed.", labels=("job",)
        )
        for job, times in (keeping.failed | service.upgrader.failed).items():
            failures.add_metric((job,), times)
        yield failures
        yield _gauge("housekeeping_age_seconds", "Since the last round of housekeeping.", keeping.age_seconds)
        if service.snapshots is not None and (age := service.snapshots.oldest_seconds()) is not None:
            yield _gauge("snapshot_age_seconds", "Age of the oldest snapshot.", age)
        due = len(service.gallery.unsaved(service.settings.snapshot_faces))
        yield _gauge("snapshots_due", "Collections whose snapshot is missing, or far behind.", due)

    def _in_order(self) -> Iterator[Metric]:
        found = GaugeMetricFamily("facemargin_check_ok", "1 where a check of readiness passes.", labels=("check",))
        for check in self._service.readiness.checks():
            found.add_metric((check.name,), check.ok)
        yield found
        folder = self._service.store.folder
        if folder is not None and (free := free_bytes(folder)) is not None:
            yield _gauge("store_free_bytes", "Bytes left on the disk of the store.", free)


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"facemargin_{name}", help_text, value)
