"""Makes `tests/` importable, and skips on NumPy what needs a framework that differentiates."""

from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
ENGINE_FOLDERS = ("engines", "training", "examples")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engine: needs gradients, hence TensorFlow, JAX or PyTorch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if keras.backend.backend() != "numpy":
        return
    skip = pytest.mark.skip(reason="NumPy does not differentiate")
    for item in items:
        inside = HERE in item.path.parents and item.path.relative_to(HERE).parts[0]
        if inside in ENGINE_FOLDERS or item.get_closest_marker("engine"):
            item.add_marker(skip)
