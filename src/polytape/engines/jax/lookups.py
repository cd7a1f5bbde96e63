"""What a linear jaxpr looks up in tables, as inputs of its own, so that rows by them are sparse.

`table[indices]` is linear in the table: in a linearized function it is one equation, `gather`, and
the gradient by what comes out of that tells the gradient by the table. Any other use of a table,
as the matrix of a product say, or inside of a loop or `jax.checkpoint`, stays a path to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from polytape.engines.contract import Tensor
from polytape.engines.gathered import Gathered, pays
from polytape.engines.jax.jaxpr import dependencies, is_variable, only

_CALLS = ("jit", "pjit")  # as versions of JAX name it
Place = tuple[
    int, ...
]  # of an equation: its number, behind those of the calls that it is inside of


class Lookup(NamedTuple):
    """An equation that looks up in a table.

    table    by index among the inputs;  indices  (..., 1) int
    drops    whether indices out of range give nothing; else they are clipped
    like     what comes out
    """

    table: int
    indices: Tensor
    drops: bool
    like: jax.ShapeDtypeStruct


@dataclass
class Search:
    """Where a jaxpr uses some of its inputs, the tables.

    found   what is looked up in them;  otherwise  tables that are used in another way, too
    """

    found: dict[Place, Lookup] = field(default_factory=dict)
    otherwise: set[int] = field(default_factory=set)

    def through(
        self, jaxpr: Any, tables: Mapping[Any, int], known: Mapping[Any, Tensor], at: Place = ()
    ) -> None:
        """tables  {variable: number of the table};  known  {variable: its value}"""
        tables = dict(tables)

        def among(atoms: Sequence[Any], kinds: Mapping[Any, Any]) -> Iterator[tuple[int, Any]]:
            for place, atom in enumerate(atoms):
                if is_variable(atom) and atom in kinds:
                    yield place, kinds[atom]

        for number, equation in enumerate(jaxpr.eqns):
            used = dict(among(equation.invars, tables))
            if not used:
                continue
            name, inner = equation.primitive.name, equation.params.get("jaxpr")
            if name == "convert_element_type":
                tables[equation.outvars[0]] = used[0]
            elif name == "gather" and (lookup := _lookup(equation, used, known)):
                self.found[*at, number] = lookup
            elif name in _CALLS and inner is not None:
                theirs = dict(zip(inner.jaxpr.constvars, inner.consts, strict=True))
                given = inner.jaxpr.invars
                theirs |= {given[i]: value for i, value in among(equation.invars, known)}
                self.through(
                    inner.jaxpr, {given[i]: t for i, t in used.items()}, theirs, (*at, number)
                )
            else:
                self.otherwise.update(used.values())
        self.otherwise.update(table for _, table in among(jaxpr.outvars, tables))


def _lookup(equation: Any, used: Mapping[int, int], known: Mapping[Any, Tensor]) -> Lookup | None:
    """Of whole entries along the first axis, at indices that are known."""
    table, indices = equation.invars
    (out,) = equation.outvars
    numbers, entry = equation.params["dimension_numbers"], table.aval.shape[1:]
    last = tuple(range(out.aval.ndim - len(entry), out.aval.ndim))
    plain = (
        used.keys() == {0}
        and numbers.start_index_map == numbers.collapsed_slice_dims == (0,)
        and numbers.offset_dims == last
        and not numbers.operand_batching_dims
        and equation.params["slice_sizes"] == (1, *entry)
    )
    if not plain or not is_variable(indices) or indices not in known:
        return None
    drops = equation.params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP
    like = jax.ShapeDtypeStruct(out.aval.shape, out.aval.dtype)
    return Lookup(used[0], known[indices], drops, like)


def _run(
    jaxpr: Any,
    consts: Sequence[Tensor],
    inputs: Sequence[Tensor],
    given: Mapping[Place, Tensor],
    at: Place = (),
) -> list[Tensor]:
    """The outputs of a jaxpr, with something given for what some of its equations return."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    opened = {place[: len(at) + 1] for place in given}

    def read(atoms: Sequence[Any]) -> list[Tensor]:
        return [known[atom] if is_variable(atom) else atom.val for atom in atoms]

    for number, equation in enumerate(jaxpr.eqns):
        place = (*at, number)
        if place in given:
            found = [given[place]]
        elif place in opened:
            inner = equation.params["jaxpr"]
            found = _run(inner.jaxpr, inner.consts, read(equation.invars), given, place)
        else:
            found = _bound(equation, read(equation.invars))
        known.update(zip(equation.outvars, found, strict=True))
    return read(jaxpr.outvars)


def _bound(equation: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What an equation returns."""
    told = equation.primitive.get_bind_params(equation.params)
    functions, params = told if isinstance(told, tuple) else ((), told)  # before JAX 0.10
    with equation.ctx.manager:
        found = equation.primitive.bind(*functions, *inputs, **params)
    return list(found) if equation.primitive.multiple_results else [found]


class Entries:
    """The entries of a table that a forward pass has looked up."""

    def __init__(self, lookups: Sequence[Lookup], table: Tensor) -> None:
        self._lookups, self._table = lookups, table
        size = table.shape[0]
        indices = jnp.concatenate([each.indices.astype("int32").ravel() for each in lookups])
        outside = (indices < 0) | (indices >= size)
        drops = [jnp.full(each.indices.size, each.drops) for each in lookups]
        self._dropped = (outside & jnp.concatenate(drops)).reshape(-1, *(1 for _ in self._entry))
        indices = jnp.clip(indices, 0, size - 1)
        self._places = jnp.sort(indices)
        self._slots = jnp.searchsorted(self._places, indices)

    @property
    def _entry(self) -> tuple[int, ...]:
        return self._table.shape[1:]

    def gradient(self, back: Sequence[Tensor | None]) -> Gathered:
        """That by the table, for those by what was looked up; None where nothing comes back."""
        kind = "float64" if self._table.dtype == "float64" else "float32"
        found = jnp.concatenate(
            [
                jnp.zeros((each.indices.size, *self._entry), kind)
                if gradient is None
                else gradient.reshape(-1, *self._entry).astype(kind)
                for each, gradient in zip(self._lookups, back, strict=True)
            ]
        )
        found = jnp.where(self._dropped, 0.0, found)
        values = jnp.zeros_like(found).at[self._slots].add(found)
        return Gathered(self._places, values, self._table.shape, self._table.dtype)


class Lookups:
    """A linear function of which what is looked up in tables is told as such.

    closed  its jaxpr;  values  examples of its inputs;  found  in which tables what is looked up
    """

    def __init__(self, closed: Any, values: Sequence[Tensor], search: Search) -> None:
        jaxpr, found = closed.jaxpr, search.found
        self._values = values
        tables = {lookup.table for lookup in found.values()}
        self._marks = {
            table: [n for n, each in enumerate(found.values()) if each.table == table]
            for table in tables
        }
        self._entries = {
            table: Entries([each for each in found.values() if each.table == table], values[table])
            for table in tables
        }
        self._whole = [i for i in range(len(values)) if i not in tables or i in search.otherwise]

        def cut(whole: Sequence[Tensor], marks: Sequence[Tensor]) -> list[Tensor]:
            inputs = dict(zip(self._whole, whole, strict=True))
            every = [
                inputs[i] if i in inputs else jnp.zeros_like(value)  # and nobody reads it
                for i, value in enumerate(values)
            ]
            return _run(jaxpr, closed.consts, every, dict(zip(found, marks, strict=True)))

        self._inputs = [
            *(jax.ShapeDtypeStruct(values[i].shape, values[i].dtype) for i in self._whole),
            *(each.like for each in found.values()),
        ]
        count = len(self._whole)
        self._closed = jax.make_jaxpr(lambda *given: cut(given[:count], given[count:]))(
            *self._inputs
        )
        self._reach = dependencies(self._closed.jaxpr)

    @classmethod
    def of(cls, closed: Any, values: Sequence[Tensor], among: int) -> "Lookups | None":
        """None if it looks nothing up in the first of its inputs, or not worth to be told."""
        inputs, search = closed.jaxpr.invars, Search()
        tables = {inputs[i]: i for i in range(among) if values[i].ndim and pays(0, values[i].shape)}
        if not tables:
            return None
        search.through(
            closed.jaxpr, tables, dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        )
        counts: dict[int, int] = dict.fromkeys(tables.values(), 0)
        for lookup in search.found.values():
            counts[lookup.table] += lookup.indices.size
        search.found = {
            place: lookup
            for place, lookup in search.found.items()
            if pays(counts[lookup.table], values[lookup.table].shape)
        }
        return cls(closed, values, search) if search.found else None

    def vjp(
        self, seeds: Sequence[Tensor], outputs: Sequence[int], variables: Sequence[int]
    ) -> list[Any]:
        """The gradient of the sum of seeds * outputs by some of the inputs, sparse if it can be."""
        chosen = only(self._closed, outputs)
        gradients = jax.linear_transpose(chosen, *self._inputs)(list(seeds))
        reached: Any = self._reach[list(outputs)].any(axis=0)
        known = [g if there else None for g, there in zip(gradients, reached, strict=True)]
        whole, marks = known[: len(self._whole)], known[len(self._whole) :]
        found: dict[int, Any] = dict(zip(self._whole, whole, strict=True))
        for table, places in self._marks.items():
            back = [marks[place] for place in places]
            if table in variables and any(each is not None for each in back):
                sparse, dense = self._entries[table].gradient(back), found.get(table)
                found[table] = sparse if dense is None else dense + table_of(sparse)
        return [found.get(variable) for variable in variables]


def table_of(gradient: Gathered) -> Tensor:
    """A gradient in the shape of its table."""
    zeros = jnp.zeros(gradient.shape, gradient.values.dtype)
    found = zeros.at[gradient.places].add(
        gradient.values, indices_are_sorted=True, mode="promise_in_bounds"
    )
    return found.astype(gradient.dtype)
