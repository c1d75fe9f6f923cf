"""``facemargin demo``: the whole path once, from drawn faces (or a folder of photographs) to answers over HTTP."""

from training.demo.story import run_demo

__all__ = ["run_demo"]
