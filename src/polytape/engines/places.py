"""Where in a program something is called: the Keras layer, and the line of the user's own code."""

import functools
import gc
import itertools
import linecache
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import keras

_PACKAGES = (
    "keras",
    "tensorflow",
    "jax",
    "jaxlib",
    "torch",
    "numpy",
    "optree",
    "polytape",
    "_pytest",
)
_OURS = Path(__file__).resolve().parents[1]
_ENDS = {str(_OURS / "explaining.py"), str(_OURS / "training" / "explained.py")}


LONGEST = 80  # of a line that is shown


T = TypeVar("T")


class Line(NamedTuple):
    """A line of source code."""

    file: str
    number: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        return f"{Path(self.file).name}:{self.number}" + f": {text}" * bool(text)


@dataclass(frozen=True)
class Place:
    """Where an operation is called.

    layer  path of the innermost Keras layer, "" outside of all
    line   the innermost that is neither polytape's nor a library's, if there is one
    """

    layer: str = ""
    line: Line | None = None


def here(frame: FrameType | None = None) -> Place:
    """The place of what runs now.

    frame  the innermost that may count; None: that of the caller
    """
    layer, line = "", None
    frame = frame or sys._getframe(1)
    while frame is not None and not _ends(frame.f_code.co_filename):
        code = frame.f_code
        if not layer and code.co_name in ("call", "__call__"):
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.layers.Layer) and not is_ours(type(owner)):
                layer = path_of_layer(owner)
        if line is None and not of_library(code.co_filename):
            line = Line(code.co_filename, frame.f_lineno)
        if layer and line is not None:
            break
        frame = frame.f_back
    return Place(layer, line)


def is_ours(kind: type) -> bool:
    """Whether a class is one of polytape's own, which users have not written."""
    return kind.__module__.partition(".")[0] == "polytape"


def path_of_layer(layer: keras.layers.Layer) -> str:
    """The path of a layer, or its name before it has one."""
    return str(getattr(layer, "path", None) or layer.name)


def own_line(lines: Iterable[tuple[str, int]]) -> Line | None:
    """The first of some lines, innermost first, that is neither polytape's nor a library's."""
    inside = itertools.takewhile(lambda pair: not _ends(pair[0]), lines)
    found = next((pair for pair in inside if not of_library(pair[0])), None)
    return None if found is None else Line(*found)


def line_of(frame: FrameType | None) -> Line | None:
    """The line of a frame, or of the nearest around it that is neither polytape's nor a library's.

    Not of code that a compiler of the framework has written: see `own_line`.
    """
    while frame is not None and of_library(frame.f_code.co_filename):
        frame = frame.f_back
    return None if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)


def line_of_error(error: BaseException) -> Line | None:
    """The innermost line of the user's at which an error was raised."""
    frames = []
    step = error.__traceback__
    while step is not None:
        frames.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    return own_line(reversed(frames))


def living(kind: type[T]) -> list[T]:
    """Every object of a class, or of one below it, that Python keeps.

    Only the type of the others is looked at: asking who refers to an object (`gc.get_referrers`)
    makes extension modules walk through objects that they are still building, and crashes.
    """
    return [item for item in gc.get_objects() if issubclass(type(item), kind)]


def paths_of(values: Sequence[Any], trainable: bool = False) -> list[str]:
    """The path of the Keras variable that holds each array or variable of the framework; or "".

    trainable  whether only those that train are looked for
    """
    if not values:
        return []
    held = {
        id(vars(variable).get("_value")): str(variable.path)
        for variable in living(keras.Variable)
        if variable.trainable or not trainable
    }
    return [held.get(id(value), "") for value in values]


def of_losses(file: str) -> bool:
    """Whether a source file is one of Keras's losses."""
    return "/keras/src/losses/" in file or file.endswith("compile_utils.py")


@functools.cache
def of_library(file: str) -> bool:
    """Whether a source file belongs to Python, a framework or polytape."""
    if file.startswith("<"):
        return "frozen" in file or "internals" in file
    if "__autograph_generated_file" in file:
        return True
    installed = "site-packages" in file or "dist-packages" in file
    return file.startswith(_roots()) or (file.startswith(_standard()) and not installed)


def _ends(file: str) -> bool:
    """Whether a file is where an explanation begins: what called it is no part of the program."""
    return file in _ENDS


def _roots() -> tuple[str, ...]:
    modules = (sys.modules.get(name) for name in _PACKAGES)
    files = (getattr(module, "__file__", None) for module in modules)
    return tuple(str(Path(file).resolve().parent) + "/" for file in files if file)


def _standard() -> str:
    return sysconfig.get_paths()["stdlib"]
