"""The files of a comparison, each whole or not there: every run as JSON and CSV, the statistics as JSON, the page."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from training.plots import Scores, plot_roc
from training.report.csv_text import as_csv
from training.report.faces import faces_page
from training.report.page import render
from training.report.results import FailedRun, Run, finished
from training.report.rows import Summary, named_rows, summarise
from training.report.tables import CSV_COLUMNS, RUN_COLUMNS, csv_cells, interval_text, less_the_best, percent, run_cells
from training.whole_file import write_whole


def write_runs(runs: Sequence[Run], output: Path) -> None:
    """``results.json``, ``results.csv`` and ``results.md``: a row a run, failed ones too."""
    records = [json.loads(run.model_dump_json()) for run in runs]
    write_whole(output / "results.json", json.dumps(records, indent=1))
    write_whole(output / "results.csv", as_csv([CSV_COLUMNS, *(csv_cells(run) for run in runs)]))
    write_whole(output / "results.md", results_markdown(runs))


def write_report(runs: Sequence[Run], output: Path) -> Path | None:
    """``report.html``, ``summary.json``, ``seeds.md`` and ``roc.png``; None and nothing where no run has a result.

    Raises:
        DataError: results that cannot be compared.
    """
    results = finished(runs)
    if not results:
        return None
    summary = summarise(results)
    failed = [run for run in runs if isinstance(run, FailedRun)]
    write_whole(output / "summary.json", json.dumps(summary_record(summary), indent=1))
    write_whole(output / "seeds.md", rows_markdown(summary))
    curves = {name: Scores(row[0].test.genuine, row[0].test.impostor) for name, row in named_rows(results).items()}
    plot_roc(curves, output / "roc.png", title=results[0].test.protocol)
    page = output / "report.html"
    write_whole(page, render(faces_page(summary, results, failed)))
    return page


def summary_record(summary: Summary) -> dict[str, Any]:
    """The statistics as JSON values; of the runs only their seeds."""
    record = asdict(summary)
    for kept, row in zip(record["rows"], summary.rows, strict=True):
        kept["seeds"] = [run.seed for run in row.runs]
        del kept["runs"], kept["against_best"]
    for kept, found in zip(record["differences"], summary.differences, strict=True):
        kept["verdict"] = found.verdict
    return record


def results_table(runs: Sequence[Run]) -> Table:
    """The runs for a terminal; without what would not fit into 80 columns."""
    title = "heads under one recipe; 95 % bootstrap intervals over people in brackets"
    table = Table(title=title, title_justify="left")
    left_out = {"epochs", "minutes"} | ({"partition"} if len({run.partition for run in runs}) == 1 else set())
    shown = [place for place, column in enumerate(RUN_COLUMNS) if column not in left_out]
    for place in shown:
        names = place < 2
        table.add_column(RUN_COLUMNS[place], justify="left" if names else "right", no_wrap=names)
    for run in runs:
        cells = run_cells(run)
        table.add_row(*(cells[place] for place in shown))
    return table


def results_markdown(runs: Sequence[Run]) -> str:
    """The runs as a Markdown table."""
    return _markdown(RUN_COLUMNS, [run_cells(run) for run in runs], words=2)


def rows_markdown(summary: Summary) -> str:
    """The rows over their seeds as a Markdown table."""
    columns = ("row", "seeds", "accuracy %", "std over seeds", "TAR@FAR=1e-2 %", "EER %", "less the best")
    lines = []
    for row in summary.rows:
        spread = "" if row.accuracy_std is None else percent(row.accuracy_std)
        figures = [f"{percent(found.value)} ({interval_text(found)})" for found in (row.accuracy, row.tar[1], row.eer)]
        lines.append([row.name, str(len(row.runs)), figures[0], spread, *figures[1:], less_the_best(row)])
    return _markdown(columns, lines, words=1)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    rules = ["---"] * words + ["---:"] * (len(columns) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rules, *rows)) + "\n"
