"""Every law on every method: a method is tested by existing."""

from dataclasses import dataclass
from functools import cache

import pytest
from keras import ops

from compiled import COMPILES, compiled
from polytape.catalogue import all_methods
from polytape.contract import Evidence, Method, State, Tensor
from polytape.testing import GUARANTEES, LAWS, Trial, certify, check, laws_of, matrices

# With `pytest -n 2 --dist loadgroup` all laws of a method share one process and what it compiled.
CASES = [
    pytest.param(name, law, marks=pytest.mark.xdist_group(name))
    for name, cls in all_methods().items()
    for law in laws_of(cls)
]


@cache
def trial(name: str) -> Trial:
    return Trial(all_methods()[name](), compiled)


@pytest.mark.parametrize(("name", "law"), CASES)
def test_law(name: str, law: str) -> None:
    reason = all_methods()[name].exempt.get(law)
    if reason is not None:
        pytest.skip(reason)
    check(trial(name), law)


@pytest.mark.skipif(COMPILES, reason="the conversion is plain Python: where nothing compiles")
@pytest.mark.parametrize("scale", ["mean", "paper"])
@pytest.mark.parametrize("name", [n for n, cls in all_methods().items() if cls.native_scale])
def test_other_scales_are_what_they_say(name: str, scale: str) -> None:
    check(Trial(all_methods()[name](scale=scale), compiled), "equal gradients")


@pytest.mark.parametrize("name", all_methods())
def test_promises_and_exemptions_are_known_and_do_not_contradict(name: str) -> None:
    cls = all_methods()[name]
    assert cls.guarantees <= set(GUARANTEES)
    assert set(cls.exempt) <= set(LAWS)
    assert not {LAWS[law] for law in cls.exempt} & {GUARANTEES[law] for law in cls.guarantees}
    assert all(len(reason.split()) > 2 for reason in cls.exempt.values())


@dataclass(frozen=True)
class FirstFirst(Method):
    """Broken on purpose: the first objective counts double."""

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        index = ops.arange(evidence.losses.shape[-1])
        return ops.where(index == 0, 2.0, 1.0) * ops.ones_like(evidence.losses), state


@dataclass(frozen=True)
class Careless(Method):
    """Broken on purpose: divides by norms, zero or not."""

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return ops.exp(-ops.log(evidence.norms)), state


def test_certify_names_method_law_and_matrix() -> None:
    with pytest.raises(AssertionError, match=r"FirstFirst\(\) breaks the law 'permutation': well"):
        certify(FirstFirst())
    with pytest.raises(AssertionError, match=r"Careless\(\) breaks the law 'finite': zero row"):
        certify(Careless())


@dataclass(frozen=True)
class Raising(Method):
    """Broken on purpose: cannot do with one objective."""

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        if evidence.losses.shape[-1] == 1:
            raise ZeroDivisionError("one objective")
        return ops.ones_like(evidence.losses), state


def test_an_exception_breaks_the_law_too() -> None:
    text = r"Raising\(\) breaks the law 'finite': one: ZeroDivisionError: one objective"
    with pytest.raises(AssertionError, match=text):
        certify(Raising())


def test_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown law: 'beauty'. Expected one of: finite, "):
        check(Trial(FirstFirst()), "beauty")


def test_matrices_have_names_of_their_own_and_do_not_change() -> None:
    names = [matrix.name for matrix in matrices()]
    assert len(set(names)) == len(names)
    for one, other in zip(matrices(), matrices(), strict=True):
        assert (one.rows == other.rows).all()
