"""Where the files under deploy/ are."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The folder of what runs beside the service."""
    return Path(__file__).parents[2] / "deploy"
