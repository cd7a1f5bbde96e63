"""What lies behind several losses, differentiated for one after the other by a loop.

A loss has operations of its own, and shares others with more losses. Written down once for each
loss the programme, and the time to compile it, grow with their number times the size of the shared
network. Here each set of operations that the same losses depend on is written down once, and a loop
takes it for one loss after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from polytape.engines.contract import Tensor
from polytape.engines.jax.jaxpr import is_variable

_SHARE = 4  # of the gradients, as that much may be held on top of them


class _Part(NamedTuple):
    """Equations of a linear jaxpr, and the losses that depend on all of them.

    losses   places among the outputs of the jaxpr
    inputs, outputs  variables of the jaxpr that lead in and out
    """

    losses: tuple[int, ...]
    equations: list[Any]
    inputs: list[Any]
    outputs: list[Any]


class Piece(NamedTuple):
    """Cotangents of a variable of the jaxpr, (k, ...), one from each of k losses."""

    losses: tuple[int, ...]
    values: Tensor


def pays(closed: Any, losses: Sequence[int]) -> bool:
    """Whether a loop over some outputs of a linear jaxpr holds little beside their gradients.

    Where the losses part it holds the cotangents of all of them at once, which backward passes one
    by one do not: behind a dense output, of an image say, these may be larger than the gradients.
    """
    loops = [part for part in _parts(closed.jaxpr, losses) if len(part.losses) > 1]
    inputs = set(closed.jaxpr.invars)

    def size(atoms: Iterable[Any]) -> int:
        return sum(atom.aval.size for atom in atoms)

    held = sum(len(part.losses) * size(part.outputs) for part in loops)
    rows = sum(len(part.losses) * size(inputs.intersection(part.inputs)) for part in loops)
    return bool(loops) and _SHARE * held <= rows


def pulled_back(
    closed: Any, losses: Sequence[int], seeds: Mapping[int, Tensor]
) -> list[Piece | None]:
    """Of each input of a linear jaxpr the gradients of some of its outputs, each from its seed.

    None where none of these depends on the input.
    """
    jaxpr, known = closed.jaxpr, _known(closed)
    pieces: dict[Any, list[Piece]] = {}
    for loss in losses:
        pieces.setdefault(jaxpr.outvars[loss], []).append(Piece((loss,), seeds[loss][None]))
    for part in _parts(jaxpr, losses):
        given = [_joined(pieces[atom], part.losses, atom.aval) for atom in part.outputs]
        pull = _transposed(jaxpr, part, known)
        if len(part.losses) == 1:
            found = [each[None] for each in pull([each[0] for each in given])]
        else:
            found = jax.lax.map(pull, given)
        for atom, values in zip(part.inputs, found, strict=True):
            pieces.setdefault(atom, []).append(Piece(part.losses, values))
    return [_whole(pieces.get(atom, []), losses, atom.aval) for atom in jaxpr.invars]


def _parts(jaxpr: Any, losses: Sequence[int]) -> list[_Part]:
    """The parts behind some outputs, each before what leads to it."""
    moving = _moving(jaxpr)
    behind: dict[Any, int] = {}  # the losses that depend on a variable, a bit for each
    for place, loss in enumerate(losses):
        atom = jaxpr.outvars[loss]
        if is_variable(atom) and atom in moving:
            behind[atom] = behind.get(atom, 0) | 1 << place
    ends = set(behind)
    equations: dict[int, list[Any]] = {}
    made: dict[Any, int] = {}  # by the equations of which part
    used: dict[Any, set[int]] = {}  # by those of which parts
    for equation in reversed(jaxpr.eqns):
        bits = 0
        for atom in equation.outvars:
            bits |= behind.get(atom, 0)
        if not bits:
            continue
        equations.setdefault(bits, []).append(equation)
        made.update(dict.fromkeys(equation.outvars, bits))
        for atom in filter(is_variable, equation.invars):
            if atom in moving:
                behind[atom] = behind.get(atom, 0) | bits
                used.setdefault(atom, set()).add(bits)
    found = []
    for bits in sorted(equations, key=int.bit_count):  # what it leads to has fewer losses
        members = tuple(loss for place, loss in enumerate(losses) if bits >> place & 1)
        inputs = [atom for atom, by in used.items() if bits in by and made.get(atom) != bits]
        outputs = [
            atom
            for atom, own in made.items()
            if own == bits and (atom in ends or not used.get(atom, set()) <= {bits})
        ]
        found.append(_Part(members, equations[bits][::-1], inputs, outputs))
    return found


def _moving(jaxpr: Any) -> set[Any]:
    """The variables of a jaxpr that depend on an input."""
    found = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if not found.isdisjoint(filter(is_variable, equation.invars)):
            found.update(equation.outvars)
    return found


def _known(closed: Any) -> dict[Any, Tensor]:
    """The values of what depends on no input."""
    jaxpr, moving = closed.jaxpr, _moving(closed.jaxpr)
    equations = [each for each in jaxpr.eqns if moving.isdisjoint(each.outvars)]
    made = [atom for equation in equations for atom in equation.outvars]
    run = _function(jaxpr, closed.consts, jaxpr.constvars, [], made, equations)
    return {
        **dict(zip(jaxpr.constvars, closed.consts, strict=True)),
        **dict(zip(made, run(), strict=True)),
    }


def _transposed(jaxpr: Any, part: _Part, known: Mapping[Any, Tensor]) -> Any:
    """From the cotangents of what leads out of a part to those of what leads in."""
    read = {atom for equation in part.equations for atom in equation.invars if is_variable(atom)}
    fixed = [atom for atom in known if atom in read]
    values = [known[atom] for atom in fixed]
    run = _function(jaxpr, values, fixed, part.inputs, part.outputs, part.equations)
    like = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in part.inputs]
    transposed = jax.linear_transpose(run, *like)
    return lambda cotangents: list(transposed(cotangents))


def _function(
    jaxpr: Any,
    consts: Sequence[Tensor],
    constvars: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    equations: Sequence[Any],
) -> Any:
    """Some equations of a jaxpr as a function."""
    told = jaxpr.debug_info  # which has a name for every input and output
    if told is not None:
        names = {"arg_names": ("",) * len(inputs), "result_paths": ("",) * len(outputs)}
        told = told._replace(**names)
    own = jaxpr.replace(
        constvars=list(constvars),
        invars=list(inputs),
        outvars=list(outputs),
        eqns=list(equations),
        debug_info=told,
    )
    return jaxpr_as_fun(ClosedJaxpr(own, list(consts)))


def _joined(pieces: Sequence[Piece], losses: tuple[int, ...], like: Any) -> Tensor:
    """(k, ...) what comes to a variable from k losses; zero where nothing does."""
    if len(pieces) == 1 and pieces[0].losses == losses:
        return pieces[0].values
    single: dict[int, Tensor] = {}
    for piece in pieces:
        for loss, value in zip(piece.losses, piece.values, strict=True):
            single[loss] = single[loss] + value if loss in single else value
    return jnp.stack([single.get(loss, jnp.zeros(like.shape, like.dtype)) for loss in losses])


def _whole(pieces: Sequence[Piece], losses: Sequence[int], like: Any) -> Piece | None:
    reached = {loss for piece in pieces for loss in piece.losses}
    if not reached:
        return None
    members = tuple(loss for loss in losses if loss in reached)
    return Piece(members, _joined(pieces, members, like))
