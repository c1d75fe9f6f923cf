"""The image's entry point takes passwords from files, and says so where it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = """#!{python}
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


@pytest.fixture
def run(deploy: Path, tmp_path: Path) -> "Run":
    return Run(deploy / "entrypoint.sh", tmp_path)


class Run:
    """Calls the entry point with a `facemargin` that shows how it was called."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script = script
        fake = folder / "facemargin"
        fake.write_text(FAKE.format(python=sys.executable))
        fake.chmod(0o755)
        self._path = f"{folder}:{os.environ['PATH']}"

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", str(self._script), *arguments]
        return subprocess.run(
            command, env={"PATH": self._path} | variables, capture_output=True, text=True, check=False
        )


@pytest.mark.parametrize("name", ["PGPASSWORD", "FACEMARGIN_MILVUS_TOKEN"])
@pytest.mark.parametrize("secret", ["simple", "a b\"c$(id)`id`\\n'", "ends with a line\n"])
def test_a_password_comes_from_its_file(run: Run, tmp_path: Path, name: str, secret: str) -> None:
    (tmp_path / "secret").write_text(secret)
    done = run("keys", "list", "--label", "two words", **{f"{name}_FILE": str(tmp_path / "secret")})
    arguments, environment = json.loads(done.stdout)
    assert arguments == ["keys", "list", "--label", "two words"]
    assert environment[name] == secret.rstrip("\n")
    assert f"{name}_FILE" not in environment


def test_without_files_nothing_is_changed(run: Run) -> None:
    arguments, environment = json.loads(run("serve", PGPASSWORD="given").stdout)
    assert arguments == ["serve"]
    assert environment["PGPASSWORD"] == "given"
    assert "FACEMARGIN_MILVUS_TOKEN" not in environment


@pytest.mark.parametrize(("content", "complaint"), [(None, "no file that user"), ("", "empty"), ("\n", "empty")])
def test_a_missing_or_empty_secret_is_one_line_and_exit_code_2(
    run: Run, tmp_path: Path, content: str | None, complaint: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    done = run("serve", PGPASSWORD_FILE=str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert f"PGPASSWORD_FILE names {file}" in done.stderr
    assert done.stderr.count("\n") == 1
