"""IJB's templates: many faces of a person pooled into one vector, compared (1:1) and searched for (1:N).

**Pooling.** Of a template with the media M, and the faces F_k of media k in M with unit embeddings x_f and weights w_f:
m_k = (1/|F_k|) Σ_{f in F_k} w_f x_f, and the template is t = Σ_k m_k / ‖Σ_k m_k‖. So a video with a thousand frames
weighs as much as one photograph. Weights are 1, or the detector's scores; then doubtful faces, and media that hold only
such, weigh less (which is what InsightFace's evaluation does; it also keeps the length of the network's output as a
weight, which embeddings of unit length do not have).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from facemargin.errors import DataError
from facemargin.metrics import cmc, eer, fnir_at_fpir, identify, tar_at_far
from training.all_pairs import tar_over_people
from training.crops import CropReader, Embed, LandmarkReader, Reader
from training.data.protocols.ijb import Enrolled, Faces, Ids, TemplatePairs, TemplateSearch
from training.data.protocols.source import SHOWN, OnProblem
from training.embedded import embed_readable
from training.evaluation_report import TarRow
from training.template_report import FnirRow, GalleryRow, PooledFaces, TemplatePairsReport, TemplateSearchReport

TEMPLATE_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FPIRS = (1e-1, 1e-2)
RANKS = (1, 5, 10)
_PAIRS_AT_ONCE = 65_536  # 65,536 x 512 float32 twice: 256 MB


@dataclass(frozen=True, eq=False)
class Templates:
    """Pooled templates.

    Attributes:
        ids: int64 (T,), ascending.
        vectors: float32 (T, D), unit rows.
    """

    ids: Ids
    vectors: NDArray[np.float32]

    def rows(self, templates: Ids) -> Ids:
        """The row of each template; -1 where there is none."""
        places = np.minimum(np.searchsorted(self.ids, templates), len(self.ids) - 1)
        return np.where(self.ids[places] == templates, places, -1)


def pool_templates(
    vectors: NDArray[np.floating[Any]],
    template: Ids,
    media: Ids,
    *,
    weights: NDArray[np.floating[Any]] | None = None,
) -> Templates:
    """Pool faces into templates by the formula of this module.

    Args:
        vectors: (N, D) unit rows.
        template: (N,) template of each face.
        media: (N,) media of each face; two templates may use the same numbers.
        weights: (N,), not negative; None weighs every face 1.

    Raises:
        ValueError: arguments of other lengths, no face, or weights that are negative or not finite.
        DataError: a template whose weights are all 0, or whose faces cancel.

    >>> import numpy as np
    >>> faces = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)  # two frames of one video, and a photograph
    >>> pool_templates(faces, np.array([7, 7, 7]), np.array([1, 1, 2])).vectors.round(3).tolist()
    [[0.7070000171661377, 0.7070000171661377]]
    """
    count = len(vectors)
    weight = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if not count or not (template.shape == media.shape == weight.shape == (count,)):
        raise ValueError(
            f"template, media and weights must have one entry for each of the {count} vectors (at least one), got "
            f"{template.shape}, {media.shape} and {weight.shape}"
        )
    if not np.isfinite(weight).all() or weight.min() < 0:
        raise ValueError("weights must be finite and not negative")
    ids, row = np.unique(template, return_inverse=True)
    _, group = np.unique(np.stack([template, media]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    share = weight / np.bincount(group)[group]
    pooling: Any = csr_array((share.astype(np.float32), (row, np.arange(count))), shape=(ids.size, count))
    pooled: NDArray[np.float32] = pooling @ np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(pooled, axis=1)
    if norms.min() < 1e-6:
        raise DataError(f"template {ids[norms.argmin()]} has no direction: its weights are 0, or its faces cancel")
    return Templates(ids.astype(np.int64), pooled / norms[:, None])


def template_similarities(templates: Templates, first: Ids, second: Ids) -> NDArray[np.float32]:
    """Cosine of every pair of rows, float32 (P,), in blocks: 15.7 million pairs never stand beside each other."""
    similarity = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        np.einsum("pd,pd->p", templates.vectors[first[block]], templates.vectors[second[block]], out=similarity[block])
    return similarity


def evaluate_template_pairs(
    embed: Embed,
    protocol: TemplatePairs,
    *,
    template: str = "arcface-112",
    flip_sum: bool = False,
    score_weights: bool = False,
    fars: Sequence[float] = TEMPLATE_FARS,
    on_bad: OnProblem = "fail",
    skip_missing: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    console: Console | None = None,
) -> TemplatePairsReport:
    """IJB 1:1: TAR at FAR 1e-6 … 1e-1 over pairs of templates.

    Intervals resample groups of templates that genuine pairs link (subjects, as far as the pairs tell), the threshold
    held; how sure the threshold is, the number of impostor errors tells.

    Args:
        embed: aligned crops -> unit embeddings.
        protocol: faces and pairs.
        template: alignment template of the model.
        flip_sum: whether `embed` sums the crop and its mirror image; only recorded.
        score_weights: faces weigh as the detector scored them.
        fars: FMRs of the rows.
        on_bad: what faces do whose picture cannot be read.
        skip_missing: pairs of a template without a face are left out and counted, instead of ending the evaluation.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        console: where progress is drawn; default stderr.

    Raises:
        DataError: pictures that cannot be read, templates without a face, or pairs of one kind only.
    """
    templates, faces = _pooled(
        embed, protocol.faces, template=template, score_weights=score_weights, on_bad=on_bad, console=console
    )
    first, second = templates.rows(protocol.first), templates.rows(protocol.second)
    there = (first >= 0) & (second >= 0)
    empty = np.unique(np.concatenate([protocol.first[first < 0], protocol.second[second < 0]]))
    _refuse_empty(empty, skip_missing or on_bad == "skip")
    first, second, same = first[there], second[there], protocol.same[there]
    if not same.any() or same.all():
        raise DataError(f"{protocol.name} has {same.sum()} genuine and {(~same).sum()} impostor pairs; it needs both")
    similarity = template_similarities(templates, first, second)
    genuine, impostor = similarity[same], similarity[~same]
    persons = _by_person(len(templates.ids), first[same], second[same], genuine)
    found = [tar_at_far(genuine, impostor, far) for far in fars]
    return TemplatePairsReport(
        protocol=protocol.name,
        faces=faces,
        flip_sum=flip_sum,
        templates=int(np.unique(np.concatenate([first, second])).size),
        templates_without_faces=tuple(int(k) for k in empty),
        pairs_left_out=int(np.count_nonzero(~there)),
        duplicate_pairs=_duplicates(first, second, len(templates.ids)),
        people=len(persons),
        genuine_pairs=genuine.size,
        impostor_pairs=impostor.size,
        eer=eer(genuine, impostor),
        rows=tuple(TarRow.of(tar, tar_over_people(tar, persons, resamples=resamples, seed=seed)) for tar in found),
        resamples=resamples,
    )


def evaluate_template_search(
    embed: Embed,
    protocol: TemplateSearch,
    *,
    template: str = "arcface-112",
    flip_sum: bool = False,
    score_weights: bool = False,
    on_bad: OnProblem = "fail",
    skip_missing: bool = False,
    console: Console | None = None,
) -> TemplateSearchReport:
    """IJB 1:N: rank-k of the probes whose subject is in the gallery, FNIR@FPIR with the others as strangers.

    Every probe is searched in every gallery; figures are those of each gallery, and their mean over the galleries.

    Args:
        embed, template, flip_sum, score_weights, on_bad, console: as in `evaluate_template_pairs`.
        protocol: faces, galleries and probes.
        skip_missing: templates without a face are left out and counted, instead of ending the evaluation.

    Raises:
        DataError: pictures that cannot be read, templates without a face, or a gallery without a mated probe or
            without a stranger.
    """
    templates, faces = _pooled(
        embed, protocol.faces, template=template, score_weights=score_weights, on_bad=on_bad, console=console
    )
    everything = np.concatenate([*(gallery.templates for gallery in protocol.galleries), protocol.probes.templates])
    empty = np.unique(everything[templates.rows(everything) < 0])
    _refuse_empty(empty, skip_missing or on_bad == "skip")
    probes = _present(protocol.probes, templates)
    enrolled = np.unique(np.concatenate([gallery.subjects for gallery in protocol.galleries]))
    rows = tuple(_gallery(_present(gallery, templates), probes, templates) for gallery in protocol.galleries)
    return TemplateSearchReport(
        protocol=protocol.name,
        faces=faces,
        flip_sum=flip_sum,
        templates_without_faces=tuple(int(k) for k in empty),
        probes=len(probes.templates),
        probes_without_mate=int(np.count_nonzero(~np.isin(probes.subjects, enrolled))),
        galleries=rows,
    )


def _gallery(gallery: Enrolled, probes: Enrolled, templates: Templates) -> GalleryRow:
    found = identify(
        templates.vectors[templates.rows(gallery.templates)],
        [str(subject) for subject in gallery.subjects],
        probes=templates.vectors[templates.rows(probes.templates)],
        probe_people=[str(subject) for subject in probes.subjects],
    )
    if not found.mated_scores.size or not found.nonmated_scores.size:
        raise DataError(
            f"gallery {gallery.name} has {found.mated_scores.size} probes with a mate and "
            f"{found.nonmated_scores.size} strangers; an evaluation needs both"
        )
    curve = cmc(found, ranks=max(RANKS))
    return GalleryRow(
        name=gallery.name,
        subjects=found.gallery_people,
        mated=found.mated_scores.size,
        strangers=found.nonmated_scores.size,
        ranks={rank: float(curve[rank - 1]) for rank in RANKS},
        fnir=tuple(FnirRow.of(fnir_at_fpir(found, fpir)) for fpir in FPIRS),
    )


def _pooled(
    embed: Embed,
    faces: Faces,
    *,
    template: str,
    score_weights: bool,
    on_bad: OnProblem,
    console: Console | None,
) -> tuple[Templates, PooledFaces]:
    """Embed every face and pool those that could be read."""
    found = embed_readable(embed, faces.pictures, _reader(faces, template), on_bad=on_bad, console=console)
    kept = found.acquired
    templates = pool_templates(
        found.vectors[kept],
        faces.template[kept],
        faces.media[kept],
        weights=faces.score[kept] if score_weights else None,
    )
    media = np.unique(np.stack([faces.template[kept], faces.media[kept]]), axis=1).shape[1]
    return templates, PooledFaces(
        faces=int(np.count_nonzero(kept)),
        media=media,
        templates=len(templates.ids),
        aligned=faces.aligned,
        score_weights=score_weights,
        missing=faces.missing,
        unreadable={faces.pictures[k].name: why for k, why in found.unreadable.items()},
    )


def _reader(faces: Faces, template: str) -> Reader:
    if faces.aligned:
        return CropReader(template)
    names = (picture.name for picture in faces.pictures)
    return LandmarkReader(dict(zip(names, faces.landmarks, strict=True)), template)


def _present(enrolled: Enrolled, templates: Templates) -> Enrolled:
    there = templates.rows(enrolled.templates) >= 0
    return Enrolled(enrolled.name, enrolled.templates[there], enrolled.subjects[there])


def _refuse_empty(empty: Ids, skip: bool) -> None:
    if empty.size and not skip:
        raise DataError(
            f"{empty.size} templates of the protocol have no face: {', '.join(map(str, empty[:SHOWN]))}"
            f"{' …' if empty.size > SHOWN else ''}; --missing skip leaves them out"
        )


def _duplicates(first: Ids, second: Ids, templates: int) -> int:
    """Pairs that occurred before, whichever way round."""
    return first.size - np.unique(np.minimum(first, second) * templates + np.maximum(first, second)).size


def _by_person(templates: int, first: Ids, second: Ids, genuine: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Genuine cosines of each group of templates that genuine pairs link."""
    links = coo_array((np.ones(first.size), (first, second)), shape=(templates, templates))
    label = connected_components(links, directed=False)[1][first]
    order = np.argsort(label, kind="stable")
    return np.split(genuine[order], np.flatnonzero(np.diff(label[order])) + 1)
