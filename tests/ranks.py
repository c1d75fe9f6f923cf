"""Runs cases on several processes of torch.distributed: ``python ranks.py FILE.py:CASES FOLDER 1 2 3 4``.

CASES is a dict in the file: names, and functions of a `World` that raise where something is wrong. Worlds of each size
run all of them in turn; they are forked from one process, so that torch is imported once. FOLDER/outcomes.json says for
each size and case what each rank has to say: ``"passed"``, a traceback, or ``"not run"`` after a case that failed.
"""

import importlib.util
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist

TIMEOUT = timedelta(seconds=300)  # of one message: ranks may wait long for each other on a busy machine
LIMIT = timedelta(seconds=900)  # of one world


class World(NamedTuple):
    rank: int
    ranks: int
    folder: Path
    """One for all cases and worlds of a run."""


Case = Callable[[World], None]


def load_cases(place: str) -> dict[str, Case]:
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def run_rank(cases: dict[str, Case], world: World) -> None:
    outcome = {}
    store = f"file://{world.folder}/store-{world.ranks}"
    dist.init_process_group("gloo", store, rank=world.rank, world_size=world.ranks, timeout=TIMEOUT)
    try:
        for name, case in cases.items():
            outcome[name] = "passed"
            case(world)
    except BaseException:
        outcome[name] = traceback.format_exc()
        raise
    finally:
        (world.folder / f"outcome-{world.ranks}-{world.rank}.json").write_text(json.dumps(outcome))
    dist.destroy_process_group()


def run_world(cases: dict[str, Case], ranks: int, folder: Path) -> dict[str, list[str]]:
    (folder / f"store-{ranks}").unlink(missing_ok=True)  # of an earlier run: addresses of processes that are gone
    context = multiprocessing.get_context("fork")
    worlds = [World(rank, ranks, folder) for rank in range(ranks)]
    processes = [context.Process(target=run_rank, args=(cases, world)) for world in worlds]
    for process in processes:
        process.start()
    end = time.monotonic() + LIMIT.total_seconds()
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():  # its cases are told as not run
            process.kill()
            process.join()
    files = [folder / f"outcome-{ranks}-{rank}.json" for rank in range(ranks)]
    told = [json.loads(file.read_text()) if file.exists() else {} for file in files]
    return {name: [outcome.get(name, "not run") for outcome in told] for name in cases}


def main() -> None:
    importlib.import_module("torch._dynamo")  # optimizers do so when they are made: once is enough for all processes
    cases, folder = load_cases(sys.argv[1]), Path(sys.argv[2])
    outcomes = {ranks: run_world(cases, int(ranks), folder) for ranks in sys.argv[3:]}
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
