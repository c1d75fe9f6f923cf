"""The whole path on real photographs over HTTP: serve a trained bundle, verify pairs, enrol twenty people, search.

The bundle is `$FACEMARGIN_TEST_BUNDLE`, or one trained here for half a minute on people of CelebA. The people of the
test are LFW's; the bundle trained here has never seen them.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from facemargin.bundle import Bundle, load_bundle
from training.align import align_folder
from training.calibration import calibrate_bundle
from training.config import make_config
from training.demo.service_process import ServiceProcess, call
from training.publish import publish
from training.trainer import train

ENROLLED = 20
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def detector(shared_data: Path) -> Path:
    return shared_data / "models" / "yunet_n_dynamic.onnx"


@pytest.fixture(scope="module")
def trained(shared_data: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    given = os.environ.get("FACEMARGIN_TEST_BUNDLE")
    if given:
        return load_bundle(given)
    root = tmp_path_factory.mktemp("trained")
    for part, chosen in (("train", slice(0, 90)), ("others", slice(170, 200))):
        (root / f"{part}-photos").mkdir()
        for person in sorted((shared_data / "celeba" / "images").iterdir())[chosen]:
            (root / f"{part}-photos" / person.name).symlink_to(person)
        align_folder(root / f"{part}-photos", root / part, detector=detector, workers=1)
    config = make_config(
        {
            "output": root / "run",
            "epochs": 5,
            "batch_size": 32,
            "data": {"folders": [root / "train"], "workers": 0},
            "preprocessing": {"size": [48, 48]},
            "backbone": {"name": "iresnet18", "width": 0.25, "embedding_dim": 64},
            "heads": {"am-softmax": {"scale": 20.0, "margin": 0.2}},
        },
        "test",
    )
    train(config, console=QUIET)
    bundle = publish(root / "run", root / "bundle", flip_sum=True)
    return calibrate_bundle(bundle, root / "others", aligned=True, source="CelebA people kept apart", console=QUIET)


@pytest.fixture(scope="module")
def people(shared_data: Path) -> list[list[Path]]:
    """Twice as many LFW people as are enrolled, two photographs each, spread over the alphabet."""
    folders = [f for f in sorted((shared_data / "lfw" / "images").iterdir()) if len(list(f.iterdir())) in (2, 3)]
    chosen = folders[:: len(folders) // (2 * ENROLLED)][: 2 * ENROLLED]
    return [sorted(folder.iterdir())[:2] for folder in chosen]


def test_verify_enrol_and_search_on_photographs(
    trained: Bundle, detector: Path, people: list[list[Path]], tmp_path: Path
) -> None:
    with ServiceProcess(trained.path, tmp_path / "store", tmp_path / "service.log", detector=detector) as service:
        largest = {"face": "largest"}

        def verify(first: Path, second: Path) -> dict[str, Any]:
            fields = largest | {"max_fmr": "0.01"}
            return call(
                "POST", f"{service.url}/v1/verify", files={"image_a": first, "image_b": second}, fields=fields
            ).reply  # fmt: skip

        same = [verify(first, second) for first, second in people[:ENROLLED]]
        different = [verify(people[k][0], people[k + 1][0]) for k in range(ENROLLED)]
        genuine, impostor = (np.array([reply["similarity"] for reply in replies]) for replies in (same, different))
        assert genuine.mean() > impostor.mean() + 3 * impostor.std() / ENROLLED**0.5
        for reply in same + different:
            assert reply["match"] == (reply["similarity"] >= reply["threshold"])
            assert reply["model"] == trained.model_id

        gallery = f"{service.url}/v1/collections/lfw"
        call("PUT", gallery)
        for first, _ in people[:ENROLLED]:
            person = call("POST", f"{gallery}/people", body={"name": first.parent.name}).reply["id"]
            call("POST", f"{gallery}/people/{person}/faces", files={"image": first}, fields=largest)
        names = {person["name"] for person in call("GET", f"{gallery}/people?limit=100").reply["people"]}
        assert names == {first.parent.name for first, _ in people[:ENROLLED]}

        def best(probe: Path) -> str:
            fields = largest | {"threshold": "-1", "limit": "1"}
            found = call("POST", f"{gallery}/search", files={"image": probe}, fields=fields).reply["candidates"]
            return str(found[0]["person"]["name"])

        first_photographs = [best(first) == first.parent.name for first, _ in people[:ENROLLED]]
        others = [best(second) == second.parent.name for _, second in people[:ENROLLED]]
        assert all(first_photographs)
        assert sum(others) >= 4  # chance is one of twenty; the bundle trained here finds more than four
        print(
            f"same {genuine.mean():.3f}, different {impostor.mean():.3f}; matches at FMR 1e-2: "
            f"{sum(r['match'] for r in same)} and {sum(r['match'] for r in different)} of {ENROLLED}; "
            f"rank 1: {sum(others)} of {ENROLLED}"
        )
