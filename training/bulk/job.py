"""A run from what a user asks for: model, pictures and output folder, checked before anything is embedded."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from facemargin.bundle import load_bundle
from facemargin.embedder import Embedder
from facemargin.onnx_model import Provider
from facemargin.preprocessing import Detector
from training.bulk.batches import BatchEmbedder
from training.bulk.output import Output, open_output
from training.bulk.plan import Dtype, Faces, FileFormat, Options, Plan, planned
from training.bulk.ranks import Rank, default_threads, rank_of
from training.bulk.raw_rate import raw_images_per_second
from training.bulk.reading import FaceReader
from training.bulk.run import Run, embed_parts, pictures_of
from training.bulk.sources import read_sources
from training.bulk.tables import require_pyarrow

PART_PICTURES = 4096
_BATCH: dict[Provider, int] = {"cpu": 16, "cuda": 64}
_RAW_SHARE, _RAW_SHORTEST_S, _RAW_LONGEST_S = 0.1, 0.2, 2.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for; see the options of ``facemargin embed``.

    Attributes:
        sources: files and folders.
        bundle: folder of the model.
        output: folder to fill.
        aligned: the pictures are crops.
        faces: of a photograph.
        detector: file; by default the one that `facemargin models pull yunet` fetched.
        score_threshold: lowest confidence of a detection.
        stop_at_failure: a picture without an embedding ends the run.
        to_format: files of the output.
        dtype: of the stored vectors.
        part_pictures: pictures of a part.
        from_format: of the sources; None guesses.
        root: folder that the paths of a list are relative to.
        rank, world_size: which of how many processes; None is what a launcher says.
        threads: batches at a time; 0 takes one for each core.
        batch: pictures of a batch; 0 takes 16, on CUDA 64.
        provider: where the network runs.
    """

    sources: tuple[Path, ...]
    bundle: Path
    output: Path
    aligned: bool = False
    faces: Faces = "largest"
    detector: Path | None = None
    score_threshold: float = 0.6
    stop_at_failure: bool = False
    to_format: FileFormat = "parquet"
    dtype: Dtype = "float32"
    part_pictures: int = PART_PICTURES
    from_format: str | None = None
    root: Path | None = None
    rank: int | None = None
    world_size: int | None = None
    threads: int = 0
    batch: int = 0
    provider: Provider = "cpu"


@dataclass(frozen=True, eq=False)
class Job:
    """A run that can start.

    Attributes:
        work: rows -> batch.
        output: where the parts go.
        rank: which of them this process makes.
        threads: batches at a time.
    """

    work: BatchEmbedder
    output: Output
    rank: Rank
    threads: int

    @property
    def pictures(self) -> int:
        """Pictures of this rank."""
        return pictures_of(self.output, self.rank)

    def run(self, progress: Callable[[Run], None]) -> Run:
        """Make the parts of this rank that are not complete; errors as in `embed_parts`."""
        return embed_parts(self.work, self.output, self.rank, threads=self.threads, progress=progress)

    def raw_rate(self, run: Run) -> float:
        """Crops a second of the network alone, as many calls at a time as the run; it takes a tenth of its time."""
        options, seconds = self.output.plan.options, _RAW_SHARE * run.seconds
        return raw_images_per_second(
            self.work.embedder.bundle,
            batch=options.batch,
            calls=self.threads,
            provider=options.provider,
            seconds=min(max(seconds, _RAW_SHORTEST_S), _RAW_LONGEST_S),
        )


def prepare(request: Request, environment: Mapping[str, str] = os.environ) -> Job:
    """Check everything that can be wrong, and take the output folder.

    Raises:
        BundleError: an unusable bundle.
        ConfigError: options that do not go together, a missing package, or an output folder that was begun otherwise.
        DataError: a source that is missing or damaged, or an output folder that cannot be written.
        ModelNotFoundError: photographs, and no detector.
    """
    require_pyarrow()
    rank = rank_of(request.rank, request.world_size, environment)
    threads = request.threads or default_threads(environment)
    embedder = Embedder(load_bundle(request.bundle), threads=1, provider=request.provider)
    detector = None if request.aligned else Detector(request.detector, request.score_threshold)
    sources = read_sources(request.sources, format=request.from_format, root=request.root)
    plan = Plan(
        model_id=embedder.model_id,
        embedding_dim=embedder.dim,
        sources=planned(sources),
        options=_options(request, detector),
    )
    output = open_output(request.output, plan)
    reader = FaceReader(embedder.preprocessing.template, detector, request.faces)
    work = BatchEmbedder(sources, reader, embedder, stop_at_failure=request.stop_at_failure)
    return Job(work, output, rank, threads)


def _options(request: Request, detector: Detector | None) -> Options:
    return Options(
        aligned=request.aligned,
        faces=None if detector is None else request.faces,
        detector_sha256=None if detector is None else hashlib.sha256(detector.model.read_bytes()).hexdigest(),
        score_threshold=None if detector is None else request.score_threshold,
        batch=request.batch or _BATCH[request.provider],
        provider=request.provider,
        part_pictures=request.part_pictures,
        to_format=request.to_format,
        dtype=request.dtype,
    )
