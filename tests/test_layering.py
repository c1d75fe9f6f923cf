"""Imports point one way: training -> facemargin <- service, read from the import statements themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH = ("torch", "torchvision", "safetensors", "facemargin.heads", "facemargin.partitions", "facemargin.backbones")
IMAGES = ("PIL", "cv2", "facemargin.preprocessing", "facemargin.embedder", "facemargin.bundle")
NO_TORCH = (
    "preprocessing",
    "metrics",
    "index",
    "bundle",
    "embedder",
    "models",
    "matching",
    "importing",
    "onnx_model",
    "client",
)
NO_IMAGES = ("heads", "partitions", "backbones")


def sources(*folders: str) -> list[Path]:
    found = []
    for folder in folders:
        path = ROOT / folder
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert found
    return found


def imports(path: Path) -> Iterator[str]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def offenders(paths: list[Path], forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == banned or name.startswith(f"{banned}.") for banned in forbidden)
    ]


def test_training_and_service_never_import_each_other() -> None:
    assert offenders(sources("training"), ("service",)) == []
    assert offenders(sources("service"), ("training",)) == []


def test_the_library_knows_neither_training_nor_service() -> None:
    assert offenders(sources("facemargin"), ("training", "service")) == []


def test_the_serving_half_of_the_library_knows_no_torch() -> None:
    paths = sources(*(f"facemargin/{name}" for name in NO_TORCH), "service")
    assert offenders(paths, TORCH) == []


def test_heads_partitions_and_backbones_know_no_images() -> None:
    assert offenders(sources(*(f"facemargin/{name}" for name in NO_IMAGES)), IMAGES) == []


@pytest.mark.parametrize(
    "module", ["service.app", "facemargin.embedder", "facemargin.cli", "training.cli", "training.bulk.job"]
)
def test_torch_is_not_loaded_by(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_the_test_would_notice_an_import() -> None:
    path = ROOT / "service" / "app.py"
    assert offenders([path], ("fastapi",)) != []
