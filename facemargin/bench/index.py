"""Search of large galleries beside FAISS alone: ``python -m facemargin.bench.index``.

Every contender holds the same vectors at the same time, and in each repetition all take their turns, one query at a
time, so that a busy machine slows all of them. What they find is compared with an exact search by matrix products.
"""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from facemargin.bench.galleries import FaceGallery, Gallery, RandomGallery, embed_folders, oracle
from facemargin.bench.index_page import table_of, write_page
from facemargin.bench.index_peers import Contender, HnswPeer, Segmented, contenders
from facemargin.bench.index_timing import CHANGES_A_SECOND, K, Measured, changes, recall_of
from facemargin.bench.machine import describe_cpu, resident_bytes
from facemargin.errors import FacemarginError
from facemargin.index.faiss_library import load_faiss
from facemargin.index.segmented import RERANK_FACTOR, RERANK_MORE

DEPTHS = (5, 6, 8, 10, 12, 16, 26)
"""Numbers of candidates ranked in float32, whose recall is told; the last is what the index takes for k = 5."""
EFS = (16, 32, 64, 128, 256, 512, 1024, 2048)
TARGET_RECALL = 0.998
HNSW_MOST = 200_000


class Bench:
    """One gallery of one size."""

    def __init__(self, gallery: Gallery, count: int) -> None:
        self.gallery, self.count = gallery, count
        self.exact = oracle(gallery, count, K)
        self.contenders = contenders(gallery.dim, count, hnsw_most=HNSW_MOST)
        self.rows: list[tuple[Contender, Measured]] = []
        costs = self._build()
        self.depths = self._depths()
        for contender, (seconds, size) in zip(self.contenders, costs, strict=True):
            if isinstance(contender, HnswPeer):
                self._choose_ef(contender)
            self.rows.append((contender, self._measured(contender, contender.name, seconds, size)))
        name = f"segmented, {CHANGES_A_SECOND} changes/s"
        self.rows.append((self.contenders[0], self._measured(self.contenders[0], name, *costs[0])))

    def repeat(self) -> None:
        """Time all of them once, in turn."""
        for contender, measured in self.rows:
            if "changes" in measured.name and isinstance(contender, Segmented):
                with changes(contender, self.gallery.queries, measured):
                    measured.time(contender, self.gallery.queries)
            else:
                measured.time(contender, self.gallery.queries)

    def results(self) -> dict[str, Any]:
        """For JSON."""
        oracle_rank1 = self._rank1(self.exact.ids)
        return {
            "gallery": self.gallery.name,
            "count": self.count,
            "exact_rank1": oracle_rank1,
            "recall_by_depth": self.depths,
            "rows": [asdict(measured) for _, measured in self.rows],
        }

    def _build(self) -> list[tuple[float, float]]:
        seconds, sizes = np.zeros(len(self.contenders)), np.zeros(len(self.contenders))
        for ids, vectors in self.gallery.blocks(self.count):
            for position, contender in enumerate(self.contenders):
                before, start = resident_bytes(), time.perf_counter()
                contender.add(ids, vectors)
                seconds[position] += time.perf_counter() - start
                sizes[position] += resident_bytes() - before
        return list(zip(seconds.tolist(), (sizes / self.count).tolist(), strict=True))

    def _depths(self) -> dict[str, float]:
        """Recall of the segmented index by the number of candidates that are ranked in float32."""
        ours = next(contender for contender in self.contenders if isinstance(contender, Segmented))
        found = {}
        for depth in DEPTHS:
            ours.index.rerank_factor, ours.index.rerank_more = 1, depth - K
            found[str(depth)] = recall_of(ours.search(self.gallery.queries, K).similarities, self.exact.similarities)
        ours.index.rerank_factor, ours.index.rerank_more = RERANK_FACTOR, RERANK_MORE
        return found

    def _choose_ef(self, peer: HnswPeer) -> None:
        """The smallest that reaches `TARGET_RECALL`, else the largest."""
        for ef in EFS:
            peer.set_ef(ef)
            if recall_of(peer.search(self.gallery.queries, K).similarities, self.exact.similarities) >= TARGET_RECALL:
                return

    def _measured(self, contender: Contender, name: str, seconds: float, size: float) -> Measured:
        found = contender.search(self.gallery.queries, K)
        recall = self._recall(contender, found.similarities, found.ids)
        return Measured(
            self.gallery.name, self.count, name, recall, self._rank1(found.ids), round(seconds, 2), round(size)
        )

    def _recall(self, contender: Contender, similarities: NDArray[np.float32], ids: NDArray[np.int64]) -> float:
        """By similarities where they are exact, by ids where they are of rounded codes."""
        if contender.name == "faiss SQ8":
            return float((ids[:, :, None] == self.exact.ids[:, None, :]).any(axis=2).mean())
        return recall_of(similarities, self.exact.similarities)

    def _rank1(self, ids: NDArray[np.int64]) -> float | None:
        people = self.gallery.people
        return None if people is None else float((self.gallery.person(ids[:, 0]) == people).mean())


def measure(galleries: list[Gallery], sizes: list[int], *, repeats: int, console: Console) -> dict[str, Any]:
    """Every gallery in every size; ready for JSON."""
    load, found = os.getloadavg()[0], []
    for count in sizes:
        for gallery in galleries:
            console.print(f"{gallery.name}: {count:,} vectors")
            bench = Bench(gallery, count)
            for _ in range(repeats):
                bench.repeat()
            found.append(bench.results())
    version = load_faiss().__version__
    return {
        "machine": {"hardware": f"{describe_cpu()}, faiss {version}", "load": round(load, 1)},
        "settings": {"dim": galleries[0].dim, "repeats": repeats, "k": K},
        "galleries": {g.name: {"made": g.made, "queries": len(g.queries)} for g in galleries},
        "results": found,
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    images: Annotated[list[Path] | None, typer.Option(help="Aligned crops FOLDER/person/picture; repeat it.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Exported model that embeds them.")] = None,
    sizes: Annotated[list[int] | None, typer.Option(min=K, help="Vectors of a gallery; repeat it.")] = None,
    dim: Annotated[int, typer.Option(min=1, help="Length of the vectors.")] = 512,
    queries: Annotated[int, typer.Option(min=1, help="Queries of a repetition.")] = 300,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, the page beside it.")
    ] = None,
) -> None:
    """Time searches of large galleries, one query at a time; without --images and --bundle random ones only."""
    console = Console(stderr=True)
    try:
        galleries: list[Gallery] = [RandomGallery(dim, queries=queries)]
        if images and bundle is not None:
            galleries.insert(0, FaceGallery(embed_folders(images, bundle), dim, queries=queries))
        elif images or bundle is not None:
            raise typer.BadParameter("--images and --bundle go together")
        found = measure(galleries, sizes or [100_000, 1_000_000], repeats=repeats, console=console)
    except FacemarginError as error:
        console.print(f"error: {error}")
        raise typer.Exit(2) from error
    Console(width=150).print(table_of(found))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        write_page(found, json_file.with_suffix(".md"))


if __name__ == "__main__":
    app()
