"""The page of a comparison of heads: which sections it has and what they say."""

import json
from collections.abc import Callable, Sequence

from training.data.lfw_open import TEST_FOLDS, VALIDATION_FOLD
from training.report import figures
from training.report.page import Figure, Page, Section
from training.report.results import FailedRun, HeadResult
from training.report.rows import Row, Summary, named_rows
from training.report.tables import cost_table, difference_table, gain_table, interval_text, main_table, percent

_READING = (
    "Accuracy is the share of right decisions, the threshold of each fold coming from the other folds. TAR at an FMR "
    "is the share of genuine pairs accepted at a threshold that accepts at most that share of impostor pairs. EER is "
    "the error rate where both kinds of error are equally frequent.",
    "An interval says where the figure would lie with other people from the same population and, where a row has "
    "several seeds, with other training runs: the people are resampled, not the pairs, because pairs that share a "
    "person are not independent. With a single seed a row it knows nothing about training: two runs of the very same "
    "recipe may lie further apart than it says.",
    "Two rows are compared on the same resamples of the people, so that what is hard for both cancels; seeds are taken "
    "as independent between rows, also where two rows have the same ones. Intervals of two rows that overlap say "
    "nothing about their difference. Over all pairs of rows Holm's correction bounds the chance that even "
    "one difference is wrongly called one by 5 %.",
    "“No difference shown” means that these pairs and seeds do not tell the two rows apart. It does not mean that they "
    "are equal: the interval of the difference says how large it may still be in either direction. More seeds and more "
    "test people make it narrower.",
    "The row of highest accuracy was found on the same pairs it is quoted on, so its figure is a little flattered; "
    "read it together with the rows that are not shown to differ from it.",
)


def faces_page(summary: Summary, results: Sequence[HeadResult], failed: Sequence[FailedRun]) -> Page:
    """The report of a comparison.

    Args:
        summary: of the results.
        results: at least one.
        failed: runs without a result.
    """
    rows = named_rows(results)
    sections = [
        _results(summary, failed),
        _differences(summary),
        _gains(summary, results),
        _cost(summary.rows),
        *_pictures(rows),
        Section("reading", "How to read this", text=_READING),
        _origin(results),
    ]
    return Page(
        title=_title(summary, results[0]),
        lead=_lead(summary),
        sections=[section for section in sections if section is not None],
        warnings=_warnings(summary, failed),
    )


def _title(summary: Summary, first: HeadResult) -> str:
    what = {"head": "Loss heads", "partition": f"Partitions of {first.head}"}.get(summary.kind, "Heads and partitions")
    return f"{what} compared on {first.test.protocol}"


def _lead(summary: Summary) -> str:
    best = next(row for row in summary.rows if row.name == summary.best)
    found = (
        f"{best.name} reaches the highest accuracy, {percent(best.accuracy.value)} % ({interval_text(best.accuracy)})."
    )
    if not summary.differences:
        return found
    lower = sum(row.against_best is not None and row.against_best.shown for row in summary.rows)
    others = len(summary.rows) - 1
    if lower == 0:
        return f"{found} No difference from it is shown for any of the other {others} rows."
    rest = "all others" if lower == others else f"{lower} of the other {others} rows"
    end = "" if lower == others else f"; for the remaining {others - lower} no difference is shown"
    return f"{found} It is shown to be better than {rest}{end}."


def _warnings(summary: Summary, failed: Sequence[FailedRun]) -> list[str]:
    warnings = [f"{run.head}, {run.partition}, seed {run.seed} has no result: {run.advice}." for run in failed]
    if not summary.over_seeds:
        warnings.append(
            "The rows have a single seed each (or seeds that do not differ), so intervals and differences are about "
            "these very runs; another seed may rank them otherwise. Run several with --seeds 0,1,2."
        )
    if summary.not_compared:
        warnings.append(f"No differences: {summary.not_compared}.")
    return warnings


def _results(summary: Summary, failed: Sequence[FailedRun]) -> Section:
    test = summary.rows[0].runs[0].test
    text = (
        f"{test.genuine_pairs:,} genuine and {test.impostor_pairs:,} impostor pairs of {test.people:,} people, "
        f"{test.photos:,} photographs, {_whether_trained_on(summary.rows[0].runs[0])}; "
        f"{len(test.not_acquired)} photographs without a detected face, whose pairs count as not accepted. "
        f"Embeddings are {'the sum over the crop and its mirror image' if test.flip_sum else 'of the crop alone'}."
    )
    return Section("results", "Results", text=(text,), tables=(main_table(summary, failed),))


def _whether_trained_on(run: HeadResult) -> str:
    """What is known of the tested people and the training set: ``lfw-open`` keeps them apart by name, within LFW."""
    data, test = run.recipe.get("data") or {}, run.recipe.get("test") or {}
    folders = data.get("folders") or [None]
    own = (test.get("pairs"), test.get("images")) == (data.get("pairs"), folders[0])
    if data.get("protocol") != "lfw-open" or not own or not {*run.test.folds} <= {VALIDATION_FOLD, *TEST_FOLDS}:
        return "whether any of them is in training was not checked"
    if len(folders) == 1:
        return "none of them in training"
    return "none of them among the training people of that data set; the further training sets were not checked"


def _differences(summary: Summary) -> Section | None:
    if not summary.differences:
        return None
    return Section("differences", "Differences between rows", tables=(difference_table(summary),))


def _gains(summary: Summary, results: Sequence[HeadResult]) -> Section | None:
    measured = results[0].variants
    if not summary.gains or measured is None:
        return None
    averaged = any(gain.option == "averaged weights" for gain in summary.gains)
    text = (
        f"Measured on the {measured.protocol} ({len(measured.same):,} pairs), so that the test pairs are scored once "
        "only. Each seed is compared with itself. The other option stays as it is configured. The mirrored crop "
        "doubles the time of an embedding; averaging costs nothing at the time of use."
        + ("" if averaged else " No run keeps averaged weights.")
    )
    corrected = (
        "A gain is called one where the interval that holds for all gains of this table together excludes zero. "
        "Options that were chosen on these pairs have a flattered gain."
    )
    return Section("gains", "Options", text=(text, corrected), tables=(gain_table(summary.gains),))


def _cost(rows: Sequence[Row]) -> Section:
    return Section("cost", "Cost", tables=(cost_table(rows),))


def _pictures(rows: dict[str, list[HeadResult]]) -> list[Section]:
    several = any(len(runs) > 1 for runs in rows.values())
    seeds = "; the mean over the seeds, each seed thin" if several else ""
    names = ", ".join(rows)
    roc = Figure(
        f"True accept rate over false match rate{seeds}. In the shaded part fewer than 30 impostor errors stand behind "
        "a point. The dotted line is chance.",
        f"ROC of {names}",
        figures.roc_figure(rows, "roc"),
    )
    sections = [
        Section("roc", "ROC", figures=(roc,)),
        Section(
            "scores",
            "Scores of the test pairs",
            text=(
                "Cosine similarity of genuine and impostor pairs; each distribution has area 1. The less they overlap, "
                "the better; where they lie does not matter.",
            ),
            figures=_panels(rows, "scores", figures.scores_figure, "score distributions"),
            legend=(("one person", "series-0"), ("two people", "series-1")),
        ),
    ]
    with_angles = {name: runs for name, runs in rows.items() if any(run.angles is not None for run in runs)}
    if with_angles:
        sections.append(_angles(with_angles))
    if any(run.curve is not None for runs in rows.values() for run in runs):
        sections.append(_loss(rows))
    annealed = {name: runs for name, runs in rows.items() if runs[0].annealing is not None}
    if annealed:
        sections.append(_annealing(rows))
    return sections


def _angles(rows: dict[str, list[HeadResult]]) -> Section:
    sample = next(run.angles for runs in rows.values() for run in runs if run.angles is not None)
    text = (
        f"Angles between embeddings of {len(sample.own):,} training images of {sample.people:,} people with at least "
        "two images (at most eight of each; crops as they are, not augmented) and class centres. A centre is the mean "
        "direction of the person's sampled images; of the own one the image itself is left out. A margin is meant to "
        "move the two distributions apart."
    )
    return Section(
        "angles",
        "Angles to class centres",
        text=(text,),
        figures=_panels(rows, "angles", figures.angles_figure, "angles to class centres"),
        legend=(("own centre", "series-0"), ("nearest other centre", "series-1")),
    )


def _loss(rows: dict[str, list[HeadResult]]) -> Section:
    figure = Figure(
        "Loss over optimizer steps, smoothed, the mean of a row's seeds. Heads with another margin or scale have "
        "another loss: compare a line with its own course, not with the others.",
        "Loss curves of " + ", ".join(rows),
        figures.loss_figure(rows, "loss"),
    )
    return Section("loss", "Loss", figures=(figure,))


def _annealing(rows: dict[str, list[HeadResult]]) -> Section:
    figure = Figure(
        "λ of the heads that soften their margin at the start: the target score is (λ·cos θ + ψ(θ)) / (1 + λ), plain "
        "softmax at large λ and the whole margin at 0.",
        "λ over the steps",
        figures.annealing_figure(rows, "lambda"),
    )
    return Section("annealing", "Margin schedule", figures=(figure,))


def _panels(
    rows: dict[str, list[HeadResult]], prefix: str, draw: Callable[[Sequence[HeadResult], str], str], what: str
) -> list[Figure]:
    return [
        Figure(name, f"{what} of {name}", draw(runs, f"{prefix}{number}"), small=True)
        for number, (name, runs) in enumerate(rows.items())
    ]


def _origin(results: Sequence[HeadResult]) -> Section:
    first, data = results[0], results[0].data
    facts = [("protocol", first.test.protocol)]
    if data is not None:
        facts += [
            ("training set", f"{data.people:,} people, {data.images:,} images ({data.protocol})"),
            ("its fingerprint", f"sha256 {data.sha256}"),
        ]
    facts += [("seeds", ", ".join(map(str, dict.fromkeys(run.seed for run in results))))]
    facts += [("hardware", "; ".join(dict.fromkeys(f"{run.hardware}, {run.precision}" for run in results)))]
    dates = sorted(run.finished_at for run in results if run.finished_at)
    if dates:
        facts.append(("runs finished", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"))
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in run.versions.items()) for run in results)
    facts += [("versions", "; ".join(filter(None, versions)))] if any(versions) else []
    facts += [("command", command) for command in dict.fromkeys(run.command for run in results if run.command)]
    listing = json.dumps(first.recipe, indent=1, ensure_ascii=False)
    return Section(
        "origin",
        "How this was made",
        facts=facts,
        code=("The recipe of every run", listing) if first.recipe else None,
    )
