"""The validation set of a run: aligned crops of people it does not train on, measured while it trains."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facemargin.errors import DataError
from facemargin.metrics import all_pairs, eer, tar_at_far
from facemargin.preprocessing import Preprocessing, read_image
from training.config import EvaluationConfig
from training.crops import Crop, Embed
from training.data.folder import people_of
from training.data.pairs import parse_folds, read_pairs
from training.ranks import ALONE, Ranks
from training.validation_set import ValidationSet, load_validation, validate_pairs

_BATCH = 128


def network_embedder(
    network: nn.Module,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    flip_sum: bool = False,
    ranks: Ranks = ALONE,
) -> Embed:
    """A PyTorch network as the callable that every evaluation takes: uint8 crops -> unit float32 embeddings.

    Args:
        network: (N, 3, H, W) -> (N, D); run in float32 and eval mode, its mode is restored.
        preprocessing: the one it is trained with.
        device: where the network lives.
        flip_sum: add the embedding of the mirrored crop before normalising.
        ranks: who shares the crops; each embeds its part, and all get all embeddings.
    """

    @torch.inference_mode()
    def embed(crops: Crop) -> NDArray[np.float32]:
        own = crops[ranks.part(len(crops))]
        was_training = network.training
        network.eval()
        try:
            # A rank without a crop embeds one, and keeps nothing of it, for the size of an embedding.
            some = own if len(own) else crops[:1]
            parts = [_embed(some[start : start + _BATCH]) for start in range(0, len(some), _BATCH)]
        finally:
            network.train(was_training)
        vectors: NDArray[np.float32] = ranks.all_rows(torch.cat(parts)[: len(own)], len(crops)).numpy()
        return vectors

    def _embed(crops: Crop) -> torch.Tensor:
        images = torch.from_numpy(preprocessing.normalise(crops)).to(device, memory_format=torch.channels_last)
        embeddings = network(images).float()
        if flip_sum:
            embeddings = embeddings + network(images.flip(-1)).float()
        return nn.functional.normalize(embeddings).cpu()

    return embed


@dataclass(frozen=True)
class Validator:
    """Crops that were read and checked before training started, and how to measure on them.

    Attributes:
        flip_sum: whether embeddings add the mirrored crop.
        measure_with: embeds the crops with the given callable and returns the figures by name.
    """

    flip_sum: bool
    measure_with: Callable[[Embed], dict[str, float]]

    @classmethod
    def load(cls, config: EvaluationConfig, template: str) -> "Validator":
        """Read the crops: of the people in the pairs where the config names pairs, else of the whole folder.

        Raises:
            DataError: the folder or the pairs file cannot be used.
            ImageError: a file that is no accepted picture.
        """
        if config.pairs is not None:
            pairs = read_pairs(config.pairs)
            chosen = pairs.select(parse_folds(config.folds)) if config.folds else pairs
            return cls(config.flip_sum, _OfPairs(load_validation(chosen, config.images, template=template)))
        people = people_of(config.images)
        crops = [read_image(path) for images in people.values() for path in images]
        if len({crop.shape for crop in crops}) > 1:
            raise DataError(
                f"the crops in {config.images} must all have one size; align them with facemargin data align"
            )
        names = tuple(name for name, images in people.items() for _ in images)
        if len(people) < 2 or len(names) == len(people):
            raise DataError(f"{config.images} needs two people, and one with two pictures, to validate on")
        return cls(config.flip_sum, _OfFolder(np.stack(crops), names))

    def measure(
        self, network: nn.Module, preprocessing: Preprocessing, device: torch.device, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """The figures of the network as it is; a collective call."""
        return self.measure_with(
            network_embedder(network, preprocessing, device=device, flip_sum=self.flip_sum, ranks=ranks)
        )


@dataclass(frozen=True)
class _OfPairs:
    """Figures of a protocol's pairs, and of all pairs of its people."""

    validation: ValidationSet

    def __call__(self, embed: Embed) -> dict[str, float]:
        found = validate_pairs(embed, self.validation).model_dump()
        return {name: value for name, value in found.items() if isinstance(value, float)}


@dataclass(frozen=True)
class _OfFolder:
    """Figures of all pairs in a folder."""

    crops: Crop
    people: tuple[str, ...]

    def __call__(self, embed: Embed) -> dict[str, float]:
        scores = all_pairs(embed(self.crops), self.people)
        return {
            "all_pairs_eer": eer(scores.genuine, scores.impostor),
            "all_pairs_tar_at_far_1e2": tar_at_far(scores.genuine, scores.impostor, 1e-2).tar,
        }
