from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from training.bulk import progress as progress_module
from training.bulk.progress import BulkProgress
from training.bulk.run import Run


def shown(*, terminal: bool, pictures: int = 2000) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=80, color_system=None)
    with BulkProgress(console, pictures) as bar:
        bar.started -= 600.0
        bar.show(Run(pictures=pictures // 2, faces=990, failed=Counter(no_face=10), before=pictures // 4))
    return output.getvalue()


def test_a_terminal_shows_a_bar_with_rate_and_time_left() -> None:
    text = shown(terminal=True)
    assert "1500/2000" in text
    assert " 2/s, 10 failed 0:00:00 left " in text


def test_a_million_pictures_fit_into_eighty_columns() -> None:
    text = shown(terminal=True, pictures=1_000_000)
    assert "750000/1000000 " in text
    assert " 833/s, 10 failed 0:00:00 left " in text
    assert "\u2026" not in text


def test_elsewhere_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(terminal=False) == ""
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", -1.0)
    text = shown(terminal=False)
    assert text.startswith("1,500 of 2,000 pictures, ")
    assert text.endswith(" minutes left, 10 without an embedding\n")
    assert text.count("\n") == 1, "one line, however narrow"
