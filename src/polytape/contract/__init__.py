"""The contract between methods and everything else: `Evidence` in, weights out.

A method never sees a network. It sees one record of the step (`Evidence`) and returns one weight
per objective; the update is then `J^T w`, the weighted sum of the objectives' gradients. All
arrays may carry leading *block* axes (one Gramian per layer, say), so a method is written once,
over `(..., T)` and `(..., T, T)`, and serves every scope.
"""

from polytape.contract.checks import (
    check_objective_names,
    check_seed,
    is_number,
    is_whole,
    received,
)
from polytape.contract.evidence import Evidence, LossesBeforeAfter, Seed, Tensor, turn_of
from polytape.contract.hints import did_you_mean
from polytape.contract.method import (
    NEEDS,
    Method,
    Need,
    Observed,
    State,
    evaluate,
    has_state,
    iter_methods,
)
from polytape.contract.precision import in_float32
from polytape.contract.readings import Coordinates, Fixed, PerObjective, Products, Reading
from polytape.contract.registry import find, registered
from polytape.contract.rules import (
    Integer,
    OneOf,
    Preference,
    Range,
    Rule,
    Scale,
    inadmissible_values,
)

__all__ = [
    "NEEDS",
    "Coordinates",
    "Evidence",
    "Fixed",
    "Integer",
    "LossesBeforeAfter",
    "Method",
    "Need",
    "Observed",
    "OneOf",
    "PerObjective",
    "Preference",
    "Products",
    "Range",
    "Reading",
    "Rule",
    "Scale",
    "Seed",
    "State",
    "Tensor",
    "check_objective_names",
    "check_seed",
    "did_you_mean",
    "evaluate",
    "find",
    "has_state",
    "in_float32",
    "inadmissible_values",
    "is_number",
    "is_whole",
    "iter_methods",
    "received",
    "registered",
    "turn_of",
]
