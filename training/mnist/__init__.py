"""MNIST recipes: the L-Softmax paper's table, and the papers' picture of embeddings in a plane."""

from training.data.idx import read_idx, write_idx
from training.mnist.digits import Digits, Mnist, read_mnist
from training.mnist.recipe import PUBLISHED_ERROR, RECIPES, HeadChoice, Recipe, parse_head
from training.mnist.report import MnistResult, results_markdown, results_table
from training.mnist.runs import run_recipe

__all__ = [
    "PUBLISHED_ERROR",
    "RECIPES",
    "Digits",
    "HeadChoice",
    "Mnist",
    "MnistResult",
    "Recipe",
    "parse_head",
    "read_idx",
    "read_mnist",
    "results_markdown",
    "results_table",
    "run_recipe",
    "write_idx",
]
