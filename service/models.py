"""The loaded models: each with its embedder and its decisions; a collection picks its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from facemargin.bundle import Bundle, load_bundle
from facemargin.embedder import Embedder
from facemargin.errors import ConfigError, ModelMismatchError
from service.decisions import Decisions
from service.settings import Settings
from service.store import CollectionRow


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Attributes:
        bundle: as it lies on the disk.
        embedder: crops to embeddings.
        decisions: similarities to decisions.
    """

    bundle: Bundle
    embedder: Embedder
    decisions: Decisions

    @property
    def id(self) -> str:
        """Names the embedding space."""
        return self.embedder.model_id

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.bundle.manifest.embedding_dim

    @property
    def template(self) -> str:
        """Name of the template that its crops are cut by."""
        return self.bundle.manifest.preprocessing.template


class Models(Mapping[str, Model]):
    """Models by id.

    Args:
        models: at least one; the first is the default.
        extrapolate: as `Decisions`.

    Raises:
        ConfigError: two of one id.
    """

    def __init__(self, models: Sequence[Model], *, extrapolate: bool) -> None:
        self._by_id = {model.id: model for model in models}
        if len(self._by_id) < len(models):
            raise ConfigError("two of the bundles are the same model; name each once in bundle and more_bundles")
        self.default = models[0]
        self._undecided = Decisions(None, extrapolate=extrapolate)

    def __getitem__(self, model_id: str) -> Model:
        return self._by_id[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def named(self, model_id: str | None) -> Model:
        """The model of that id, or the default where none is named.

        Raises:
            ModelMismatchError: it is not loaded.
        """
        if model_id is None:
            return self.default
        if model_id not in self._by_id:
            raise ModelMismatchError(f"the request names model {model_id}; the service has {self._loaded()}")
        return self._by_id[model_id]

    def of(self, gallery: CollectionRow) -> Model:
        """The model of a collection, by which images are compared with it.

        Raises:
            ModelMismatchError: it is not loaded.
        """
        if gallery.model not in self._by_id:
            raise ModelMismatchError(
                f"collection '{gallery.name}' is bound to model {gallery.model}; the service has {self._loaded()}"
            )
        return self._by_id[gallery.model]

    def decisions_of(self, model_id: str) -> Decisions:
        """Decisions about embeddings of a model; nothing is known of one that is not loaded."""
        return self._by_id[model_id].decisions if model_id in self._by_id else self._undecided

    def _loaded(self) -> str:
        return f"model{'s' if len(self) > 1 else ''} {', '.join(self)}"


def load_models(settings: Settings) -> Models:
    """Load the bundles of the settings.

    Raises:
        BundleError: a bundle that is missing or damaged.
        ConfigError: two of them are the same model.
    """
    loaded = [_loaded(load_bundle(path), settings) for path in (settings.bundle, *settings.more_bundles)]
    return Models(loaded, extrapolate=settings.extrapolate)


def _loaded(bundle: Bundle, settings: Settings) -> Model:
    decisions = Decisions(bundle.manifest.calibration, extrapolate=settings.extrapolate)
    return Model(bundle, Embedder(bundle, threads=settings.onnx_threads, provider=settings.onnx_provider), decisions)
