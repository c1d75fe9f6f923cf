"""Train, export, calibrate and measure the demo's model: the same calls that the commands make."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from facemargin.backbones import make_backbone
from facemargin.bundle import Bundle, update_manifest
from facemargin.embedder import Embedder
from facemargin.errors import CalibrationError, FacemarginError
from facemargin.metrics import all_pairs, auc, eer
from facemargin.preprocessing import read_image
from training.all_pairs import embed_people, evaluate_all_pairs
from training.calibration import calibrate_bundle
from training.config import TrainConfig, load_config
from training.demo.people import People, Sizes
from training.export import export_bundle
from training.publish import without_class_counts
from training.trainer import TrainResult, data_record, restore_model, train, training_images
from training.validation import network_embedder

FARS = (1e-1, 1e-2, 1e-3)
BATCH_SIZE = 64

RECIPE = """\
# The recipe of `facemargin demo`; `facemargin train --config {path}` repeats the training into {output}.
output = {output}
seed = {seed}
epochs = {epochs}
batch_size = {batch_size}
head = "am-softmax"

[heads.am-softmax]
scale = 24.0
margin = 0.25

[data]
folders = [{train}]

[preprocessing]
size = [64, 64]

[backbone]
name = "iresnet18"
width = 0.25
embedding_dim = 128

[optimizer]
learning_rate = 0.1

[validation]
images = {validation}
every_epochs = {every_epochs}
"""


@dataclass(frozen=True)
class Measured:
    """Verification figures of one model on all pairs of the test people.

    Attributes:
        figures: by name, JSON-able.
        vectors: float32 (N, D), one row a picture.
        people: N names.
    """

    figures: dict[str, Any]
    vectors: NDArray[np.float32]
    people: list[str]


def write_recipe(path: Path, people: People, sizes: Sizes, seed: int) -> TrainConfig:
    """Write the run's config as TOML and read it back, as ``facemargin train`` would."""
    images = people.count["train"][1]
    epochs = max(1, round(sizes.presentations / images))
    folder = path.parent
    path.write_text(
        RECIPE.format(
            path=path,
            output=_quoted(folder / "run"),
            seed=seed,
            epochs=epochs,
            batch_size=min(BATCH_SIZE, images // 2),
            train=_quoted(people.crops / "train"),
            validation=_quoted(people.crops / "validation"),
            every_epochs=max(1, epochs // 3),
        ),
        encoding="utf-8",
    )
    return load_config(path)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def train_model(config: TrainConfig, console: Console) -> TrainResult:
    """Train.

    Raises:
        FacemarginError: it was interrupted.
    """
    result = train(config, console=console)
    if not result.finished:
        raise FacemarginError(f"training was interrupted at step {result.step}; start the demo again")
    return result


def export_model(config: TrainConfig, result: TrainResult, people: People, output: Path) -> Bundle:
    """Export the run's last checkpoint; the parity check uses crops of validation people."""
    model, _, checkpoint = restore_model(result.checkpoint)
    crops = np.stack([read_image(images[0]) for images in list(people.images("validation").values())[:32]])
    whose = "synthetic, drawn faces: it knows nothing of real ones" if people.synthetic else people.source
    return export_bundle(
        model,
        output,
        crops=crops,
        preprocessing=config.preprocessing,
        name=f"demo {config.backbone.name} {config.head}",
        backbone=model.options(),
        head=without_class_counts(checkpoint.state["head_options"]),
        data=data_record(training_images(config)),
        card=f"Made by `facemargin demo` in a minute or two; trained on {whose}. For trying things out only.",
        licence="Apache-2.0" if people.synthetic else "",
    )


def calibrate_model(bundle: Bundle, people: People, console: Console) -> Bundle:
    """Calibrate on the validation people.

    Raises:
        CalibrationError: the photographs make too few pairs.
    """
    try:
        return calibrate_bundle(
            bundle, people.crops / "validation", aligned=True, source=f"{people.source}, validation", console=console
        )
    except CalibrationError as error:
        raise CalibrationError(f"{error}; give the demo more people with two or more photographs") from error


def measure_model(bundle: Bundle, people: People, console: Console) -> tuple[Bundle, Measured]:
    """Measure the exported model on all pairs of the test people, and write the figures into its manifest."""
    root = people.crops / "test"
    vectors, names = embed_people(Embedder(bundle).embed, root, aligned=True, console=console)
    protocol = f"{people.source}, test people, all pairs"
    report = evaluate_all_pairs(vectors, names, fars=FARS, protocol=protocol)
    figures = _figures(bundle, vectors, names) | {
        "people": report.people,
        "images": report.images,
        "genuine_pairs": report.genuine_pairs,
        "impostor_pairs": report.impostor_pairs,
        "tar": [row.model_dump(mode="json") for row in report.rows],
    }
    manifest = bundle.manifest.model_copy(update={"metrics": report.records()})
    return update_manifest(bundle, manifest), Measured(figures, vectors, names)


def _figures(bundle: Bundle, vectors: NDArray[np.float32], names: list[str]) -> dict[str, Any]:
    scores = all_pairs(vectors, names)
    figures = {"eer": eer(scores.genuine, scores.impostor), "auc": auc(scores.genuine, scores.impostor)}
    calibration = bundle.manifest.calibration
    if calibration is not None and calibration.slope > 0:
        even = (
            -calibration.intercept / calibration.slope
        )  # P(same) = 1/2 at equal priors, found on the validation people
        right = (np.mean(scores.genuine >= even), np.mean(scores.impostor < even))
        figures |= {"balanced_accuracy": float(np.mean(right)), "threshold": even}
    return figures


def untrained_eer(config: TrainConfig, people: People) -> float:
    """Equal error rate of the same network before training, on the test people: what pixels alone give."""
    torch.manual_seed(config.seed)
    model = make_backbone(**config.backbone.model_dump(), input_size=config.preprocessing.size)
    images = people.images("test")
    crops = np.stack([read_image(path) for paths in images.values() for path in paths])
    names = [name for name, paths in images.items() for _ in paths]
    vectors = network_embedder(model, config.preprocessing, device=torch.device("cpu"))(crops)
    scores = all_pairs(vectors, names)
    return eer(scores.genuine, scores.impostor)
