"""What an evaluation found, as data: JSON for machines, a table for terminals, records for a bundle's manifest."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

from facemargin.bundle import MetricRecord
from facemargin.metrics import Interval, TarAtFar
from training.group_rates import GroupRates

_JSON = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

UNKNOWN_PEOPLE = "people unknown: groups of photographs linked by genuine pairs"

AccuracyMethod = Literal["k-fold", "halves"]
_ACCURACY_NOTES: dict[AccuracyMethod, str] = {
    "k-fold": "threshold of each fold from the other folds",
    "halves": "one fold: threshold of each half from the other half; not a k-fold accuracy",
}


class Estimate(BaseModel):
    """A figure with the 95 % bootstrap interval over people, where there is one."""

    model_config = _JSON

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval) -> "Estimate":
        """From a bootstrap interval."""
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def text(self, decimals: int = 4) -> tuple[str, str]:
        """Value and interval as they stand in a table."""
        shown = "" if self.low is None else f"{self.low:.{decimals}f} - {self.high:.{decimals}f}"
        return f"{self.value:.{decimals}f}", shown


class TarRow(BaseModel):
    """TAR at a bounded FMR; the fields of `facemargin.metrics.TarAtFar` with an interval for the TAR."""

    model_config = _JSON

    far: float = Field(gt=0, le=1)
    tar: Estimate
    threshold: float
    fmr: float
    impostors: int
    errors: int
    measurable: bool
    supported: bool

    @classmethod
    def of(cls, found: TarAtFar, tar: Estimate) -> "TarRow":
        """From a `TarAtFar` and its interval."""
        return cls.model_validate({**vars(found), "tar": tar})

    @property
    def name(self) -> str:
        """As in ``tar@far=1e-2``."""
        return f"tar@far={short_rate(self.far)}"

    @property
    def note(self) -> str:
        """How much stands behind the row."""
        text = f"{self.errors:,} impostor error{'' if self.errors == 1 else 's'} of {self.impostors:,}"
        return text if self.supported else f"{text}: {'fewer than 30' if self.measurable else 'cannot be measured'}"


class LeftOut(BaseModel):
    """What was left out of an evaluation on request.

    Attributes:
        missing: photographs that were not found.
        unreadable: why, for each picture that could not be read.
        pairs: pairs that were left out because of them.
        folds: folds that have no pair left.
    """

    model_config = _JSON

    missing: tuple[str, ...] = ()
    unreadable: dict[str, str] = {}
    pairs: int = 0
    folds: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """For a table; empty where nothing was left out."""
        if not (self.missing or self.unreadable):
            return ""
        folds = f", all of fold {', '.join(map(str, self.folds))}" if self.folds else ""
        return (
            f"LEFT OUT: {self.pairs:,} pairs{folds}, for {len(self.missing):,} missing and "
            f"{len(self.unreadable):,} unreadable pictures"
        )


class EvaluationReport(BaseModel):
    """Verification figures of one model on one set of pairs; similarities in the order of the protocol.

    Attributes:
        protocol: which pairs, in words.
        folds: the folds of the protocol.
        aligned: the pictures were aligned crops already.
        flip_sum: an embedding was the sum over the crop and its mirror image.
        genuine_pairs: pairs of one person.
        impostor_pairs: pairs of two people.
        people: people in the pairs, or groups where people are unknown.
        people_known: the protocol tells who is in the pictures; else groups of photographs that genuine pairs link
            stand for people.
        photos: different photographs in the pairs.
        not_acquired: photographs (``person/stem``) without a detected face; each of their pairs scores -1.
        left_out: pictures and pairs left out on request.
        duplicate_pairs: pairs that the protocol holds before; they count again.
        accuracy_method: "k-fold", or "halves" where there is one fold only.
        accuracy: mean over the folds (or halves).
        accuracy_std: sample standard deviation over the folds.
        accuracy_stderr: accuracy_std / sqrt(number of folds).
        accuracy_per_fold: in the order of `folds` (or the first and the second half).
        eer: equal error rate.
        auc: area under TAR over FMR.
        tar: TAR at FMR 1e-1, 1e-2, 1e-3, or at those asked for.
        resamples: bootstrap resamples of the people behind each interval.
        similarity: cosine of each pair.
        same: whether the pair shows one person.
        fold: fold of the pair.
        groups: error rates by group of people, where groups were given.
    """

    model_config = _JSON

    protocol: str
    folds: tuple[int, ...]
    aligned: bool
    flip_sum: bool
    genuine_pairs: int
    impostor_pairs: int
    people: int
    people_known: bool = True
    photos: int
    not_acquired: tuple[str, ...]
    left_out: LeftOut = LeftOut()
    duplicate_pairs: int = 0
    accuracy_method: AccuracyMethod
    accuracy: Estimate
    accuracy_std: float
    accuracy_stderr: float
    accuracy_per_fold: tuple[float, ...]
    eer: Estimate
    auc: Estimate
    tar: tuple[TarRow, ...]
    resamples: int
    similarity: tuple[float, ...]
    same: tuple[bool, ...]
    fold: tuple[int, ...]
    groups: GroupRates | None = None

    @property
    def genuine(self) -> NDArray[np.float64]:
        """Cosines of the pairs of one person."""
        return np.array([cosine for cosine, same in zip(self.similarity, self.same, strict=True) if same])

    @property
    def impostor(self) -> NDArray[np.float64]:
        """Cosines of the pairs of two people."""
        return np.array([cosine for cosine, same in zip(self.similarity, self.same, strict=True) if not same])

    def to_table(self) -> Table:
        """The figures for a terminal."""
        table = report_table(self.protocol, "figure", "value", "95 % interval", "note")
        spread = f"std {self.accuracy_std:.4f}, stderr {self.accuracy_stderr:.4f}"
        name = "accuracy" if self.accuracy_method == "k-fold" else "accuracy (halves)"
        table.add_row(name, *self.accuracy.text(), f"{spread}; {_ACCURACY_NOTES[self.accuracy_method]}")
        table.add_row("EER", *self.eer.text(), "interpolated on the ROC")
        table.add_row("AUC", *self.auc.text(), "")
        for row in self.tar:
            table.add_row(tar_label(row), *row.tar.text(), row.note)
        table.caption = self._caption()
        return table

    def to_tables(self) -> list[Table]:
        """The figures, and the rates by group where there are groups."""
        return [self.to_table()] if self.groups is None else [self.to_table(), self.groups.to_table()]

    def _caption(self) -> str:
        counts = f"{self.genuine_pairs:,} genuine and {self.impostor_pairs:,} impostor pairs"
        missed = f"{len(self.not_acquired)} without a detected face, their pairs score -1"
        people = f"{self.people:,} people" if self.people_known else UNKNOWN_PEOPLE
        notes = [
            f"{counts} of {people}, {self.photos:,} photographs ({missed})",
            f"flip-sum {'on' if self.flip_sum else 'off'}",
            f"intervals: {self.resamples:,} resamples of the {'people' if self.people_known else 'groups'}",
            f"{self.duplicate_pairs:,} pairs occur more than once and count each time" if self.duplicate_pairs else "",
            self.left_out.text,
        ]
        return "; ".join(note for note in notes if note)

    def unsupported(self) -> tuple[TarRow, ...]:
        """The TAR@FAR rows that fewer than 30 impostor errors stand behind."""
        return tuple(row for row in self.tar if not row.supported)

    def records(self) -> tuple[MetricRecord, ...]:
        """The figures for a bundle's manifest."""
        name = "accuracy" if self.accuracy_method == "k-fold" else "accuracy-halves"
        named = {name: self.accuracy, "eer": self.eer, "auc": self.auc} | {row.name: row.tar for row in self.tar}
        return tuple(metric_record(self.protocol, name, estimate) for name, estimate in named.items())


class AllPairsReport(BaseModel):
    """TAR at low FMR over all pairs of a set of people.

    The interval of a TAR resamples the people of the genuine pairs at the threshold found; it does not hold the
    uncertainty of that threshold, which the number of impostor errors tells.

    Attributes:
        protocol: which photographs, in words.
        people: number of people.
        images: number of embeddings.
        genuine_pairs: pairs of one person.
        impostor_pairs: pairs of two people.
        rows: one per FMR.
        resamples: bootstrap resamples of the people behind each interval.
    """

    model_config = _JSON

    protocol: str
    people: int
    images: int
    genuine_pairs: int
    impostor_pairs: int
    rows: tuple[TarRow, ...]
    resamples: int

    def to_table(self) -> Table:
        """The figures for a terminal."""
        table = report_table(self.protocol, "figure", "TAR", "95 % interval", "threshold", "note")
        for row in self.rows:
            table.add_row(tar_label(row), *row.tar.text(), f"{row.threshold:.4f}", row.note)
        table.caption = (
            f"all {self.genuine_pairs:,} genuine and {self.impostor_pairs:,} impostor pairs of {self.people:,} people, "
            f"{self.images:,} photographs"
        )
        return table

    def records(self) -> tuple[MetricRecord, ...]:
        """The figures for a bundle's manifest; rows that cannot be measured are left out."""
        return tuple(metric_record(self.protocol, row.name, row.tar) for row in self.rows if row.measurable)


def short_rate(rate: float) -> str:
    """A rate as in ``1e-2``, or ``0.005``.

    >>> short_rate(1e-2)
    '1e-2'
    """
    short = f"{rate:.0e}".replace("e-0", "e-")
    return short if float(short) == rate else f"{rate:g}"


def metric_record(protocol: str, name: str, estimate: Estimate) -> MetricRecord:
    """A figure for a bundle's manifest."""
    return MetricRecord(protocol=protocol, name=name, value=estimate.value, low=estimate.low, high=estimate.high)


def tar_label(row: TarRow) -> str:
    """As in ``TAR at FMR 1e-2``."""
    return f"TAR at FMR {short_rate(row.far)}"


def report_table(title: str, *columns: str) -> Table:
    """An empty table whose numbers stand on the right."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        numeric = column in ("value", "TAR", "threshold")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column != "note")
    return table
