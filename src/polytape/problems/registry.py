"""From a name, or from `file.py:function`, to a problem."""

import dataclasses
import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from polytape.contract import did_you_mean
from polytape.problems.problem import Problem


def _built_in() -> dict[str, Callable[[], Problem]]:
    from polytape.problems.multidigits import multidigits
    from polytape.problems.toy import toy

    return {"multidigits": multidigits, "toy": toy}


def names() -> list[str]:
    """The built-in problems.

    >>> names()
    ['multidigits', 'toy']
    """
    return list(_built_in())


def load(spec: str) -> Problem:
    """A built-in problem by its name, or one of your own as "path/to/file.py:function".

    The function takes no argument and returns a `Problem`, or a dictionary of its fields::

        # mine.py, run by: polytape compare mine.py:two_heads
        def two_heads():
            return {
                "name": "two heads", "description": "One trunk, two regressions.",
                "objectives": ("a", "b"), "build": build, "data": data,
                "losses": {"a": "mse", "b": "mae"},
                "headline": {"a": ("loss", "min"), "b": ("loss", "min")},
            }

    Errors: ValueError (no such problem, file or function; the function fails), TypeError (it
    returns something else). Each says what was found instead.

    >>> load("toy").name
    'toy'
    """
    if spec in _built_in():
        return _built_in()[spec]()
    path, separator, function = spec.rpartition(":")
    if separator and path.endswith(".py"):
        return _from_file(Path(path), function)
    if spec.endswith(".py"):
        raise ValueError(
            f"Which problem in {spec}? Name a function of that file: {spec}:my_problem."
            + _offer(_functions(_module(Path(spec))), prefix=f"{spec}:", lead="It has ")
        )
    raise ValueError(
        f"Unknown problem: {spec!r}.{did_you_mean(spec.lower(), names())} "
        f"Built in: {', '.join(names())}; or your own as file.py:function."
    )


def anywhere(spec: str) -> str:
    """The same problem, named so that it is found from any folder.

    >>> anywhere("toy")
    'toy'
    """
    path, separator, function = spec.rpartition(":")
    return f"{Path(path).absolute()}:{function}" if separator else spec


def fingerprint(spec: str) -> str:
    """Of the file that a problem is from: another one if its text has changed; "" if built in.

    >>> fingerprint("toy")
    ''
    """
    path, separator, _ = spec.rpartition(":")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if separator else ""


def function_in(spec: str) -> Callable[[], Any]:
    """The function that `file.py:function` names.

    Raises `ValueError` if there is no such file, or it has no such function.
    """
    path, separator, name = spec.rpartition(":")
    if separator:
        return _function(Path(path), name)
    offered = ""
    if spec.endswith(".py"):
        offered = _offer(_functions(_module(Path(spec))), prefix=f"{spec}:", lead="It has ")
    raise ValueError(
        f"Name a function of a file, as in file.py:function. Received: {spec}.{offered}"
    )


def _from_file(path: Path, name: str) -> Problem:
    function = _function(path, name)
    where = f"{path}:{name}"
    try:
        found = function()
    except Exception as error:
        raise ValueError(f"{where}() failed with {type(error).__name__}: {error}") from error
    return _as_problem(found, where)


def _function(path: Path, name: str) -> Callable[[], Any]:
    module = _module(path)
    function = vars(module).get(name)
    if not callable(function):
        functions = _functions(module)
        near = difflib.get_close_matches(name, functions, n=3, cutoff=0.3)
        raise ValueError(
            f"{path} has no function {name!r}."
            + (_offer(near, lead="Did you mean ", mark="?") or _offer(functions, lead="It has "))
        )
    return function


def _as_problem(found: Any, where: str) -> Problem:
    if isinstance(found, Problem):
        return found
    if not isinstance(found, dict):
        raise TypeError(
            f"{where}() must return a polytape.problems.Problem or a dictionary of its fields. "
            f"Received: {type(found).__name__}."
            + (" Does the function end without `return`?" if found is None else "")
        )
    fields = {field.name: field for field in dataclasses.fields(Problem)}
    for key in found:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            raise ValueError(
                f"{where}(): a problem has no field {key!r}."
                + _offer(near, lead="Did you mean ", mark="?")
                + f" Fields: {', '.join(fields)}."
            )
    required = [n for n, f in fields.items() if f.default is f.default_factory]
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{where}(): missing fields: {', '.join(missing)}.")
    return Problem(**found)


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [other.stem for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.stem, beside, n=3, cutoff=0.5)
        offered = [str(path.with_name(f"{stem}.py")) for stem in near]
        raise ValueError(
            f"There is no file {path} (looked in {path.absolute().parent})."
            + _offer(offered, lead="Did you mean ", mark="?")
        )
    spec = importlib.util.spec_from_file_location(f"polytape_problem_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    folder = str(path.absolute().parent)
    if folder not in sys.path:  # as for `python file.py`: modules beside the file are found
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and value.__module__ == module.__name__
    ]


def _offer(found: list[str], *, lead: str, prefix: str = "", mark: str = ".") -> str:
    return f" {lead}{', '.join(prefix + name for name in found)}{mark}" if found else ""
