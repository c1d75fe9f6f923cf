"""The commands of training: each parses, calls one library function, and prints. Heavy imports wait for the call."""

from training.cli.comparison import compare
from training.cli.datasets import data
from training.cli.demonstration import demo
from training.cli.measurement import calibrate, evaluate
from training.cli.runs import export, train

__all__ = ["calibrate", "compare", "data", "demo", "evaluate", "export", "train"]
