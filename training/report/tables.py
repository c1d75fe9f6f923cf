"""The tables of a comparison of heads: for the page, and the same figures for the terminal, Markdown and CSV."""

from collections.abc import Sequence
from statistics import mean, median

from facemargin.metrics import Comparison, Interval
from training.evaluation_report import Estimate, short_rate
from training.report.gains import Gain
from training.report.page import Cell, Table
from training.report.results import Cost, FailedRun, HeadResult, Run
from training.report.rows import QUOTED_FARS, Row, Summary

MOST_DIFFERENCES = 120
"""More pairs of rows than this are not listed in the page, only those with the best row."""

RUN_COLUMNS = (
    "head", "partition", "seed", "accuracy %", "TAR@FAR=1e-2 %", "EER %", "validation accuracy %", "epochs", "minutes",
)  # fmt: skip

_ESTIMATES = ("accuracy", "tar_1e-2", "eer")
CSV_COLUMNS = (
    "head", "partition", "seed", *(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")),
    "validation_accuracy", "loss", "epochs", "steps", "images", "minutes", "images_per_second",
    "step_ms_q25", "step_ms_median", "step_ms_q75", "peak_memory_bytes", "backbone_parameters", "head_parameters",
    "hardware", "precision", "failure",
)  # fmt: skip


def run_cells(run: Run) -> list[str]:
    """A run as text under `RUN_COLUMNS`, figures in per cent."""
    if isinstance(run, FailedRun):
        return [run.head, run.partition, str(run.seed), run.failure, *[""] * (len(RUN_COLUMNS) - 4)]
    validated = run.validation.get("accuracy")
    return [
        run.head,
        run.partition,
        str(run.seed),
        *(_shown_estimate(estimate) for estimate in _estimates(run)),
        "" if validated is None else f"{100 * validated:.2f}",
        str(run.epochs),
        f"{run.minutes:.1f}",
    ]


def csv_cells(run: Run) -> list[object]:
    """A run as numbers under `CSV_COLUMNS`; None where there is none."""
    if isinstance(run, FailedRun):
        return [run.head, run.partition, run.seed, *[None] * (len(CSV_COLUMNS) - 4), run.failure]
    cost = run.cost
    measured = [end for e in _estimates(run) for end in (e.value, e.low, e.high)]
    return [
        run.head, run.partition, run.seed, *measured, run.validation.get("accuracy"), run.loss, run.epochs, run.steps,
        run.images, run.minutes, _images_per_second(run), *((cost and cost.step_ms) or (None, None, None)),
        cost and cost.peak_memory_bytes, cost and cost.backbone_parameters, cost and cost.head_parameters,
        run.hardware, run.precision, None,
    ]  # fmt: skip


def main_table(summary: Summary, failed: Sequence[FailedRun]) -> Table:
    """A row a head and partition: the figures, and whether the row differs from the best."""
    columns = (
        summary.kind, "seeds", "accuracy\n%", "std\nover seeds, %",
        *(f"TAR\nat FMR {short_rate(far)}, %" for far in QUOTED_FARS), "EER\n%", "against the best row",
    )  # fmt: skip
    rows = [_main_cells(row, summary) for row in summary.rows]
    rows += [_failed_cells(run, len(columns)) for run in failed]
    return Table("The rows, measured on the test pairs", columns, rows, _main_notes(summary), frozenset({7}))


def difference_table(summary: Summary) -> Table:
    """Accuracy of every two rows, or of each row and the best where there are too many."""
    listed: Sequence[Comparison] = summary.differences
    notes = [f"p and interval of each pair alone; p (Holm) is corrected for all {len(listed):,} pairs of rows."]
    if len(listed) > MOST_DIFFERENCES:
        listed = [found for found in listed if summary.best in (found.first, found.second)]
        notes.append(f"Shown are the pairs with {summary.best}; all are in summary.json.")
    rows = [
        [
            Cell(f"{found.first} – {found.second}"),
            Cell(signed(found.difference)),
            Cell(signed_range(found.difference)),
            Cell(p_value(found.p)),
            Cell(p_value(found.adjusted_p)),
            Cell(found.verdict, mark="" if found.shown else "muted"),
        ]
        for found in sorted(listed, key=lambda found: (found.adjusted_p, -abs(found.difference.value)))
    ]
    columns = ("first – second", "difference\npercentage points", "95 % interval", "p", "p (Holm)", "verdict")
    return Table("Accuracy of every two rows", columns, rows, notes, frozenset({5}))


def gain_table(gains: Sequence[Gain]) -> Table:
    """What the options gain."""
    rows = [
        [
            Cell(gain.row),
            Cell(gain.option),
            Cell(percent(gain.without)),
            Cell(percent(gain.with_option)),
            Cell(signed(gain.gain), signed_range(gain.gain)),
            Cell(_gain_verdict(gain), mark="" if gain.shown else "muted"),
        ]
        for gain in gains
    ]
    too_many = any(gain.shown is None for gain in gains)
    notes = ("Too many gains to judge: compare fewer rows at a time.",) if too_many else ()
    columns = ("row", "option", "without\naccuracy %", "with\naccuracy %", "gain\npercentage points", "verdict")
    return Table("What averaging and the mirrored crop gain", columns, rows, notes, frozenset({1, 5}))


def cost_table(rows: Sequence[Row]) -> Table:
    """Time, memory and size of each row."""
    columns = (
        "row", "time per step\nms, median", "images\nper second", "training\nminutes", "steps", "peak memory\nMB",
        "parameters\nmillions, backbone + head",
    )  # fmt: skip
    used = dict.fromkeys(f"{run.hardware}, {run.precision}" for row in rows for run in row.runs)
    notes = (
        f"Hardware: {'; '.join(used)}.",
        "Time per step, without waiting for its batch: median over the seeds of each run's median, below it the middle "
        "half of the last 1,000 steps of the first seed. Peak memory: the largest over the seeds; of the GPU where one "
        "is used, else the resident set of the whole process, data loading and validation included.",
    )
    return Table("What each row cost", columns, [_cost_cells(row) for row in rows], notes)


def percent(share: float) -> str:
    """A share in per cent with two decimals.

    >>> percent(0.5)
    '50.00'
    """
    return f"{100 * share:.2f}"


def interval_text(found: Interval) -> str:
    """Both ends in per cent."""
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def signed(found: Interval) -> str:
    """A difference in percentage points."""
    return f"{100 * found.value:+.2f}".replace("-", "−")


def signed_range(found: Interval) -> str:
    """Both ends of a difference in percentage points."""
    return f"{100 * found.low:+.2f} to {100 * found.high:+.2f}".replace("-", "−")


def less_the_best(row: Row) -> str:
    """Accuracy less that of the best row, in percentage points, and whether that is shown to be a difference."""
    found = row.against_best
    if found is None:
        return "-"
    return _less(row, found) + ("" if found.shown else ", none shown")


def p_value(p: float) -> str:
    """A p-value with as many digits as mean something.

    >>> p_value(0.00004), p_value(0.04996), p_value(1.0)
    ('< 0.001', '0.0500', '1.000')
    """
    if p < 0.001:
        return "< 0.001"
    return f"{p:.4f}" if p < 0.1 else f"{p:.3f}"


def _main_cells(row: Row, summary: Summary) -> list[Cell]:
    best = row.name == summary.best
    supported = {found.far: found.supported for found in row.runs[0].test.tar}
    return [
        Cell(row.name, mark="best" if best else ""),
        Cell(str(len(row.runs))),
        Cell(percent(row.accuracy.value), interval_text(row.accuracy), "best" if best else ""),
        Cell("–" if row.accuracy_std is None else percent(row.accuracy_std), mark="muted"),
        *(
            Cell(percent(tar.value) + ("" if supported.get(far, True) else " †"), interval_text(tar))
            for far, tar in zip(QUOTED_FARS, row.tar, strict=True)
        ),
        Cell(percent(row.eer.value), interval_text(row.eer)),
        _against_best(row, best),
    ]


def _against_best(row: Row, best: bool) -> Cell:
    if best:
        return Cell("highest accuracy", mark="best")
    found = row.against_best
    if found is None:
        return Cell("not compared", mark="muted")
    note = f"{_less(row, found)} points, p (Holm) {p_value(found.adjusted_p)}"
    return Cell("lower", note) if found.shown else Cell("no difference shown", note, "muted")


def _less(row: Row, found: Comparison) -> str:
    """Accuracy of the row less that of the other one, in percentage points."""
    value = found.difference.value if found.first == row.name else -found.difference.value
    return f"{100 * value:+.2f}".replace("-", "−")


def _main_notes(summary: Summary) -> list[str]:
    over = "people and seeds" if summary.over_seeds else "people; single seeds, so another run may differ by more"
    notes = [f"Below each figure its 95 % interval over {over} ({summary.resamples:,} resamples of the people)."]
    if any(not found.supported for row in summary.rows for found in row.runs[0].test.tar if found.far in QUOTED_FARS):
        notes.append("† Fewer than 30 impostor errors stand behind this FMR: it is less certain than its interval.")
    return notes


def _failed_cells(run: FailedRun, columns: int) -> list[Cell]:
    name = run.head if run.partition == "dense" else f"{run.head}, {run.partition}"
    return [
        Cell(name, mark="bad"),
        Cell(f"seed {run.seed}"),
        *[Cell("–", mark="muted")] * (columns - 3),
        Cell(run.failure, "not among the figures of its row", "bad"),
    ]


def _gain_verdict(gain: Gain) -> str:
    if gain.shown is None:
        return "not judged"
    if not gain.shown:
        return "no difference shown"
    return "higher with it" if gain.gain.value > 0 else "lower with it"


def _cost_cells(row: Row) -> list[Cell]:
    costs = [run.cost for run in row.runs if run.cost is not None]
    first = row.runs[0]
    return [
        Cell(row.name),
        _step_cell(costs),
        Cell(f"{mean(_images_per_second(run) for run in row.runs):,.0f}"),
        Cell(f"{mean(run.minutes for run in row.runs):.1f}"),
        Cell(f"{first.steps:,}", f"{first.epochs} epochs"),
        _memory_cell(costs),
        _parameter_cell(costs),
    ]


def _step_cell(costs: Sequence[Cost]) -> Cell:
    steps = [cost.step_ms for cost in costs if cost.step_ms is not None]
    if not steps:
        return Cell("–", mark="muted")
    over_seeds = median(quartiles[1] for quartiles in steps)
    return Cell(f"{over_seeds:,.1f}", f"{steps[0][0]:,.1f} to {steps[0][2]:,.1f}")


def _memory_cell(costs: Sequence[Cost]) -> Cell:
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    if not peaks:
        return Cell("–", mark="muted")
    return Cell(f"{max(peaks) / 1e6:,.0f}", "GPU" if costs[0].device == "cuda" else "resident set")


def _parameter_cell(costs: Sequence[Cost]) -> Cell:
    if not costs:
        return Cell("–", mark="muted")
    backbone, head = costs[0].backbone_parameters / 1e6, costs[0].head_parameters / 1e6
    return Cell(f"{backbone + head:.2f}", f"{backbone:.2f} + {head:.2f}")


def _images_per_second(run: HeadResult) -> float:
    if run.cost is not None:
        return run.cost.images_per_second
    return run.images / (60 * run.minutes) if run.minutes else 0.0


def _estimates(run: HeadResult) -> tuple[Estimate, Estimate, Estimate]:
    return run.test.accuracy, next(row.tar for row in run.test.tar if row.far == 1e-2), run.test.eer


def _shown_estimate(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return percent(found.value)
    return f"{percent(found.value)} ({100 * found.low:.1f}–{100 * found.high:.1f})"
