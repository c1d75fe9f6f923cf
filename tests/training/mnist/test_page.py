"""The page of a recipe: its table, a panel a head where there are planes, nothing outside it."""

import numpy as np

from training.mnist.page import mnist_page
from training.mnist.picture import Plane
from training.mnist.report import MnistResult
from training.report.page import render


def made_up(head: str, seed: int, errors: int) -> MnistResult:
    return MnistResult(
        recipe="mnist-2d", form="short", head=head, seed=seed, steps=600, measured_on="test", images=1000,
        errors=errors, error=errors / 1000, mean_angle_rad=0.2, first_loss=2.0, last_loss=0.125, seconds=60.0,
        hardware="a drawn machine", settings={"width": 8},
    )  # fmt: skip


def test_the_page_has_the_table_and_a_panel_a_head() -> None:
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((50, 2)).astype(np.float32)
    plane = Plane(embeddings, random.integers(0, 10, 50, dtype=np.uint8), embeddings[:10], "error 3 %")
    results = [made_up("softmax", 0, 31), made_up("softmax", 1, 33), made_up("<b>", 0, 42)]
    page = render(mnist_page(results, {"softmax": plane, "<b>": plane}, command="facemargin compare"))
    for figure in ("3.20 ± 0.14", "3.10–3.30", "4.20", "softmax has the lowest mean error of 2 heads, 3.20%"):
        assert figure in page
    for text in ("a drawn machine", "facemargin compare", "600 steps, 1,000 test images", "&lt;b&gt;: error 3 %"):
        assert text in page
    assert "<b>" not in page
    assert "://" not in page
    assert page.count('role="img"') == page.count("data:image/png;base64,") == 2


def test_a_recipe_without_planes_has_no_pictures() -> None:
    page = render(mnist_page([made_up("softmax", 0, 31)], {}))
    assert "<svg" not in page
    assert "<figure" not in page
