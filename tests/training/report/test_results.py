"""Records of runs: whole or not there, read back as they were, foreign ones named."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facemargin.errors import DataError
from training.data.pairs import Pairs, Photo
from training.report.csv_text import as_csv
from training.report.results import FailedRun, HeadResult, PairPeople, brief, load, read_curve, rounded, save
from training.report.tables import CSV_COLUMNS, RUN_COLUMNS, csv_cells, p_value, run_cells
from training.report.write import results_markdown

MakeResult = Callable[..., HeadResult]
FAILED = FailedRun(head="softmax", partition="dense", seed=3, step=9, failure="diverged at step 9", advice="lower it")


def test_a_record_is_read_back_as_it_was(make_result: MakeResult, tmp_path: Path) -> None:
    for record in (make_result("softmax"), FAILED):
        save(record, tmp_path / "record.json")
        assert load(type(record), tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_what_is_torn_is_not_there_and_what_is_foreign_is_named(make_result: MakeResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert load(HeadResult, path) is None
    whole = make_result("softmax").model_dump_json()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:size], encoding="utf-8")
        assert load(HeadResult, path) is None
    path.write_text(whole.replace('"seed"', '"sead"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"result\.json is of another version of facemargin: .*sead"):
        load(HeadResult, path)


def test_the_loss_trace_is_averaged_over_parts(tmp_path: Path) -> None:
    trace = tmp_path / "loss.csv"
    assert read_curve(trace) is None
    trace.write_text("step,loss\n", encoding="utf-8")
    assert read_curve(trace) is None
    losses = np.random.default_rng(0).uniform(1, 9, 1000)
    trace.write_text(
        "step,loss\n" + "".join(f"{k},{loss!r}\n" for k, loss in enumerate(losses.tolist(), start=1)) + "10"
    )
    curve = read_curve(trace)
    assert curve is not None
    assert curve.step == tuple(range(5, 1001, 5))
    assert curve.loss == pytest.approx(losses.reshape(200, 5).mean(axis=1), rel=1e-5)


def test_people_are_numbers_and_no_names() -> None:
    first = (Photo("Ann", 1), Photo("Cid", 1))
    pairs = Pairs(first, (Photo("Ann", 2), Photo("Bob", 1)), np.array([True, False]), np.array([1, 1]))
    assert PairPeople.of(pairs) == PairPeople(first=(0, 2), second=(0, 1))


def test_tables_have_a_cell_a_column(make_result: MakeResult) -> None:
    result = make_result("softmax")
    for run in (result, FAILED, make_result("softmax", cost=None, validation={})):
        assert len(run_cells(run)) == len(RUN_COLUMNS)
        assert len(csv_cells(run)) == len(CSV_COLUMNS)
    text = as_csv([CSV_COLUMNS, csv_cells(result), csv_cells(FAILED)])
    measured, failed = csv.DictReader(io.StringIO(text))
    assert float(measured["eer_high"]) == result.test.eer.high
    assert (measured["step_ms_median"], measured["peak_memory_bytes"], measured["failure"]) == (
        "11.25",
        "345600000",
        "",
    )
    assert (failed["seed"], failed["accuracy"], failed["failure"]) == ("3", "", "diverged at step 9")
    assert results_markdown([result, FAILED]).count("|") == 4 * (len(RUN_COLUMNS) + 1)


def test_the_brief_form_has_no_number_a_pair(make_result: MakeResult) -> None:
    record = brief(make_result("softmax"))
    assert len(json.dumps(record)) < 4000
    assert record["test"]["accuracy"]["value"] > 0.5
    assert brief(FAILED)["failure"] == "diverged at step 9"


def test_numbers_are_rounded_to_what_a_float32_holds() -> None:
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert np.asarray(rounded(values)) == pytest.approx(values.astype(float), rel=1e-6)
    assert rounded([0.1 + 0.2]) == (0.3,)
    assert p_value(0.9999) == "1.000"
