"""The client can be imported beside httpx and pydantic alone, and is typed."""

import ast
import subprocess
import sys
from pathlib import Path

import facemargin.client

ROOT = Path(facemargin.client.__file__).parent
HEAVY = ("numpy", "scipy", "cv2", "PIL", "onnxruntime", "onnx", "torch", "faiss", "fastapi", "sqlalchemy", "typer")
OURS = ("facemargin.client", "facemargin.errors")
OF_THE_COMMAND = {"rich.console", "rich.progress", "typer", "facemargin.commands"}

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
import facemargin.client as client
with client.Client("http://127.0.0.1:9", retries=None) as made:
    try:
        made.embed(b"picture")
    except client.ServiceUnreachable:
        print("unreachable")
print(*sorted(name for name in sys.modules if name.split(".")[0] in ("facemargin", "training", "service")))
"""


def test_it_is_imported_and_used_without_anything_heavy() -> None:
    program = WITHOUT.format(blocked={*HEAVY, "training", "service", "rich"})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, loaded = done.stdout.splitlines()
    assert first == "unreachable"
    assert all(name == "facemargin" or name.startswith(OURS) for name in loaded.split())
    assert "facemargin.client.enrolment" not in loaded.split()


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "httpx").mkdir()
    (tmp_path / "httpx" / "__init__.py").write_text("raise ModuleNotFoundError(name='httpx')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from facemargin.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "enrol", "x", "--collection", "y"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'facemargin[client]'" in done.stderr


def test_it_imports_httpx_pydantic_and_the_standard_library_only() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                allowed = name.split(".")[0] in (*sys.stdlib_module_names, "httpx", "pydantic") or name.startswith(OURS)
                assert allowed or (path.name == "command.py" and name in OF_THE_COMMAND), f"{path.name} imports {name}"


def test_it_is_typed() -> None:
    assert (ROOT.parent / "py.typed").exists()
