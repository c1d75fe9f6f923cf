"""The command `facemargin keys`: limits, rotation, and what is printed."""

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facemargin.cli import main
from service.store import Location

from .raw_store import as_option

pytestmark = pytest.mark.both_databases


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Keys = Callable[..., Done]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], location: Location) -> Keys:
    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["facemargin", "keys", *arguments, "--store", as_option(location)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return command


LIMITED = ("--scope", "read", "--collection", "staff", "--collection", "guests", "--collection", "staff")


def listed(keys: Keys) -> list[dict[str, Any]]:
    return list(json.loads(keys("list", "--json").stdout)["keys"])


def after(text: str) -> timedelta:
    return datetime.fromisoformat(text) - datetime.now(UTC)


def test_limits_are_stored_and_shown(keys: Keys) -> None:
    made = keys("add", *LIMITED, "--expires-in", "90d", "--requests-per-minute", "600", "--label", "door")
    assert made.returncode == 0
    assert re.fullmatch(r"fm_[0-9a-f]{8}_[\w-]{43}\n", made.stdout)
    assert "cannot be shown again" in made.stderr
    (row,) = listed(keys)
    assert (row["collections"], row["requests_per_minute"], row["label"]) == (["guests", "staff"], 600, "door")
    assert timedelta(days=89.9) < after(row["expires_at"]) <= timedelta(days=90)
    line = keys("list").stdout
    assert "only guests,staff  600 a minute" in line
    assert f"valid until {row['expires_at']}" in line
    assert made.stdout.strip().split("_", 2)[2] not in line


def test_a_key_without_limits_has_none(keys: Keys) -> None:
    made = json.loads(keys("add", "--scope", "admin", "--json").stdout)
    assert made["key"].split("_")[1] == made["id"]
    assert (made["collections"], made["expires_at"], made["requests_per_minute"]) == (None, None, None)
    assert "  valid\n" in keys("list").stdout


def test_rotation_prints_a_new_key_and_ends_the_old_one(keys: Keys) -> None:
    old = json.loads(keys("add", *LIMITED, "--json").stdout)
    done = keys("rotate", old["id"], "--grace", "2h")
    assert done.returncode == 0
    assert re.fullmatch(r"fm_[0-9a-f]{8}_[\w-]{43}\n", done.stdout)
    assert f"Key {old['id']} ends " in done.stderr
    rows = {row["id"]: row for row in listed(keys)}
    new = rows[done.stdout.split("_")[1]]
    assert new["collections"] == rows[old["id"]]["collections"] == ["guests", "staff"]
    assert new["expires_at"] is None
    assert timedelta(hours=1.9) < after(rows[old["id"]]["expires_at"]) <= timedelta(hours=2)
    at_once = json.loads(keys("rotate", new["id"], "--grace", "0s", "--json").stdout)
    assert at_once["replaces"]["id"] == new["id"]
    assert "expired" in next(line for line in keys("list").stdout.splitlines() if line.startswith(new["id"]))
    again = keys("rotate", new["id"])
    assert (again.returncode, again.stdout) == (2, "")
    assert "not valid any more" in again.stderr


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("'90' is no duration", ("--expires-in", "90")),
        ("'0d' is no duration", ("--expires-in", "0d")),
        ("'-1d' is no duration", ("--expires-in", "-1d")),
        ("'../x' cannot be a collection", ("--collection", "../x")),
        ("'root'", ("--scope", "root")),
        ("requests-per-minute", ("--requests-per-minute", "0")),
    ],
)
def test_what_is_wrong_makes_no_key(keys: Keys, tmp_path: Path, words: str, arguments: tuple[str, ...]) -> None:
    done = keys("add", "--scope", "read", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_key_that_is_not_there_cannot_be_rotated(keys: Keys) -> None:
    keys("add", "--scope", "read")
    done = keys("rotate", "00000000")
    assert done.returncode == 2
    assert "no key '00000000'" in done.stderr
