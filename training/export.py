"""A trained network -> a bundle: ONNX conversion, the check of ONNX against PyTorch, and the manifest.

Owns the conversion and its acceptance; the bundle's layout belongs to `facemargin.bundle`.

The converter is ``torch.onnx.export`` on top of ``torch.export`` (``dynamo=True``). The TorchScript one is deprecated
and warns on every use, and a trace may fix the example's batch size without saying so; ``torch.export`` refuses
instead.
The model is serialised in memory, so no external-data file and no half-written model can appear.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from facemargin.bundle import MODEL_NAME, WEIGHTS_NAME, Bundle, Manifest, library_versions, write_bundle
from facemargin.errors import ExportRefusedError
from facemargin.onnx_model import ORT_ERRORS
from facemargin.preprocessing import Preprocessing
from training.channelwise import without_prelu

OPSET = 18
"""The opset that PyTorch's converter writes natively; every other one goes through a version converter."""

MIN_COSINE = 0.9999
"""Smallest accepted cosine between PyTorch's and ONNX Runtime's embedding of one crop."""

BATCH_SIZES = (1, 2, 7, 32)
"""Batch sizes that the parity check runs; each sees every crop it can fill."""

_INPUT, _OUTPUT = "images", "embeddings"


@dataclass(frozen=True)
class Parity:
    """How well an ONNX model agrees with its PyTorch original.

    Attributes:
        min_cosine: smallest cosine between the two embeddings of one crop, over all crops and batch sizes.
        crops: number of crops compared.
        batch_sizes: batch sizes that were run.
    """

    min_cosine: float
    crops: int
    batch_sizes: tuple[int, ...]


def export_bundle(
    model: nn.Module,
    output: Path,
    *,
    crops: NDArray[np.uint8],
    preprocessing: Preprocessing,
    overwrite: bool = False,
    **fields: Any,
) -> Bundle:
    """Convert a network to ONNX, check it on real crops, and write the bundle; or write nothing.

    Args:
        model: (N, 3, H, W) float32 to (N, D) raw embeddings; any device, memory format and mode; it is not changed.
        output: the bundle's folder.
        crops: aligned crops uint8 (N, h, w, 3) RGB, one or more, as the model will meet them.
        preprocessing: how crops become the model's input.
        overwrite: replace a bundle that is already there.
        fields: further fields of `facemargin.bundle.Manifest`: name (needed), backbone, head, data, metrics, card,
            licence, calibration, flip_sum.

    Raises:
        ExportRefusedError: ONNX and PyTorch disagree, give values that are not finite, or ONNX Runtime cannot run it.
        BundleError: something is at `output` already, or it cannot be written.
        ValueError: no crops, or a field that the manifest does not know.
    """
    if len(crops) == 0:
        raise ValueError("crops must hold at least one aligned crop for the parity check, got 0")
    plain = plain_copy(model)
    images = preprocessing.normalise(crops)
    onnx_model = to_onnx(plain, preprocessing.size)
    check_parity(plain, onnx_model, images)
    versions = library_versions("torch", "onnx", "onnxscript")
    manifest = Manifest(
        embedding_dim=_embed(plain, images[:1]).shape[1],
        preprocessing=preprocessing,
        opset=OPSET,
        versions=versions | fields.pop("versions", {}),
        **fields,
    )
    files = {MODEL_NAME: onnx_model, WEIGHTS_NAME: weights_of(plain)}
    return write_bundle(output, manifest, files, overwrite=overwrite)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, on the CPU, float32, contiguous; ``torch.compile``'s wrapper is taken off."""
    original = getattr(model, "_orig_mod", model)
    plain: nn.Module = copy.deepcopy(original).to("cpu", torch.float32)
    return plain.to(memory_format=torch.contiguous_format).eval()


def weights_of(model: nn.Module) -> bytes:
    """The state dict as a safetensors file."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    data: bytes = safetensors.torch.save(state)
    return data


def to_onnx(model: nn.Module, input_size: tuple[int, int]) -> bytes:
    """Convert to ONNX with a dynamic batch and no external data; nothing in it names files of this machine.

    PReLUs become convolutions (`training.channelwise`), which ONNX Runtime runs several times as fast on a CPU.

    Args:
        model: in evaluation mode, on the CPU.
        input_size: (height, width) of its input.

    Returns:
        A serialised model with input ``images`` (batch, 3, H, W) and output ``embeddings`` (batch, D).
    """
    example = torch.zeros(2, 3, *input_size)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise ExportRefusedError("torch.onnx.export gave no model")
    proto = without_prelu(program.model_proto)
    for part in _parts(proto.graph):
        part.ClearField("metadata_props")  # stack traces with the paths of this machine
        part.ClearField("doc_string")
    onnx.checker.check_model(proto, full_check=True)
    serialised: bytes = proto.SerializeToString(deterministic=True)
    return serialised


def _parts(graph: Any) -> Iterator[Any]:
    yield graph
    for parts in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        yield from parts


def check_parity(model: nn.Module, onnx_model: bytes, images: NDArray[np.float32]) -> Parity:
    """Compare ONNX Runtime with PyTorch on the same input, in several batch sizes.

    Args:
        model: in evaluation mode, on the CPU.
        onnx_model: its conversion.
        images: float32 (N, 3, H, W), normalised crops.

    Raises:
        ExportRefusedError: some crop's two embeddings have a cosine below `MIN_COSINE`, are not finite or have another
            shape, or ONNX Runtime cannot run the model.
    """
    expected = _embed(model, images)
    worst = 1.0
    for size in BATCH_SIZES:
        filled = np.resize(images, (max(size, len(images) // size * size), *images.shape[1:]))
        found = _run(onnx_model, filled, size)
        worst = min(worst, _smallest_cosine(np.resize(expected, (len(filled), expected.shape[1])), found, size))
    return Parity(worst, len(images), BATCH_SIZES)


@torch.no_grad()
def _embed(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    batches = torch.split(torch.from_numpy(images), 64)
    embeddings: NDArray[np.float32] = torch.cat([model(batch) for batch in batches]).numpy()
    return embeddings


def _run(onnx_model: bytes, images: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    try:
        session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        found: NDArray[np.float32] = np.concatenate([session.run([_OUTPUT], {_INPUT: batch})[0] for batch in batches])
    except (*ORT_ERRORS, RuntimeError) as error:
        raise ExportRefusedError(f"ONNX Runtime cannot run the model in batches of {batch_size}: {error}") from error
    return found


def _smallest_cosine(expected: NDArray[np.float32], found: NDArray[np.float32], batch_size: int) -> float:
    if found.shape != expected.shape:
        raise ExportRefusedError(
            f"the exported model gives {found.shape} where PyTorch gives {expected.shape} in batches of {batch_size}"
        )
    a, b = expected.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not np.isfinite(norms).all() or norms.min() == 0:
        raise ExportRefusedError("the network gives embeddings that are zero or not finite; train it again")
    cosine = float(((a * b).sum(axis=1) / norms).min())
    if cosine < MIN_COSINE:
        raise ExportRefusedError(
            f"the exported model disagrees with PyTorch: cosine {cosine:.6f} in batches of {batch_size}, "
            f"{MIN_COSINE} or more is needed; nothing was written"
        )
    return cosine
