"""What an evaluation of templates (IJB) found: JSON for machines, a table for terminals, records for a manifest."""

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from facemargin.bundle import MetricRecord
from facemargin.metrics import FnirAtFpir
from training.evaluation_report import Estimate, TarRow, metric_record, report_table, short_rate, tar_label

_JSON = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PooledFaces(BaseModel):
    """The faces that were pooled into templates, and those that were not.

    Attributes:
        faces: pictures that were embedded.
        media: photographs and videos, counted in each template.
        templates: all pooled templates.
        aligned: the pictures were aligned crops already; else they were aligned by the given landmarks.
        score_weights: faces weigh as the detector scored them.
        missing: faces whose picture was not found, left out on request.
        unreadable: why, for each picture that could not be read and was left out on request.
    """

    model_config = _JSON

    faces: int
    media: int
    templates: int
    aligned: bool
    score_weights: bool
    missing: tuple[str, ...]
    unreadable: dict[str, str]

    def text(self, without: int) -> str:
        """For a caption."""
        weights = "weighted by detection score" if self.score_weights else "all of one weight"
        left_out = len(self.missing) + len(self.unreadable)
        gone = f"; LEFT OUT: {left_out:,} faces, {without:,} templates without a face" if left_out or without else ""
        return f"{self.faces:,} faces ({weights}) in {self.media:,} media of {self.templates:,} templates{gone}"


class TemplatePairsReport(BaseModel):
    """IJB 1:1.

    Attributes:
        protocol: which set.
        faces: what was pooled.
        flip_sum: an embedding was the sum over the crop and its mirror image.
        templates: templates in the pairs.
        templates_without_faces: templates of the protocol that have none; their pairs are left out.
        pairs_left_out: how many those are.
        duplicate_pairs: pairs that the protocol holds before; they count again.
        people: groups of templates that genuine pairs link; the intervals resample them.
        genuine_pairs, impostor_pairs: counts.
        eer: equal error rate.
        rows: TAR at each FAR.
        resamples: of the bootstrap.
    """

    model_config = _JSON

    protocol: str
    faces: PooledFaces
    flip_sum: bool
    templates: int
    templates_without_faces: tuple[int, ...]
    pairs_left_out: int
    duplicate_pairs: int
    people: int
    genuine_pairs: int
    impostor_pairs: int
    eer: float
    rows: tuple[TarRow, ...]
    resamples: int

    def to_table(self) -> Table:
        """The figures for a terminal."""
        table = report_table(self.protocol, "figure", "TAR", "95 % interval", "threshold", "note")
        for row in self.rows:
            table.add_row(tar_label(row), *row.tar.text(), f"{row.threshold:.4f}", row.note)
        table.add_row("EER", f"{self.eer:.4f}", "", "", "")
        gone = f" ({self.pairs_left_out:,} pairs LEFT OUT)" if self.pairs_left_out else ""
        again = f" ({self.duplicate_pairs:,} occur more than once)" if self.duplicate_pairs else ""
        table.caption = (
            f"{self.genuine_pairs:,} genuine and {self.impostor_pairs:,} impostor pairs of {self.templates:,} "
            f"templates{gone}{again}; {self.faces.text(len(self.templates_without_faces))}; "
            f"flip-sum {'on' if self.flip_sum else 'off'}; intervals: {self.resamples:,} resamples of {self.people:,} "
            "groups of templates linked by genuine pairs, threshold held"
        )
        return table

    def to_tables(self) -> list[Table]:
        """As for reports that have several."""
        return [self.to_table()]

    def unsupported(self) -> tuple[TarRow, ...]:
        """The rows that fewer than 30 impostor errors stand behind."""
        return tuple(row for row in self.rows if not row.supported)

    def records(self) -> tuple[MetricRecord, ...]:
        """The figures for a bundle's manifest; rows that cannot be measured are left out."""
        rows = tuple(metric_record(self.protocol, row.name, row.tar) for row in self.rows if row.measurable)
        return (*rows, metric_record(self.protocol, "eer", Estimate(value=self.eer)))


class FnirRow(BaseModel):
    """FNIR at a bounded FPIR; fields of `facemargin.metrics.FnirAtFpir`."""

    model_config = _JSON

    bound: float
    fnir: float
    threshold: float
    fpir: float
    rank: int
    nonmated: int
    errors: int
    measurable: bool
    supported: bool

    @classmethod
    def of(cls, found: FnirAtFpir) -> "FnirRow":
        """From an `FnirAtFpir`."""
        return cls.model_validate(vars(found))

    @property
    def name(self) -> str:
        """As in ``fnir@fpir=1e-2``."""
        return f"fnir@fpir={short_rate(self.bound)}"

    @property
    def note(self) -> str:
        """How much stands behind the row."""
        mark = "" if self.supported else " (fewer than 30)" if self.measurable else " (cannot be measured)"
        return f"{self.errors:,} of {self.nonmated:,} strangers accepted{mark}"


class GalleryRow(BaseModel):
    """What the probes found in one gallery.

    Attributes:
        name: of the gallery.
        subjects: people in it.
        mated: probes whose subject is in it.
        strangers: the other probes.
        ranks: share of the mated probes whose subject is among the first k, by k.
        fnir: a row for each FPIR.
    """

    model_config = _JSON

    name: str
    subjects: int
    mated: int
    strangers: int
    ranks: dict[int, float]
    fnir: tuple[FnirRow, ...]


class TemplateSearchReport(BaseModel):
    """IJB 1:N.

    Attributes:
        protocol: which set.
        faces: what was pooled.
        flip_sum: an embedding was the sum over the crop and its mirror image.
        templates_without_faces: templates of the protocol that have none, left out on request.
        probes: probes searched.
        probes_without_mate: those whose subject is in no gallery: strangers to all.
        galleries: a row a gallery.
    """

    model_config = _JSON

    protocol: str
    faces: PooledFaces
    flip_sum: bool
    templates_without_faces: tuple[int, ...]
    probes: int
    probes_without_mate: int
    galleries: tuple[GalleryRow, ...]

    def mean(self) -> dict[str, float]:
        """Every figure, averaged over the galleries."""
        named: dict[str, list[float]] = {}
        for gallery in self.galleries:
            for rank, share in gallery.ranks.items():
                named.setdefault(f"rank-{rank}", []).append(share)
            for row in gallery.fnir:
                named.setdefault(row.name, []).append(row.fnir)
        return {name: sum(values) / len(values) for name, values in named.items()}

    def to_table(self) -> Table:
        """The figures for a terminal."""
        table = report_table(
            self.protocol, "figure", *(f"gallery {row.name}" for row in self.galleries), "mean", "note"
        )
        for place, (name, mean) in enumerate(self.mean().items()):
            ranked = place < len(self.galleries[0].ranks)
            fnir = [] if ranked else [row.fnir[place - len(row.ranks)] for row in self.galleries]
            values = [list(row.ranks.values())[place] for row in self.galleries] if ranked else [f.fnir for f in fnir]
            notes = "; ".join(row.note for row in fnir)
            table.add_row(
                name.replace("@", " at ").replace("=", " "), *(f"{v:.4f}" for v in values), f"{mean:.4f}", notes
            )
        sizes = "; ".join(
            f"{row.name}: {row.subjects:,} people, {row.mated:,} probes with a mate, {row.strangers:,} strangers"
            for row in self.galleries
        )
        table.caption = (
            f"{sizes}; {self.probes:,} probes, {self.probes_without_mate:,} of them in no gallery; "
            f"{self.faces.text(len(self.templates_without_faces))}; flip-sum {'on' if self.flip_sum else 'off'}"
        )
        return table

    def to_tables(self) -> list[Table]:
        """As for reports that have several."""
        return [self.to_table()]

    def unsupported(self) -> tuple[FnirRow, ...]:
        """The rows that fewer than 30 accepted strangers stand behind."""
        return tuple(row for gallery in self.galleries for row in gallery.fnir if not row.supported)

    def records(self) -> tuple[MetricRecord, ...]:
        """The means for a bundle's manifest; what cannot be measured in every gallery is left out."""
        unmeasurable = {row.name for gallery in self.galleries for row in gallery.fnir if not row.measurable}
        found = {name: value for name, value in self.mean().items() if name not in unmeasurable}
        return tuple(metric_record(self.protocol, name, Estimate(value=value)) for name, value in found.items())
