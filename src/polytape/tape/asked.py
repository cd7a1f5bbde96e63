"""What code asks tapes for: read off the code that opens one."""

import dis
from functools import cache
from types import CodeType

from polytape.engines import Asked

_ONE = {"gradient", "jacobian", "batch_jacobian"}
_SEVERAL = {"gradients"}
_EXPLANATION = {"explain"}


@cache
def asked_by(code: CodeType) -> Asked:
    """What may be asked of a tape that code opens.

    Code that asks tapes for one gradient, and never for those of several losses, gets TensorFlow's
    own to the last operation: nothing need stand ready beside it. Code that asks for nothing hands
    its tape on, and may want either.
    """
    names = _attributes(code)
    one, several = bool(names & _ONE), bool(names & _SEVERAL)
    return Asked(several=several or not one, explanation=bool(names & _EXPLANATION))


@cache
def looks_for_none(code: CodeType) -> bool:
    """Whether code asks of anything whether it is None."""
    own = any(
        step.opname == "IS_OP" or (step.opname.startswith("POP_JUMP") and "NONE" in step.opname)
        for step in dis.get_instructions(code)
    )
    return own or any(map(looks_for_none, _within(code)))


def _attributes(code: CodeType) -> set[str]:
    """The names of all attributes that code reads, and of the functions within it."""
    found = {
        str(step.argval)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD")
    }
    return found.union(*map(_attributes, _within(code)))


def _within(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]
