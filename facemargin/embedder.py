"""Bundle -> embeddings.

Owns the check of the model against its manifest, batching, flip-sum and the unit length. It never sees a whole
photograph but to cut a detected face out of it.
"""

import numpy as np
from numpy.typing import NDArray

from facemargin.bundle import Bundle
from facemargin.errors import BundleError
from facemargin.onnx_model import OnnxModel, Provider, shapes_agree, shown
from facemargin.preprocessing import Face, Preprocessing, align

DEFAULT_BATCH = 64

_SMALLEST_NORM = 1e-12


class Embedder:
    """Unit embeddings of aligned crops; one instance may be used by any number of threads at once.

    Args:
        bundle: a loaded bundle.
        threads: processor threads for one call; 0 takes as many as this process may use.
        provider: where the model runs, ``cpu`` or ``cuda``.

    Raises:
        BundleError: ONNX Runtime cannot load or run the model, or its input or output is not what the manifest says.
        ConfigError: CUDA is asked for, and there is none.
        ValueError: threads below 0.
    """

    def __init__(self, bundle: Bundle, *, threads: int = 0, provider: Provider = "cpu") -> None:
        self._bundle = bundle
        self._model_id = bundle.model_id  # a hash: it is asked for by every request
        self._model = OnnxModel(bundle.model_path, threads=threads, provider=provider)
        _check_against_manifest(self._model, bundle)
        # A model that cannot run, or gives another length, fails here and not in the first request.
        self._raw(np.zeros((1, *self.preprocessing.size, 3), dtype=np.uint8))

    @property
    def bundle(self) -> Bundle:
        """The bundle it was made from."""
        return self._bundle

    @property
    def dim(self) -> int:
        """Length D of an embedding."""
        return self._bundle.manifest.embedding_dim

    @property
    def model_id(self) -> str:
        """Which embedding space: vectors of two ids must not be compared."""
        return self._model_id

    @property
    def preprocessing(self) -> Preprocessing:
        """How crops become network input."""
        return self._bundle.manifest.preprocessing

    def crop(self, image: NDArray[np.uint8], face: Face) -> NDArray[np.uint8]:
        """Cut a detected face out as this model wants it: uint8 RGB of the size of its template."""
        return align(image, face.landmarks, self.preprocessing.template)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned crops.

        e = f(x) / ‖f(x)‖; with flip-sum e = (f(x) + f(mirror(x))) / ‖f(x) + f(mirror(x))‖, f the network's raw output.

        Args:
            crops: uint8 (N, h, w, 3), RGB; another size than the network's is resized.

        Returns:
            float32 (N, D), rows of length 1.

        Raises:
            BundleError: the model gives values that are not finite or a zero vector.
            ValueError: crops of another type or shape.
        """
        if len(crops) == 0:
            self.preprocessing.normalise(crops)  # refuses a wrong type or shape even where there is nothing to do
            return np.empty((0, self.dim), dtype=np.float32)
        step = self._model.batch or DEFAULT_BATCH
        return np.concatenate([self._embed_batch(crops[start : start + step]) for start in range(0, len(crops), step)])

    def _embed_batch(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        raw = self._raw(crops)
        if self._bundle.manifest.flip_sum:
            raw = raw + self._raw(crops[:, :, ::-1])
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or norms.min() < _SMALLEST_NORM:
            raise BundleError(
                f"{self._bundle.model_path} gives a vector that is zero or not finite; the model is damaged or its "
                "preprocessing (mean, std) in the manifest is wrong"
            )
        unit: NDArray[np.float32] = (raw / norms).astype(np.float32)
        return unit

    def _raw(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The network's output for at most one batch, (n, D)."""
        output = self._model.run(self.preprocessing.normalise(crops))
        if output.shape != (len(crops), self.dim):
            raise BundleError(
                f"{self._bundle.model_path}: output '{self._model.output_name}' for {len(crops)} crops has shape "
                f"{tuple(output.shape)}; by embedding_dim in the manifest it must be {(len(crops), self.dim)}"
            )
        return output.astype(np.float64)


def _check_against_manifest(model: OnnxModel, bundle: Bundle) -> None:
    height, width = bundle.manifest.preprocessing.size
    for kind, name, found, wanted, by in (
        ("input", model.input_name, model.input_shape, (None, 3, height, width), "preprocessing.size"),
        ("output", model.output_name, model.output_shape, (None, bundle.manifest.embedding_dim), "embedding_dim"),
    ):
        if not shapes_agree(found, wanted):
            raise BundleError(
                f"{model.path}: {kind} '{name}' is {shown(found)}; by {by} in the manifest it must be {shown(wanted)}"
            )
