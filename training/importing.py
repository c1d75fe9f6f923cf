"""A torch checkpoint of one of facemargin's backbones -> a bundle.

Owns the safe reading of a foreign checkpoint and the recognition of its width and embedding dimension. Foreign networks
come as ONNX and are the business of ``facemargin.importing``; checkpoints of ``facemargin train`` are exported by
``facemargin export``.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facemargin.backbones import BACKBONES, Backbone, make_backbone
from facemargin.bundle import Bundle
from facemargin.errors import CheckpointError
from facemargin.preprocessing import Preprocessing
from training.export import export_bundle

CHECKPOINT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth"})

_NESTED = ("state_dict", "model", "backbone")
_WRAPPERS = ("module.", "_orig_mod.")
_TRIAL_CROPS = 32

# What torch's restricted unpickler and safetensors raise on files that are damaged, or are something else altogether.
_DAMAGE = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OSError,
)


def import_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    backbone: str,
    preprocessing: Preprocessing,
    name: str = "",
    licence: str = "",
    card: str = "",
    flip_sum: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Make a bundle from the weights of a known backbone.

    Width and embedding dimension are read off the weights; the input size is that of `preprocessing`. No pickle is run:
    ``.pt`` and ``.pth`` are read with ``weights_only=True``. The ONNX model is compared with PyTorch on random crops.

    Args:
        checkpoint: ``.safetensors``, ``.pt`` or ``.pth`` with a state dict, plain or under ``state_dict``, ``model`` or
            ``backbone``; prefixes of DistributedDataParallel and torch.compile are taken off.
        output: folder of the new bundle.
        backbone: a name in `facemargin.backbones.BACKBONES`.
        preprocessing: what the weights were trained with.
        name: for people; by default the name of the file.
        licence: of the weights.
        card: a short description.
        flip_sum: add the output for the mirrored crop.
        overwrite: replace a bundle that is there already.

    Raises:
        CheckpointError: the file cannot be read or does not hold the weights of that backbone.
        BundleError: the bundle cannot be written, or ONNX and PyTorch disagree.
        ValueError: an unknown backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}; got {backbone!r}")
    model = restore_backbone(read_state(checkpoint), backbone, preprocessing.size, checkpoint)
    height, width = preprocessing.size
    crops = np.random.default_rng(0).integers(0, 256, (_TRIAL_CROPS, height, width, 3), dtype=np.uint8)
    return export_bundle(
        model,
        output,
        crops=crops,
        preprocessing=preprocessing,
        overwrite=overwrite,
        name=name or checkpoint.stem,
        backbone=model.options(),
        licence=licence,
        card=card,
        flip_sum=flip_sum,
    )


def read_state(checkpoint: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    Raises:
        CheckpointError: missing, damaged, of an unknown kind, or with anything in it but tensors.
    """
    suffix = checkpoint.suffix.lower()
    if suffix not in CHECKPOINT_SUFFIXES:
        raise CheckpointError(f"{checkpoint}: a checkpoint ends in {', '.join(sorted(CHECKPOINT_SUFFIXES))}")
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such file")
    try:
        if suffix == ".safetensors":
            content = safetensors.torch.load_file(checkpoint)
        else:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{checkpoint} is damaged or holds more than weights: {reason}") from error
    return _plain_state(content, checkpoint)


def restore_backbone(state: Mapping[str, Tensor], name: str, input_size: tuple[int, int], origin: Path) -> Backbone:
    """Build the backbone that fits a state dict and load it.

    Args:
        state: weights by name.
        name: of the backbone.
        input_size: height and width of its input.
        origin: the file, for the error.

    Raises:
        CheckpointError: names or shapes that are not that backbone's.
    """
    reference = make_backbone(name, input_size=input_size)
    tensors = {key: value for key, value in reference.state_dict().items() if value.ndim > 0}
    first, last = next(iter(tensors)), list(tensors)[-1]
    if first not in state or last not in state or state[first].ndim == 0 or state[last].ndim == 0:
        raise CheckpointError(f"{origin} does not hold a {name}: there is no '{first if first not in state else last}'")
    model = make_backbone(
        name,
        embedding_dim=len(state[last]),
        width=len(state[first]) / len(tensors[first]),
        input_size=input_size,
    )
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"{origin} does not fit a {name} for {input_size}: {reasons[0][:300]}") from error
    return model


def _plain_state(content: object, origin: Path) -> dict[str, Tensor]:
    while isinstance(content, dict) and (key := next((key for key in _NESTED if key in content), None)) is not None:
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{origin} holds no state dict (names and tensors)")
    return {
        _unwrapped(str(key)): value.float() if value.is_floating_point() else value for key, value in content.items()
    }


def _unwrapped(key: str) -> str:
    while prefix := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key
