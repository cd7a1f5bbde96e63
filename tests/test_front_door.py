"""What `import polytape` costs, what it offers, and that every docstring example runs."""

import doctest
import importlib
import inspect
import pkgutil

import keras
import pytest

import polytape as pt
from fresh import fresh

BACKEND = keras.backend.backend()
OTHERS = {"tensorflow", "jax", "torch"} - {BACKEND}


def test_only_the_framework_that_keras_chose_is_imported() -> None:
    code = """
import sys, keras
frameworks = {"tensorflow", "jax", "torch"}
before = frameworks & set(sys.modules)
import polytape
[getattr(polytape, name) for name in dir(polytape)]
if keras.backend.backend() != "numpy":
    from polytape.engines import engine
    engine()
print(sorted((frameworks & set(sys.modules)) - before - {keras.backend.backend()}))
"""
    assert fresh(code).strip() == "[]"


def test_importing_it_first_does_not_import_keras() -> None:
    assert fresh("import sys, polytape; print('keras' in sys.modules)").strip() == "False"


def test_names() -> None:
    names = dir(pt)
    assert names == sorted(names, key=names.index)
    assert {"Model", "Combiner", "gradients", "weigh", "Method", "UPGrad", "Chain"} <= set(names)
    assert all(getattr(pt, name).__doc__ for name in names)


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'UpGrad'. .*UPGrad"):
        _ = pt.UpGrad
    with pytest.raises(AttributeError, match="no attribute '__wrapped__'"):
        _ = pt.__wrapped__


def examples() -> list[doctest.DocTest]:
    """Every docstring with an example, engines apart: they import a framework."""
    finder, found = doctest.DocTestFinder(exclude_empty=True), []
    for module in pkgutil.walk_packages(pt.__path__, "polytape."):
        if ".engines." in module.name or module.name.endswith("__main__"):
            continue
        found += [
            test for test in finder.find(importlib.import_module(module.name)) if test.examples
        ]
    return found


def mark(test: doctest.DocTest) -> object:
    source = "".join(example.source for example in test.examples)
    words = ("pt.gradients", "pt.derivative", "pt.Model", "compiled_step(", ".fit(", "compare(")
    marks = [pytest.mark.engine] * any(word in source for word in words)
    if "GradientTape" in source and BACKEND != "tensorflow":
        marks = [pytest.mark.skip(reason="for TensorFlow")]
    return pytest.param(test, id=test.name, marks=marks)


@pytest.mark.parametrize("test", map(mark, examples()))
def test_example(test: doctest.DocTest, capsys: pytest.CaptureFixture) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(test)
    assert result.attempted
    assert not result.failed, capsys.readouterr().out


def test_everything_public_has_an_example_or_a_docstring() -> None:
    told = {test.name.rsplit(".", 1)[-1] for test in examples()}
    plain = {"Evidence", "Gradients", "Method", "Step"}  # described, met in the examples of others
    assert set(dir(pt)) - plain - told == set()
    bare = [
        f"{name}.{member}"
        for name in dir(pt)
        for member, value in vars(getattr(pt, name)).items()
        if not member.startswith("_") and inspect.isfunction(value) and not inspect.getdoc(value)
    ]
    assert not [b for b in bare if b.split(".")[1] not in ("init", "weigh", "get_config")], bare
