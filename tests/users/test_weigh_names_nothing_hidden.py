"""What `pt.weigh` says of its arguments can be had from `pt`."""

import inspect
import re
import typing

import numpy as np

import polytape as pt


def test_every_name_in_its_documentation_is_exported() -> None:
    named = set(re.findall(r"`(?:pt\.)?([A-Z]\w*)", inspect.getdoc(pt.weigh) or ""))
    builtin = {"ValueError", "TypeError", "None", "FloatingPointError"}
    assert named <= {*dir(pt), *builtin}


def test_every_class_in_its_signature_is_exported() -> None:
    hints = typing.get_type_hints(pt.weigh)
    found = {kind for hint in hints.values() for kind in _classes(hint)}
    ours = {kind.__name__ for kind in found if kind.__module__.startswith("polytape")}
    assert ours <= set(dir(pt))


def _classes(hint: object) -> set[type]:
    inner = {kind for each in typing.get_args(hint) for kind in _classes(each)}
    return inner | ({hint} if isinstance(hint, type) else set())


def test_a_second_look_is_three_arrays() -> None:
    last = ([1.0, 1.0], [0.5, 1.0], [True, True])
    weights, _ = pt.weigh("famo", losses=[0.5, 1.0], last=last)
    assert np.isfinite(np.asarray(weights)).all()
