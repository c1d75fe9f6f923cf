"""Weights that a new run starts with: those of a run, of one of its checkpoints, or of a bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from facemargin.backbones import Backbone
from facemargin.bundle import MANIFEST_NAME, WEIGHTS_NAME, load_bundle
from facemargin.errors import CheckpointError
from facemargin.heads import Head
from facemargin.preprocessing import Preprocessing
from training.checkpoint import open_checkpoint, read_rows
from training.config import TrainConfig, make_config
from training.trainer.build import ROW_NAMES, class_range
from training.trainer.restoring import trained_weights

_ADVICE = "--reset-head takes over its backbone alone"
_NAMES = {
    "name": "backbone.name",
    "width": "backbone.width",
    "embedding_dim": "backbone.embedding_dim",
    "input_size": "preprocessing.size",
}


@dataclass(frozen=True)
class TrainedHead:
    """The head of a source, with whose class rows they are.

    Attributes:
        state: its state dict.
        options: as `facemargin.heads.Head.options` gives them.
        people_sha256: fingerprint of the people in the order of the rows; None in checkpoints that did not keep it.
    """

    state: dict[str, Any]
    options: dict[str, Any]
    people_sha256: str | None


@dataclass(frozen=True)
class Source:
    """What a new run can start with.

    Attributes:
        path: where it lies.
        backbone: arguments of its backbone, as `facemargin.backbones.Backbone.options` gives them.
        weights: of the backbone, by name; the averaged ones where the run kept an average.
        preprocessing: what they were trained with.
        head: None in a bundle.
    """

    path: Path
    backbone: dict[str, Any]
    weights: dict[str, torch.Tensor]
    preprocessing: Preprocessing
    head: TrainedHead | None

    def load_backbone(self, backbone: Backbone) -> None:
        """Give a backbone these weights.

        Raises:
            CheckpointError: it is another backbone, or one for another size; naming each setting that differs.
        """
        own = backbone.options()
        differing = [
            f"{setting} is {self.backbone.get(key)!r} there and {own[key]!r} here"
            for key, setting in _NAMES.items()
            if self.backbone.get(key) != own[key]
        ]
        if differing:
            raise CheckpointError(
                f"{self.path} has another backbone than this run: {', '.join(differing)}; set them as they are there"
            )
        try:
            backbone.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path} has another backbone than this run: {one_line(error)}") from error

    def load_head(self, head: Head, people_sha256: str) -> None:
        """Give a head the class rows; its step, and with it λ, starts anew.

        Args:
            head: of the new run.
            people_sha256: fingerprint of the new run's people.

        Raises:
            CheckpointError: there is no head, or it is another one or of other people.
        """
        if self.head is None:
            raise CheckpointError(f"{self.path} is a bundle, which holds no head; {_ADVICE}")
        saved, own = self.head.options, head.options()
        for key, what in (("num_classes", "people"), ("name", "head")):
            if saved[key] != own[key]:
                raise CheckpointError(f"{self.path} has {what} {saved[key]}, this run {own[key]}; {_ADVICE}")
        if self.head.people_sha256 != people_sha256:
            raise CheckpointError(
                f"{self.path} was trained on other people, or in another order: its class rows are theirs; {_ADVICE}"
            )
        try:
            head.load_state_dict({**_own_rows(self.head.state, head), "step": head.step})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the head of {self.path} does not fit this run: {one_line(error)}; {_ADVICE}"
            ) from error

    def other_preprocessing(self, own: Preprocessing) -> list[str]:
        """How crops were made for these weights and are not made now; allowed, and seldom meant."""
        there, here = self.preprocessing.model_dump(mode="json"), own.model_dump(mode="json")
        return [f"preprocessing.{key} was {there[key]!r}, now {here[key]!r}" for key in here if there[key] != here[key]]


def _own_rows(state: dict[str, Any], head: Head) -> dict[str, Any]:
    """The state of a head with the rows of the classes that this process has, whoever had them before."""
    own = class_range(head)
    kept = {
        name: value[slice(*own)] for name, value in state.items() if name in ROW_NAMES and isinstance(value, Tensor)
    }
    return {**read_rows(state, *own), **kept}


def open_source(path: Path) -> Source:
    """Read a run (its newest checkpoint), a checkpoint or a bundle.

    Raises:
        CheckpointError: nothing that a run can start with, naming what to do.
        BundleError: a damaged bundle.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is no folder; start_from takes a run, a checkpoint or a bundle")
    return _of_bundle(path) if (path / MANIFEST_NAME).is_file() else _of_checkpoint(path)


def _of_checkpoint(path: Path) -> Source:
    checkpoint = open_checkpoint(path)
    state = checkpoint.state
    config = make_config(state["config"], str(checkpoint.path))
    return Source(
        path=checkpoint.path,
        backbone=_backbone_options(config),
        weights=trained_weights(state),
        preprocessing=config.preprocessing,
        head=TrainedHead(state["head"], state["head_options"], state["data"].get("people_sha256")),
    )


def _backbone_options(config: TrainConfig) -> dict[str, Any]:
    return config.backbone.model_dump() | {"input_size": list(config.preprocessing.size)}


def _of_bundle(path: Path) -> Source:
    manifest = load_bundle(path).manifest
    if manifest.backbone is None:
        raise CheckpointError(
            f"{path} is a bundle of a foreign model, which runs as ONNX only and cannot be trained on; start from a "
            "bundle of one of facemargin's backbones"
        )
    if WEIGHTS_NAME not in manifest.files:
        raise CheckpointError(
            f"{path} holds no {WEIGHTS_NAME}, and an ONNX model cannot be trained on; start from the run it was "
            "exported from, or export that run again"
        )
    try:
        weights = safetensors.torch.load_file(path / WEIGHTS_NAME)
    except SafetensorError as error:
        raise CheckpointError(f"{path / WEIGHTS_NAME} cannot be read: {one_line(error)}") from error
    return Source(path, manifest.backbone, weights, manifest.preprocessing, head=None)


def one_line(error: Exception) -> str:
    """An error's message, its lines joined."""
    return " ".join(str(error).split())
