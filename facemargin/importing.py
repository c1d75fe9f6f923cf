"""A foreign ONNX model -> a bundle.

Owns what must be true of such a model before facemargin accepts it. Checkpoints of facemargin's own backbones are the
business of ``training.importing``: they need torch.
"""

import tempfile
from pathlib import Path

import numpy as np

from facemargin.bundle import MODEL_NAME, Bundle, Manifest, write_bundle
from facemargin.embedder import Embedder
from facemargin.errors import BundleError
from facemargin.onnx_model import OnnxModel, onnx_opset, shapes_agree, shown
from facemargin.preprocessing import Preprocessing

_TRIAL_CROPS = 5
_SAME_VECTOR = 0.9999  # least cosine between a crop embedded alone and within a batch


def import_onnx(
    model: Path,
    output: Path,
    *,
    preprocessing: Preprocessing,
    name: str = "",
    licence: str = "",
    card: str = "",
    flip_sum: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Make a bundle from an ONNX model of another project.

    The model is run on random crops: that gives the embedding dimension and shows that it takes what `preprocessing`
    makes, gives finite vectors that are not zero and depend on the crop, and treats the crops of a batch one by one. A
    model with a fixed batch size is accepted; the embedder then feeds it in pieces of that size.

    Args:
        model: the ONNX file, self-contained (no external data files).
        output: folder of the new bundle.
        preprocessing: what the model expects, from its documentation; a wrong colour order, mean or std cannot be
            noticed here and costs accuracy silently.
        name: for people; by default the name of the file.
        licence: of the weights.
        card: a short description.
        flip_sum: add the output for the mirrored crop.
        overwrite: replace a bundle that is there already.

    Returns:
        The bundle as written; it has no calibration yet (`facemargin calibrate`).

    Raises:
        BundleError: the file is missing, empty or no usable model, or the bundle cannot be written.
    """
    data = _read(model)
    manifest = Manifest(
        name=name or model.stem,
        embedding_dim=_embedding_dim(model, preprocessing),
        preprocessing=preprocessing,
        flip_sum=flip_sum,
        opset=onnx_opset(data),
        card=card,
        licence=licence,
    )
    with tempfile.TemporaryDirectory(prefix="facemargin-import-") as folder:
        _try_out(Embedder(write_bundle(Path(folder) / "trial", manifest, {MODEL_NAME: data})), model)
    return write_bundle(output, manifest, {MODEL_NAME: data}, overwrite=overwrite)


def _read(model: Path) -> bytes:
    try:
        data = model.read_bytes()
    except OSError as error:
        raise BundleError(f"{model}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise BundleError(f"{model} is empty (0 bytes); it is no ONNX model")
    return data


def _embedding_dim(path: Path, preprocessing: Preprocessing) -> int:
    """Length of the model's output for one crop."""
    model = OnnxModel(path)
    height, width = preprocessing.size
    if not shapes_agree(model.input_shape, (None, 3, height, width)):
        raise BundleError(
            f"{path}: input '{model.input_name}' is {shown(model.input_shape)}, the preprocessing makes "
            f"N x 3 x {height} x {width}; give --size or another --preset (channels must come first)"
        )
    output = model.run(preprocessing.normalise(_random_crops(preprocessing, 1)))
    if output.ndim != 2:
        raise BundleError(f"{path}: output '{model.output_name}' must be (N, D), for one crop it is {output.shape}")
    return int(output.shape[1])


def _try_out(embedder: Embedder, model: Path) -> None:
    crops = _random_crops(embedder.preprocessing, _TRIAL_CROPS)
    together = embedder.embed(crops)
    if np.ptp(together, axis=0).max() == 0:
        raise BundleError(f"{model} gives the same vector for different crops; it is no embedding model")
    alone = np.concatenate([embedder.embed(crop[None]) for crop in crops])
    lowest = float((together * alone).sum(axis=1).min())
    if lowest < _SAME_VECTOR:
        raise BundleError(
            f"{model} gives a crop another vector in a batch than alone (cosine {lowest:.4f}); export it in evaluation "
            "mode and with a batch dimension that leaves the crops apart"
        )


def _random_crops(preprocessing: Preprocessing, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    height, width = preprocessing.size
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
