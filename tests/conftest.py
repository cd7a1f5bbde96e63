"""Keeps together what shares compiled functions, skips on NumPy what needs a framework that
differentiates, and trains eagerly where that is the quicker way to see how it behaves."""

import functools
import gc
import signal
import threading
from pathlib import Path, PurePosixPath
from typing import Any

import keras
import pytest

import polytape as pt
from shares import MARKS, backends

HERE = Path(__file__).parent
BACKEND = keras.backend.backend()
ENGINE_FOLDERS = ("engines", "training", "examples", "recipes")
MORE_MARKS = {
    "bits": "the same bits as Keras, with XLA's own settings",
    "compiled": "compiled as users have it; on TensorFlow others train eagerly",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "only what tests/helpers/shares.py gives to this backend"
    parser.addoption("--share", action="store_true", help=help)


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts tests in the background lets them, and what they start, ignore Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, meaning in {**MARKS, **MORE_MARKS}.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    # Of the plug-in xdist, which runs a group in one process; without it, no group matters.
    config.addinivalue_line("markers", "xdist_group(name): what shares compiled functions")


def pytest_collection_finish() -> None:
    """Tracing makes so many objects that the collector would walk through all modules again and
    again: they are left out."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("share"):
        own = [item for item in items if BACKEND in backends(_place(item), _marks(item))]
        config.hook.pytest_deselected(items=[item for item in items if item not in {*own}])
        items[:] = own
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    # The many small groups of the laws come last, so that all processes end at about the same time.
    items.sort(key=lambda item: HERE / "laws" in item.path.parents)
    if BACKEND != "numpy":
        return
    skip = pytest.mark.skip(reason="NumPy does not differentiate")
    for item in items:
        inside = _place(item).parts[0] in ENGINE_FOLDERS
        if inside or item.get_closest_marker("engine"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow takes longer to trace and compile a step than to take a few of them eagerly.

    Left alone is a test marked `compiled` or `bits`, and a call of `compile` that says itself how
    the step is to run. `training/test_compiled_is_eager.py` has that the steps are equal.
    """
    if BACKEND != "tensorflow" or _marks(request.node) & {"compiled", "bits"}:
        return
    original = pt.Model.compile

    @functools.wraps(original)
    def compile(self: pt.Model, *args: Any, **settings: Any) -> None:
        if not {"run_eagerly", "jit_compile"} & settings.keys():
            settings["run_eagerly"] = True
        original(self, *args, **settings)

    monkeypatch.setattr(pt.Model, "compile", compile)


def _place(item: pytest.Item) -> PurePosixPath:
    inside = HERE in item.path.parents
    return PurePosixPath(item.path.relative_to(HERE).as_posix() if inside else item.path.name)


def _marks(item: pytest.Item) -> set[str]:
    return {mark.name for mark in item.iter_markers()}


def _group(item: pytest.Item) -> str:
    """Tests of one group run in one process: those of a file, and in `laws/` those of a method.

    Those that compare bits share nothing, and each is a group.
    """
    if item.get_closest_marker("bits"):
        return item.nodeid
    if HERE / "laws" in item.path.parents and isinstance(item, pytest.Function):
        settings = getattr(getattr(item, "callspec", None), "params", {})
        name = settings.get("name") or str(settings.get("case", "")).split(" ")[0]
        return str(name or item.path)
    return str(item.path)
