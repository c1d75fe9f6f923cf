"""One batch: its pictures are read one after the other, then go through the network together.

On a CPU a worker is one core that does both, batch after batch. Reading and network need the same cores, so threads of
their own for each would only wait for one another, and a call on each core embeds as much as one call on all of them
(`training.bench.embed` measures both). Every core is busy as long as there are batches, and what a batch gives depends
on its pictures alone, not on who worked when.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from facemargin.embedder import Embedder
from facemargin.errors import DataError, FaceCountError, ImageError
from facemargin.preprocessing import Face
from facemargin.preprocessing.normalise import resized
from facemargin.preprocessing.quality import Quality
from training.bulk.reading import FaceReader, Failure, is_of_the_machine, reason_of, status_of
from training.bulk.sources import Sources


@dataclass(frozen=True, eq=False)
class FaceRow:
    """One embedded face, without its vector and its pixels: rows wait for the last batch of their part.

    Attributes:
        source, key, person: as in `Failure`.
        number, of, face, quality: as in `Found`.
    """

    source: str
    key: str
    person: str | None
    number: int
    of: int | None
    face: Face | None
    quality: Quality


@dataclass(eq=False)
class Batch:
    """What came of some pictures.

    Attributes:
        vectors: float32 (N, D), of the faces.
        pictures: that were looked at.
        faces: N faces, in the order of the pictures.
        failures: the pictures without one.
        reading_s: seconds until all crops were there.
        network_s: seconds until all vectors were there.
    """

    vectors: NDArray[np.float32]
    pictures: int = 0
    faces: list[FaceRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reading_s: float = 0.0
    network_s: float = 0.0


@dataclass(frozen=True, eq=False)
class BatchEmbedder:
    """Makes batches; any number of threads may use it at once.

    Attributes:
        sources: the pictures.
        reader: picture -> crops.
        embedder: crops -> vectors, by one thread a call.
        stop_at_failure: a picture without a face is an error.
    """

    sources: Sources
    reader: FaceReader
    embedder: Embedder
    stop_at_failure: bool = False

    def __call__(self, rows: range) -> Batch:
        """Read and embed the pictures of these rows.

        Raises:
            DataError: a file that the machine fails to read, or, where that is to stop the run, a picture without an
                embedding.
            BundleError: the network fails.
        """
        batch = Batch(np.empty((0, self.embedder.dim), dtype=np.float32), len(rows))
        started = time.perf_counter()
        crops = [crop for row in rows for crop in self._read(row, batch)]
        read = time.perf_counter()
        if crops:
            batch.vectors = self.embedder.embed(np.stack(crops))
        batch.reading_s, batch.network_s = read - started, time.perf_counter() - read
        return batch

    def _read(self, row: int, batch: Batch) -> list[NDArray[np.uint8]]:
        """The crops of a picture, of the network's size; what is known of them, or of their lack, goes to the batch."""
        source, own = self.sources.place(row)
        key, person = source.key(own), source.person(own)
        try:
            found = self.reader.read(self.sources.picture(row))
        except (DataError, ImageError, FaceCountError) as error:
            if is_of_the_machine(error):
                raise DataError(f"{reason_of(error)}; run the same command again when it can be read") from error
            if self.stop_at_failure:
                raise DataError(
                    f"{source.name}, {key}: {reason_of(error)}; --on-error record notes such pictures and goes on"
                ) from error
            status, reason = status_of(error), reason_of(error)
            batch.failures.append(Failure(source=source.name, key=key, person=person, status=status, reason=reason))
            return []
        batch.faces += [FaceRow(source.name, key, person, one.number, one.of, one.face, one.quality) for one in found]
        return [resized(one.crop, self.embedder.preprocessing.size) for one in found]
