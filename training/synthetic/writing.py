"""Writes drawn people as an image folder, one folder a person, as `facemargin data align` would leave it."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facemargin.errors import DataError
from training.synthetic.drawing import draw_face
from training.synthetic.identity import draw_identity
from training.synthetic.scene import Scene, draw_scene


def draw_person(seed: int, person: int, images: int) -> list[tuple[NDArray[np.uint8], Scene]]:
    """Pictures of one person with their scenes; they depend on the three numbers alone.

    Args:
        seed: of the whole population, 0 or more.
        person: number of the person in it, 0 or more.
        images: number of pictures; more pictures begin with the same ones.
    """
    identity = draw_identity(np.random.default_rng([seed, person]))
    pictures = []
    for image in range(images):
        rng = np.random.default_rng([seed, person, image, 1])
        scene = draw_scene(rng)
        pictures.append((draw_face(identity, scene, rng), scene))
    return pictures


def write_person(root: Path, seed: int, images: int, person: int) -> int:
    """Write the folder of one person; returns the number of pictures."""
    cv2.setNumThreads(1)  # the work is spread over processes
    folder = root / f"synthetic-{person:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (picture, scene) in enumerate(draw_person(seed, person, images), start=1):
        quality = [cv2.IMWRITE_JPEG_QUALITY, scene.quality]
        cv2.imwrite(str(folder / f"{folder.name}_{number:04d}.jpg"), picture[..., ::-1], quality)
    return images


def write_synthetic(
    root: Path,
    people: int,
    images_per_person: int,
    seed: int,
    *,
    first_person: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Draw a population of people and write aligned 112×112 crops (JPEG) into one folder a person.

    Args:
        root: gets the folders ``synthetic-0000`` and so on; the pictures are drawings, not photographs.
        people: number of people, 1 or more.
        images_per_person: pictures of each, 1 or more.
        seed: of the population; people of one number and one seed are the same person.
        first_person: number of the first person: disjoint ranges give disjoint people.
        workers: processes.
        progress: called with the number of pictures written since the last call.

    Returns:
        The number of pictures.

    Raises:
        ValueError: a number below its range.
        DataError: a process was killed.
    """
    limits = {"people": 1, "images_per_person": 1, "seed": 0, "first_person": 0, "workers": 1}
    values = (people, images_per_person, seed, first_person, workers)
    for (name, least), value in zip(limits.items(), values, strict=True):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    write = partial(write_person, root, seed, images_per_person)
    numbers = range(first_person, first_person + people)
    if workers == 1:
        return _counted(map(write, numbers), progress)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ignore_ctrl_c) as pool:
        try:
            return _counted(pool.map(write, numbers, chunksize=4), progress)
        except BrokenProcessPool as error:
            raise DataError("a process that drew faces ended unexpectedly (out of memory?); start again") from error


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it stops handing out work


def _counted(counts: Iterable[int], progress: Callable[[int], None]) -> int:
    total = 0
    for count in counts:
        progress(count)
        total += count
    return total
