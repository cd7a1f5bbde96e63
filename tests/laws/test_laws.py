"""Every law on every method: a method is tested by existing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from keras import ops

from answers import trial
from compiled import COMPILES, compiled
from polytape.catalogue import all_methods, catalogue
from polytape.catalogue.ticks import TICKS
from polytape.contract import Evidence, Method, Need, State, Tensor
from polytape.reports.listing import entry
from polytape.reports.methods import page
from polytape.testing import GUARANTEES, LAWS, Trial, certify, check, laws_of, matrices
from polytape.testing.ticks import ticks_of, tried

# With `pytest -n 2 --dist loadgroup` all laws of a method share one process and what it compiled.
CASES = [
    pytest.param(name, law, marks=pytest.mark.xdist_group(name))
    for name, cls in all_methods().items()
    for law in laws_of(cls)
]


@pytest.mark.parametrize(("name", "law"), CASES)
def test_law(name: str, law: str) -> None:
    reason = all_methods()[name].exempt.get(law)
    if reason is not None:
        pytest.skip(reason)
    check(trial(name), law)


@pytest.mark.skipif(COMPILES, reason="the conversion is plain Python: where nothing compiles")
@pytest.mark.parametrize("scale", ["mean", "paper"])
@pytest.mark.parametrize("name", [n for n, cls in all_methods().items() if "scale" in vars(cls)])
def test_other_scales_are_what_they_say(name: str, scale: str) -> None:
    check(Trial(all_methods()[name](scale=scale), compiled), "equal gradients")


@pytest.mark.parametrize("name", all_methods())
def test_promises_and_exemptions_are_known_and_do_not_contradict(name: str) -> None:
    cls = all_methods()[name]
    assert cls.guarantees <= set(GUARANTEES)
    assert set(cls.exempt) <= set(LAWS)
    assert not {LAWS[law] for law in cls.exempt} & {GUARANTEES[law] for law in cls.guarantees}
    assert all(len(reason.split()) > 2 for reason in cls.exempt.values())


TRIED = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in tried()]


@pytest.mark.skipif(COMPILES, reason="a record of the methods, made once: where nothing compiles")
@pytest.mark.parametrize("name", TRIED)
def test_ticks_are_the_laws_that_it_passed(name: str) -> None:
    found = trial(name) if name in all_methods() else Trial(catalogue()[name]())
    assert ticks_of(found) == TICKS.get(name), "Make them again: python -m polytape.testing.ticks"


def test_every_promise_has_a_tick() -> None:
    assert set(TICKS) == set(tried())
    assert all(cls.guarantees <= set(TICKS[name]) for name, cls in all_methods().items())


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


@dataclass(frozen=True)
class Boastful(FirstFirst):
    """Broken on purpose: promises what it does not keep."""

    guarantees: ClassVar[frozenset[str]] = frozenset({"permutation", "impartial", "scale-free"})


def test_a_promise_that_is_broken_is_no_tick() -> None:
    passed = ticks_of(Trial(Boastful()))
    assert passed == ("scale-free",)
    told = entry(Boastful, passed=passed)
    row = next(line for line in page([told]).splitlines() if line.startswith("| [Boastful]"))
    ticks = [cell.strip() for cell in row.split("|")[2:7]]
    assert dict(zip(GUARANTEES, ticks, strict=True)) == {
        **dict.fromkeys(GUARANTEES, ""),
        "scale-free": "✓",
    }


def test_a_method_that_breaks_a_law_loses_its_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "permutation" in TICKS["Sum"]
    monkeypatch.setattr(all_methods()["Sum"], "weigh", FirstFirst.weigh)
    assert ticks_of(Trial(all_methods()["Sum"]())) == ("scale-free",)


@dataclass(frozen=True)
class Drifting(Method):
    """Broken on purpose: keeps its first step in order and is bent by the scale ever after."""

    needs: ClassVar[Need] = "losses"

    def init(self, names: tuple[str, ...], blocks: tuple[int, ...] = ()) -> State:
        return {"last": np.zeros((*blocks, len(names)), "float32")}

    def weigh(self, evidence: Evidence, state: State) -> tuple[Tensor, State]:
        return 1.0 + state["last"], {"last": evidence.losses}


def test_the_first_step_is_not_enough() -> None:
    assert ticks_of(Trial(Drifting())) == ("permutation",)


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
