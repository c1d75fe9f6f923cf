"""Heads and seeds under one MNIST recipe: run after run, each skipped when it is done already."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from facemargin.errors import CheckpointError, DataError
from training.hardware import choose_device, describe_hardware
from training.mnist.digits import Digits, Mnist, read_mnist
from training.mnist.loop import Measured, Trained, batch_plan, measure_digits, train_digits
from training.mnist.page import mnist_page
from training.mnist.picture import Plane, plot_planes
from training.mnist.recipe import HeadChoice, Recipe, find_recipe, parse_head
from training.mnist.report import MnistResult, title, write_results
from training.progress import TrainingProgress
from training.report.page import render
from training.whole_file import write_whole

_FILES = ("result.json", "plane.npz")


def run_recipe(
    name: str,
    heads: Sequence[str] | None,
    seeds: Sequence[int],
    data: Path,
    output: Path,
    *,
    full: bool | None = None,
    steps: int | None = None,
    held_out: bool = False,
    command: str = "",
    console: Console | None = None,
) -> list[MnistResult]:
    """Run every head with every seed and write ``results.json``, ``results.csv``, ``results.md`` and ``report.html``.

    Args:
        name: ``mnist`` or ``mnist-2d``; the latter also draws ``features.png``, a panel a head, of the first seed.
        heads: names of heads, ``l-softmax:2`` for a margin; None takes the recipe's.
        seeds: seeds of the runs.
        data: folder with MNIST's four files.
        output: folder for the results, with one folder a run inside.
        full: the published form, or the short one for a CPU; by default the full one where there is a CUDA device.
        steps: another length of the runs; the schedules keep their shape.
        held_out: measure on the last 5,000 training images, not learned from, instead of the test images. Whoever
            chooses anything does it so.
        command: as it was called, for the report.
        console: for progress; stderr by default.

    Returns:
        The results so far, in the order of heads and seeds. Ctrl-C ends the comparison; the next call goes on with the
        first run that is not done.

    Raises:
        ConfigError: an unknown recipe or head, or a head that cannot learn its margin in so few steps.
        DataError: MNIST cannot be read.
        CheckpointError: the output folder holds runs with other settings.
        NonFiniteLossError: a run diverged; those done before are kept.
    """
    console = console or Console(stderr=True)
    device = choose_device("auto")
    recipe = find_recipe(name, full=device.type == "cuda" if full is None else full, steps=steps)
    choices = [parse_head(head) for head in dict.fromkeys(heads or recipe.heads)]
    for choice in choices:
        recipe.build_head(choice)  # refuses what cannot work before the first run
    mnist = read_mnist(data, held_out=held_out)
    results: list[MnistResult] = []
    for choice in choices:
        for seed in dict.fromkeys(seeds):
            folder = output / f"{choice.key.replace(':', '-m')}-seed{seed}"
            try:
                result = _one(recipe, choice, seed, mnist, folder, device, held_out, console)
            except KeyboardInterrupt:
                console.print("interrupted; the same command goes on with the run that is not done", highlight=False)
                return _reported(results, mnist.test, output, command)
            results.append(result)
            write_results(results, output)
            if recipe.embedding_dim == 2 and seed == seeds[0]:
                plot_planes(_planes(results, mnist.test, output), output / "features.png", title=title(results))
    return _reported(results, mnist.test, output, command)


def _one(
    recipe: Recipe,
    choice: HeadChoice,
    seed: int,
    mnist: Mnist,
    folder: Path,
    device: torch.device,
    held_out: bool,
    console: Console,
) -> MnistResult:
    measured_on = "held-out" if held_out else "test"
    settings = {**recipe.settings(choice), "training_images": len(mnist.train), "measured_on": measured_on}
    if (folder / _FILES[0]).exists():
        return _done(folder, settings)
    console.print(f"{recipe.name} ({recipe.form} form): {choice.key}, seed {seed}", highlight=False)
    plan = batch_plan(recipe, mnist.train, seed)
    with TrainingProgress(console, recipe.steps, 0) as progress:
        trained = train_digits(
            recipe,
            choice,
            mnist.train,
            seed=seed,
            device=device,
            on_step=lambda step, loss, rate_img_s: progress.update(step, loss, rate_img_s, plan),
        )
    measured = measure_digits(trained, mnist.test, device=device)
    result = MnistResult(
        recipe=recipe.name,
        form=recipe.form,
        head=choice.key,
        seed=seed,
        steps=recipe.steps,
        measured_on=measured_on,
        images=len(mnist.test),
        errors=measured.errors,
        error=measured.errors / len(mnist.test),
        mean_angle_rad=measured.mean_angle_rad,
        first_loss=trained.first_loss,
        last_loss=trained.last_loss,
        seconds=trained.seconds,
        hardware=describe_hardware(device),
        settings=settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.embedding_dim == 2:
        _save_plane(folder / _FILES[1], trained, measured)
    write_whole(folder / _FILES[0], result.model_dump_json(indent=1))  # last: it says that the run is done
    console.print(f"  error {result.error:.2%}, loss {result.last_loss:.3f}", highlight=False)
    return result


def _done(folder: Path, settings: dict[str, Any]) -> MnistResult:
    """The result that a run left, if it is of the same settings."""
    result = MnistResult.model_validate_json((folder / _FILES[0]).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))
    changed = sorted(key for key in now.keys() | result.settings.keys() if now.get(key) != result.settings.get(key))
    if changed:
        raise CheckpointError(
            f"{folder} belongs to a run with other settings of: {', '.join(changed)}; use another output folder"
        )
    return result


def _save_plane(path: Path, trained: Trained, measured: Measured) -> None:
    rows = trained.head.weight.detach().float().cpu().numpy()
    content = io.BytesIO()
    np.savez_compressed(content, embeddings=measured.embeddings, rows=rows)
    write_whole(path, content.getvalue())


def _reported(results: list[MnistResult], test: Digits, output: Path, command: str) -> list[MnistResult]:
    """The results, after their page is written."""
    if results:
        planes = _planes(results, test, output) if results[0].settings["embedding_dim"] == 2 else {}
        write_whole(output / "report.html", render(mnist_page(results, planes, command=command)))
    return results


def _planes(results: Sequence[MnistResult], test: Digits, output: Path) -> dict[str, Plane]:
    """Embeddings of the first seed of each head."""
    planes = {}
    for result in results:
        if result.seed == results[0].seed:
            path = output / f"{result.head.replace(':', '-m')}-seed{result.seed}" / _FILES[1]
            try:
                with np.load(path, allow_pickle=False) as saved:
                    embeddings, rows = saved["embeddings"], saved["rows"]
            except (OSError, KeyError, ValueError) as error:
                raise DataError(f"{path} cannot be read: {error}; delete its folder to run it again") from error
            note = f"error {result.error:.1%}, own centre {math.degrees(result.mean_angle_rad):.0f}°"
            planes[result.head] = Plane(embeddings, test.labels, rows, note)
    return planes
