import subprocess
import sys

import pytest

LIGHT = [
    "facemargin.preprocessing",
    "facemargin.models",
    "facemargin.bundle",
    "facemargin.onnx_model",
    "facemargin.embedder",
    "facemargin.importing",
    "facemargin.matching",
    "facemargin.commands",
]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Heavy packages in memory after each of the modules is imported, one after the other in one fresh process."""
    program = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'onnx', 'fastapi', 'matplotlib', 'training', 'service'} & set(sys.modules)\n"
        "    print(name, *sorted(heavy))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {line.split()[0]: set(line.split()[1:]) for line in result.stdout.splitlines()}


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_loads_nothing_heavy(loaded: dict[str, set[str]], module: str) -> None:
    assert loaded[module] == set()
