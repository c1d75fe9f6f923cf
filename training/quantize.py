"""A float32 bundle -> an int8 one: weights and activations of 8 bits, a model of its own.

Owns the choice of the quantisation, its calibration on real crops and its acceptance. Static quantisation in the QDQ
form: signed 8-bit weights with a scale for each output channel, unsigned 8-bit activations (ONNX Runtime's fast kernels
on x86 take these; signed ones ran at a third of their speed), ranges from the smallest and largest value seen. Of the
other ways to choose the ranges, percentiles gained .0003 of cosine and keep every activation of every crop in memory.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from facemargin.bundle import MODEL_NAME, Bundle, Manifest, MetricRecord, library_versions, write_bundle
from facemargin.embedder import Embedder
from facemargin.errors import DataError, ExportRefusedError
from training.channelwise import without_batch_norm, without_prelu

MIN_MEAN_COSINE = 0.98
"""Smallest accepted mean cosine between the int8 and the float32 embedding of a crop."""

MIN_COSINE = 0.9
"""Smallest accepted cosine of any one crop."""

MIN_CROPS = 32
"""Fewest crops: half of them set the ranges, the other half are compared."""

MAX_CROPS = 512
"""More crops change the ranges no further, and take time."""

_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else the quantiser warns that nobody prepared the model
_OLDEST_OPSET = 13
_BATCH = 16


@dataclass(frozen=True)
class Agreement:
    """How close the int8 embeddings are to the float32 ones, on crops that the ranges were not taken from.

    Attributes:
        mean_cosine: over the crops.
        min_cosine: of the worst crop.
        crops: number of crops compared.
    """

    mean_cosine: float
    min_cosine: float
    crops: int


def quantize_bundle(bundle: Bundle, output: Path, crops: NDArray[np.uint8], *, overwrite: bool = False) -> Bundle:
    """Write the int8 form of a bundle; or write nothing.

    It has an id of its own, and neither the thresholds nor the figures of the float32 bundle: ``facemargin calibrate``
    and ``facemargin evaluate`` measure its own. Its metrics tell how far it is from the float32 one.

    Args:
        bundle: a float32 bundle.
        output: folder of the int8 bundle.
        crops: aligned crops uint8 (N, h, w, 3) RGB, `MIN_CROPS` or more, as the model will meet them. Every second
            one sets the ranges, the others are compared.
        overwrite: replace a bundle that is already there.

    Raises:
        DataError: too few crops.
        ExportRefusedError: it is quantised already, its opset is too old, or the embeddings differ too much.
        BundleError: something is at `output` already, or it cannot be written.
    """
    if len(crops) < MIN_CROPS:
        raise DataError(f"int8 needs at least {MIN_CROPS} aligned crops to find the ranges of values, got {len(crops)}")
    model = _quantised(bundle, crops[::2])
    with tempfile.TemporaryDirectory() as folder:  # compared as it will be used, before anything is at the output
        trial = write_bundle(Path(folder) / "bundle", _manifest(bundle, None), {MODEL_NAME: model})
        agreement = compare(bundle, trial, crops[1::2])
    return write_bundle(output, _manifest(bundle, agreement), {MODEL_NAME: model}, overwrite=overwrite)


def compare(original: Bundle, quantised: Bundle, crops: NDArray[np.uint8]) -> Agreement:
    """Embed crops by both.

    Raises:
        ExportRefusedError: the mean cosine is below `MIN_MEAN_COSINE` or one is below `MIN_COSINE`.
    """
    cosines = (Embedder(original).embed(crops) * Embedder(quantised).embed(crops)).sum(axis=1)
    found = Agreement(float(cosines.mean()), float(cosines.min()), len(crops))
    if found.mean_cosine < MIN_MEAN_COSINE or found.min_cosine < MIN_COSINE:
        raise ExportRefusedError(
            f"the int8 model is too far from the float32 one: mean cosine {found.mean_cosine:.4f} (at least "
            f"{MIN_MEAN_COSINE} is needed), smallest {found.min_cosine:.4f} (at least {MIN_COSINE}), on {len(crops)} "
            "crops; nothing was written. Give crops like those that the model will meet, or stay with float32"
        )
    return found


class _Crops(CalibrationDataReader):  # type: ignore[misc]
    """Crops as network input, in batches, with their mirror images where the bundle embeds these too."""

    def __init__(self, bundle: Bundle, crops: NDArray[np.uint8], name: str) -> None:
        self._batches = self._read(bundle, crops, name)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch."""
        return next(self._batches, None)

    def _read(self, bundle: Bundle, crops: NDArray[np.uint8], name: str) -> Iterator[dict[str, NDArray[np.float32]]]:
        manifest = bundle.manifest
        for batch in (crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)):
            yield {name: manifest.preprocessing.normalise(batch)}
            if manifest.flip_sum:
                yield {name: manifest.preprocessing.normalise(batch[:, :, ::-1])}


def _quantised(bundle: Bundle, crops: NDArray[np.uint8]) -> bytes:
    model = onnx.load(bundle.model_path)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportRefusedError(f"{bundle.path} is quantised already; start from the float32 bundle")
    if bundle.manifest.opset < _OLDEST_OPSET:
        raise ExportRefusedError(
            f"{bundle.path} has ONNX opset {bundle.manifest.opset}; int8 with a scale for each channel needs "
            f"{_OLDEST_OPSET} or newer: export the model again"
        )
    prepared = without_batch_norm(without_prelu(model))
    helper.set_model_props(prepared, _PREPARED)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / MODEL_NAME
        quantize_static(
            prepared,
            target,
            _Crops(bundle, crops, model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return target.read_bytes()


def _manifest(bundle: Bundle, agreement: Agreement | None) -> Manifest:
    old = bundle.manifest
    metrics: tuple[MetricRecord, ...] = ()
    if agreement is not None:
        protocol = f"int8 beside float32 model {bundle.model_id}, {agreement.crops} crops"
        metrics = (
            MetricRecord(protocol=protocol, name="cosine mean", value=agreement.mean_cosine),
            MetricRecord(protocol=protocol, name="cosine min", value=agreement.min_cosine),
        )
    fields = {
        "name": f"{old.name} int8",
        "metrics": metrics,
        "calibration": None,
        "card": f"{old.card} Quantised to 8 bits from model {bundle.model_id}.".strip(),
        "files": {},
        "versions": old.versions | library_versions("onnx"),
    }
    return Manifest.model_validate(dict(old) | fields)
