"""The benchmark of engines by size: what is asked for, what is expected, and a tiny run of all of it."""

import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from typer.testing import CliRunner

from facemargin.bench.cell_runs import Forecast
from facemargin.bench.postgres_server import SETTINGS
from facemargin.bench.scale import ENGINES, app, forecast, parse_engines, place
from facemargin.bench.scale_subjects import SUBJECTS, kind_of
from facemargin.errors import ConfigError
from facemargin.index.engines import ENGINES as KNOWN
from facemargin.index.engines import open_engine

PAGE = "# Page\n<!-- measured engines -->\n<!-- end engines -->\n"


def test_the_default_engines_are_all_there_are() -> None:
    chosen = parse_engines(ENGINES)
    assert {kind_of(engine) for engine in chosen} == set(SUBJECTS)
    assert {kind_of(f"{scheme}:") for scheme in KNOWN} == set(SUBJECTS)
    for engine in chosen:
        if engine.startswith("faiss"):
            open_engine(engine)


@pytest.mark.parametrize("text", ["", "faiss", "pgvector", "redis:", "faiss:flat,,milvus:"])
def test_engines_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--engines has"):
        parse_engines(text)


def test_a_cell_is_expected_to_take_what_the_largest_smaller_one_took_and_more() -> None:
    def cell(growing_s: float) -> dict[str, object]:
        return {"figures": {"growing_s": growing_s, "fixed_s": 2.0, "peak_bytes": 10}}

    found = {"cells": {"a:/100/8": cell(1.0), "a:/1000/8": cell(10.0), "b:/500/8": cell(99.0), "a:/9000/8": cell(9e9)}}
    assert forecast(found, "a:", 100, 8) == Forecast()
    seconds, memory = forecast(found, "a:", 4000, 8)
    assert 42 < seconds < 60
    assert memory == 40
    assert forecast(found, "a:", 400, 16).memory_bytes == 80  # of another dimension, by the size of all vectors
    found["cells"]["a:/100/16"] = cell(1.0)
    assert forecast(found, "a:", 400, 16).memory_bytes == 40  # of this one


def test_the_folder_of_a_cell_is_gone_afterwards(tmp_path: Path) -> None:
    with place("milvus:", tmp_path, None) as given:
        (Path(given["folder"]) / "file").write_text("x")
        assert Path(given["folder"]).parent == tmp_path
        assert "postgres" not in given
    with place("pgvector:", tmp_path, "postgresql://host/db") as given:
        assert given["postgres"] == "postgresql://host/db"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_is_started_with_the_settings_that_are_named(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with place("pgvector:", tmp_path, None) as given:
        database = create_engine(make_url(given["postgres"]).set(drivername="postgresql+psycopg"))
        with database.connect() as connection:
            for name, value in SETTINGS.items():
                assert connection.scalar(text(f"SHOW {name}")) == value
        database.dispose()
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_run_fills_the_page_and_another_goes_on_with_it(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "benchmarks" / "scale.json"
    page.write_text(PAGE)
    options = ["--queries", "5", "--writes", "3", "--repeats", "1", "--seconds", "2", "--json", str(figures)]
    options += ["--engines", "faiss:segmented", "--page", str(page), "--folder", str(tmp_path)]
    result = CliRunner().invoke(app, [*options, "--sizes", "200@16"])
    assert result.exit_code == 0, result.output
    first = json.loads(figures.read_text())["cells"]
    assert first["faiss:segmented/200/16"]["figures"]["recall"] == 1.0
    result = CliRunner().invoke(app, [*options, "--sizes", "200@16,400@16", "--budget-minutes", "0"])
    assert result.exit_code == 0, result.output
    cells = json.loads(figures.read_text())["cells"]
    assert cells["faiss:segmented/200/16"] == first["faiss:segmented/200/16"]
    assert "allowed" in cells["faiss:segmented/400/16"]["reason"]
    text = page.read_text()
    assert "| segmented | 16 | 200 |" in text
    assert "- segmented, 400 × 16: some" in text
    assert "(benchmarks/scale.png)" in text
    assert (tmp_path / "benchmarks" / "scale.png").stat().st_size > 10_000


def test_what_cannot_be_asked_for_ends_with_one_line(tmp_path: Path) -> None:
    for wrong in (["--engines", "redis:"], ["--sizes", "x"], ["--page", str(tmp_path / "none.md"), "--sizes", "5@4"]):
        options = ["--budget-minutes", "0", "--json", str(tmp_path / "s.json")]
        result = CliRunner().invoke(app, [*options, "--engines", "faiss:exact", *wrong])
        assert result.exit_code == 2, wrong
        assert "error: " in result.output
        assert "Traceback" not in result.output
