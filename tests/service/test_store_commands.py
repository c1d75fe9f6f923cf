"""The commands around a store, as they are typed: what they print, and how they end."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL

from facemargin.cli import main
from service.store import Location

from .raw_store import as_option, execute

pytestmark = pytest.mark.both_databases

PEOPLE = "/v1/collections/staff/people"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    monkeypatch.delenv("FACEMARGIN_MASTER_KEY", raising=False)

    def command(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["facemargin", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return command


def test_the_log_is_verified_shown_and_exported_while_the_service_runs(
    api: Any, run: Any, tmp_path: Path, location: Location
) -> None:
    store = as_option(location)
    assert run("audit", "verify", "--store", store)[:2] == (0, "0 records, head none\n")
    people = [api.person(name) for name in ("Ada", "Bob")]
    receipts = [api.delete(f"{PEOPLE}/{person}").headers["facemargin-receipt"] for person in people]
    done = run("audit", "verify", "--store", store, "--receipt", receipts[0], "--receipt", receipts[1])
    assert done == (0, f"2 records, head {receipts[1]}\n", "")
    verdict = json.loads(run("audit", "verify", "--store", store, "--json").stdout)
    assert verdict == {"records": 2, "head": receipts[1], "faults": []}
    forged = run("audit", "verify", "--store", store, "--receipt", "7-" + 64 * "0")
    assert forged.returncode == 1
    assert "fault: receipt 7" in forged.stdout
    shown = json.loads(run("audit", "show", "--store", store, "--person", people[0], "--json").stdout)["records"]
    assert [record["seq"] for record in shown] == [1]
    assert len(run("audit", "show", "--store", store).stdout.splitlines()) == 2
    ledger = tmp_path / "ledger"
    assert run("audit", "export", "--store", store, "--output", ledger).returncode == 0
    assert [json.loads(line)["seq"] for line in ledger.read_text().splitlines()] == [1, 2]
    again = run("audit", "export", "--store", store, "--output", ledger)
    assert (again.returncode, again.stderr.count("is there already")) == (2, 1)


def test_backup_and_restore_tell_what_they_did(
    api: Any, run: Any, tmp_path: Path, location: Location, make_location: Any
) -> None:
    store, backup = as_option(location), tmp_path / "backup"
    new, newer = as_option(make_location("new")), as_option(make_location("newer"))
    served_by = "services are on it" if isinstance(location, URL) else "served by another process"
    person = api.person("Ada")
    done = run("backup", "--store", store, "--output", backup)
    assert (done.returncode, "1 people, 0 faces" in done.stdout) == (0, True)
    assert "in the clear" in done.stderr
    api.delete(f"{PEOPLE}/{person}")
    refused = run("restore", backup, "--store", new)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--without-ledger" in refused.stderr
    served = run("restore", backup, "--store", store, "--replace")
    assert (served.returncode, served_by in served.stderr) == (2, True)
    source = run("restore", backup, "--store", new, "--erasures", store)
    assert (source.returncode, served_by in source.stderr) == (2, True)
    api.close()
    api.service.close()
    done = run("restore", backup, "--store", new, "--erasures", store, "--json")
    assert json.loads(done.stdout)["erased"] == 1
    done = run("restore", backup, "--store", newer, "--without-ledger")
    assert (done.returncode, "erase them again" in done.stderr) == (0, True)
    if isinstance(location, URL):
        execute(location, "ALTER TABLE audit RENAME COLUMN digest TO ruined")
    else:
        (location / "facemargin.sqlite3").write_bytes(b"ruined" * 1000)
    done = run("restore", backup, "--store", store, "--without-ledger", "--replace")
    assert (done.returncode, "What the replaced store knew" in done.stderr) == (0, True)


def test_encryption_from_the_first_key_to_the_second(api: Any, run: Any, tmp_path: Path, location: Location) -> None:
    store, one, two = as_option(location), tmp_path / "one", tmp_path / "two"
    api.person("Ada")
    api.close()
    api.service.close()
    assert run("encryption", "new-key", one).returncode == run("encryption", "new-key", two).returncode == 0
    assert run("encryption", "status", "--store", store).stdout == "not encrypted; 1 people\n"
    assert run("encryption", "enable", "--store", store, "--key-file", one).returncode == 0
    rotated = run("encryption", "rotate", "--store", store, "--old-key-file", one, "--new-key-file", two)
    assert (rotated.returncode, "1 people" in rotated.stdout) == (0, True)
    assert json.loads(run("encryption", "status", "--store", store, "--json").stdout)["encrypted"] is True
    wrong = run("encryption", "disable", "--store", store, "--key-file", one)
    assert (wrong.returncode, "another master key" in wrong.stderr) == (2, True)
    nobody = run("audit", "show", "--store", store, "--person", "p_1")
    assert (nobody.returncode, "is encrypted" in nobody.stderr) == (2, True)
    told = run("audit", "show", "--store", store, "--person", "p_1", "--master-key-file", two)
    assert (told.returncode, told.stderr) == (0, "no records\n")


@pytest.mark.parametrize("command", [("audit", "verify"), ("audit", "show"), ("encryption", "status")])
def test_what_the_database_refuses_is_one_line_and_no_verdict(
    api: Any, run: Any, location: Location, command: tuple[str, str]
) -> None:
    api.service.close()
    execute(location, "ALTER TABLE meta RENAME TO m", "ALTER TABLE audit RENAME TO a")
    done = run(*command, "--store", as_option(location))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "fails: " in done.stderr
