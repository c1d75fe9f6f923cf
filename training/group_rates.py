"""Error rates by group of people at one threshold, as data and as tables."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from facemargin.metrics import Differential, GroupReport, Rate

_JSON = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RateRow(BaseModel):
    """A rate with its 95 % interval over people; fields of `facemargin.metrics.Rate`.

    Attributes:
        value: errors / pairs; None without pairs.
        low, high: None without pairs, without errors, or with nothing but errors.
        errors, pairs: behind the rate.
        supported: at least 30 errors.
    """

    model_config = _JSON

    value: float | None
    low: float | None
    high: float | None
    errors: int
    pairs: int
    supported: bool

    @classmethod
    def of(cls, rate: Rate) -> "RateRow":
        """From a `Rate`."""
        low, high = (None, None) if rate.interval is None else (rate.interval.low, rate.interval.high)
        return cls(value=rate.value, low=low, high=high, errors=rate.errors, pairs=rate.pairs, supported=rate.supported)

    def text(self) -> str:
        """As it stands in a table; a rate with fewer than 30 errors is marked."""
        if self.value is None:
            return "no pairs"
        shown = "" if self.low is None else f" ({self.low:.4f} - {self.high:.4f})"
        mark = "" if self.supported else ", fewer than 30"
        return f"{self.value:.4f}{shown}, {self.errors:,} of {self.pairs:,}{mark}"


class GroupRow(BaseModel):
    """The rates of one group: FNMR of its people's genuine pairs, FMR of the impostor pairs within it."""

    model_config = _JSON

    group: str
    people: int
    fnmr: RateRow
    fmr: RateRow


class CrossRow(BaseModel):
    """FMR of the impostor pairs of one person of each of two groups."""

    model_config = _JSON

    first: str
    second: str
    fmr: RateRow


class RatioRow(BaseModel):
    """The largest ratio of a rate between two groups; fields of `facemargin.metrics.Differential`.

    Attributes:
        highest, lowest: the two groups; None where fewer than two have 30 errors.
        ratio, low, high: with its interval, simultaneous over all pairs of groups; None is "not supported".
        shown: the interval lies above 1.
        left_out: groups with fewer than 30 errors.
    """

    model_config = _JSON

    highest: str | None
    lowest: str | None
    ratio: float | None
    low: float | None
    high: float | None
    shown: bool
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, found: Differential) -> "RatioRow":
        """From a `Differential`."""
        ratio = found.ratio
        return cls(
            highest=found.highest,
            lowest=found.lowest,
            ratio=None if ratio is None else ratio.value,
            low=None if ratio is None else ratio.low,
            high=None if ratio is None else ratio.high,
            shown=found.shown,
            left_out=found.left_out,
        )

    def text(self) -> str:
        """One sentence."""
        if self.highest is None:
            return "not supported: it needs two groups with at least 30 errors each"
        if self.ratio is None:
            return (
                "not supported: in too many resamples of the people a group has no error, because its errors are of "
                "few people"
            )
        verdict = "a difference" if self.shown else "no difference shown"
        return f"{self.ratio:.2f} ({self.low:.2f} - {self.high:.2f}), {self.highest} over {self.lowest}: {verdict}"


class GroupRates(BaseModel):
    """Error rates by group at one threshold for everybody.

    Attributes:
        threshold: pairs with a cosine >= threshold are accepted.
        chosen: where the threshold comes from: these pairs, or the bundle's calibration.
        fmr_asked: the FMR that the threshold was chosen for.
        groups: a row a group.
        cross: a row for every two groups.
        across: all impostor pairs of people of different groups.
        fnmr_ratio, fmr_ratio: the largest differences.
        ungrouped: people of the pairs without a group.
        ungrouped_pairs: pairs left out because of them.
    """

    model_config = _JSON

    threshold: float
    chosen: Literal["pairs", "calibration"]
    fmr_asked: float
    groups: tuple[GroupRow, ...]
    cross: tuple[CrossRow, ...]
    across: RateRow
    fnmr_ratio: RatioRow
    fmr_ratio: RatioRow
    ungrouped: tuple[str, ...]
    ungrouped_pairs: int

    @classmethod
    def of(cls, found: GroupReport, *, chosen: Literal["pairs", "calibration"], fmr_asked: float) -> "GroupRates":
        """From a `GroupReport`, with what its threshold was chosen by."""
        return cls(
            threshold=found.threshold,
            chosen=chosen,
            fmr_asked=fmr_asked,
            groups=tuple(
                GroupRow(group=row.group, people=row.people, fnmr=RateRow.of(row.fnmr), fmr=RateRow.of(row.fmr))
                for row in found.groups
            ),
            cross=tuple(CrossRow(first=row.first, second=row.second, fmr=RateRow.of(row.fmr)) for row in found.cross),
            across=RateRow.of(found.across),
            fnmr_ratio=RatioRow.of(found.fnmr_ratio),
            fmr_ratio=RatioRow.of(found.fmr_ratio),
            ungrouped=found.ungrouped,
            ungrouped_pairs=found.ungrouped_pairs,
        )

    def to_table(self) -> Table:
        """The rates for a terminal."""
        origin = "of these pairs" if self.chosen == "pairs" else "of the bundle's calibration"
        title = f"by group, at cosine {self.threshold:.4f} (FMR {self.fmr_asked:g} {origin})"
        table = Table(title=title, title_justify="left", caption_justify="left")
        for column in ("group", "people", "FNMR (95 % interval)", "FMR within the group (95 % interval)"):
            table.add_column(column)
        for row in self.groups:
            table.add_row(row.group, f"{row.people:,}", row.fnmr.text(), row.fmr.text())
        for pair in self.cross:
            table.add_row(f"{pair.first} / {pair.second}", "", "", pair.fmr.text())
        if len(self.cross) > 1:
            table.add_row("two groups", "", "", self.across.text())
        table.caption = (
            f"largest ratio of FNMR: {self.fnmr_ratio.text()}; largest ratio of FMR: {self.fmr_ratio.text()}; "
            f"{len(self.ungrouped):,} people without a group, {self.ungrouped_pairs:,} pairs left out"
        )
        return table
