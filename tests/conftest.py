"""Keeps together what shares compiled functions, and skips on NumPy what needs a framework that
differentiates."""

import gc
from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
ENGINE_FOLDERS = ("engines", "training", "examples", "recipes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engine: needs gradients, hence TensorFlow, JAX or PyTorch")
    config.addinivalue_line("markers", "bits: the same bits as Keras, with XLA's own settings")


def pytest_collection_finish() -> None:
    """Tracing makes so many objects that the collector would walk through all modules again and
    again: they are left out."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    # The many small groups of the laws come last, so that all processes end at about the same time.
    items.sort(key=lambda item: HERE / "laws" in item.path.parents)
    if keras.backend.backend() != "numpy":
        return
    skip = pytest.mark.skip(reason="NumPy does not differentiate")
    for item in items:
        inside = HERE in item.path.parents and item.path.relative_to(HERE).parts[0]
        if inside in ENGINE_FOLDERS or item.get_closest_marker("engine"):
            item.add_marker(skip)


def _group(item: pytest.Item) -> str:
    """Tests of one group run in one process: those of a file, and in `laws/` those of a method.

    Those that compare bits share nothing, and each is a group.
    """
    if item.get_closest_marker("bits"):
        return item.nodeid
    if HERE / "laws" in item.path.parents and isinstance(item, pytest.Function):
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        return str(name or item.path)
    return str(item.path)
