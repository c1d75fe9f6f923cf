"""Face-recognition metric learning: margin softmax heads, evaluation, bundles and search.

The library knows nothing of training runs (package ``training``) or HTTP (package ``service``).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("facemargin")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
