"""Recipes: the full form is the paper's, the short one keeps its shape, and heads are read as they are written."""

import json
from dataclasses import replace

import pytest

from facemargin.errors import ConfigError
from facemargin.heads import HEADS, Annealing
from facemargin.heads.l_softmax import PAPER_ANNEALING
from training.mnist import PUBLISHED_ERROR, RECIPES, parse_head
from training.mnist.recipe import PAPER_STEPS, find_recipe

FULL = find_recipe("mnist", full=True)


@pytest.mark.parametrize(
    ("text", "name", "margin"),
    [("softmax", "softmax", None), ("l-softmax:2", "l-softmax", 2.0), (" a-softmax:1.35 ", "a-softmax", 1.35)],
)
def test_heads_are_read_with_their_margin(text: str, name: str, margin: float | None) -> None:
    choice = parse_head(text)
    assert (choice.name, choice.margin) == (name, margin)
    assert parse_head(choice.key) == choice


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sofmax", "'sofmax' is unknown; known heads: softmax, modified"),
        ("softmax:2", "softmax has no margin; write softmax"),
        ("l-softmax:", "a margin is written as in l-softmax:2"),
        ("l-softmax:two", "could not convert"),
        ("l-softmax:0.5", r"margin=0.5 is out of range"),
        ("a-softmax:nan", "margin=nan is out of range"),
        ("arcface:4", "margin=4.0 is out of range"),
    ],
)
def test_what_is_no_head_is_named(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_head(text)


def test_the_full_form_is_the_papers() -> None:
    assert (FULL.batch_size, FULL.steps, FULL.width, FULL.convolutions, FULL.embedding_dim) == (256, 20_000, 64, 3, 256)
    assert (FULL.momentum, FULL.weight_decay, FULL.clip_norm) == (0.9, 5e-4, None)
    rates = [FULL.rate(step) for step in (0, 11_999, 12_000, 14_999, 15_000, 19_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert FULL.annealing("l-softmax") == PAPER_ANNEALING
    assert FULL.annealing("softmax") is None
    assert PUBLISHED_ERROR == {"softmax": 0.0040, "l-softmax:2": 0.0032, "l-softmax:3": 0.0031, "l-softmax:4": 0.0031}
    assert FULL.heads == tuple(PUBLISHED_ERROR)


@pytest.mark.parametrize("steps", [50, 900, 100_000])
def test_a_run_of_another_length_keeps_its_shape(steps: int) -> None:
    other = replace(FULL, steps=steps)
    theirs, mine = FULL.annealing("l-softmax"), other.annealing("l-softmax")
    assert theirs is not None
    assert mine is not None
    for part in (0, 0.1, 0.4, 0.5, 0.7, 1):
        assert other.rate(round(part * steps)) == FULL.rate(round(part * PAPER_STEPS))
        assert mine.at(part * steps) == pytest.approx(theirs.at(part * PAPER_STEPS))


@pytest.mark.parametrize("key", RECIPES, ids=lambda key: f"{key[0]}-{'full' if key[1] else 'short'}")
def test_every_recipe_builds_every_head_and_says_all_about_it(key: tuple[str, bool]) -> None:
    recipe = RECIPES[key]
    assert set(recipe.head_options) <= set(HEADS)
    for name in (*HEADS, *recipe.heads):
        settings = recipe.settings(parse_head(name))
        assert settings["form"] == ("full" if key[1] else "short")
        assert json.loads(json.dumps(settings)) == settings
        assert parse_head(name).name == settings["head"]["name"]


def test_a_margin_that_is_asked_for_wins() -> None:
    assert FULL.build_head(parse_head("l-softmax:3")).options()["margin"] == 3.0
    assert FULL.build_head(parse_head("l-softmax")).options()["margin"] == 4.0


def test_a_schedule_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    never = Annealing(base=1000, gamma=0)
    monkeypatch.setattr(HEADS["a-softmax"], "annealing_for_run", classmethod(lambda cls, steps: never))
    with pytest.raises(ConfigError, match=r"a-softmax:2 in a run of 20000 steps: λ is still 1000"):
        FULL.build_head(parse_head("a-softmax:2"))


def test_unknown_recipes_and_lengths_are_named() -> None:
    with pytest.raises(ConfigError, match="'mnist-3d' is unknown; known recipes: mnist, mnist-2d"):
        find_recipe("mnist-3d", full=False)
    with pytest.raises(ConfigError, match="steps=0"):
        find_recipe("mnist", full=False, steps=0)
