"""The same words for the same cause, whatever the framework calls it."""

from typing import NamedTuple


class Words(NamedTuple):
    """why  of an operation, as the end of a sentence;  remedy  a sentence"""

    why: str
    remedy: str


_STRAIGHT = (
    "Train on what comes before it, or pass the gradient straight through: "
    "x + stop_gradient(f(x) - x)."
)
_STEP = Words("is flat almost everywhere, so its gradient is zero", _STRAIGHT)
_INDEX = Words(
    "gives an index, which does not move with its input",
    "Train on the softmax instead of the index.",
)
_TRUTH = Words(
    "gives true or false, which does not move with its input",
    "Train on the probability, or on a smooth step such as sigmoid(k * (x - threshold)).",
)
CUTS = {
    "stop_gradient": Words(
        "ends the gradient",
        "Remove it; if it is meant, this objective is not to train what lies before it: say so by "
        "its route, `trains`, or by the variables that you ask for.",
    ),
    "no_grad": Words(
        "is computed where gradients are switched off (no_grad or inference_mode)",
        "Compute it outside of that block.",
    ),
    "round": _STEP,
    "floor": _STEP,
    "ceil": _STEP,
    "trunc": _STEP,
    "sign": _STEP,
    "argmax": _INDEX,
    "argmin": _INDEX,
    "argsort": _INDEX,
    "one_hot": Words("is made of integers, which have no gradient", _INDEX.remedy),
    "bucketize": Words(
        "gives the number of a bin, which does not move a little with its input",
        "Count softly: sigmoid(k * (x - edge)) for each edge.",
    ),
    "bincount": Words(
        "counts, and a count does not move with what is counted", "Count softly, by probabilities."
    ),
    "a comparison": _TRUTH,
    "a logical operation": _TRUTH,
    "isfinite": _TRUTH,
    "cast": Words(
        "turns numbers into {dtype}, which has no gradient", "Keep it a floating-point number."
    ),
    "a host function": Words(
        "leaves the framework, as NumPy or a Python number, and what comes back is a constant",
        "Keep it a tensor: every NumPy function has its like in keras.ops.",
    ),
    "a copy": Words(
        "makes a new tensor of the numbers alone", "Use the tensor itself, or `clone` it."
    ),
    "an assignment": Words(
        "puts it into a variable, which holds numbers without their past",
        "Use the tensor itself, and assign beside it.",
    ),
    "a custom function": Words(
        "has a derivative of its own, which returns none", "Look at its backward pass."
    ),
    "a string operation": Words("is made of text, which has no gradient", "Keep it a number."),
    "sampling": Words(
        "draws at random, and a draw does not move with its probabilities",
        "Draw from a distribution that can be reparametrised (mean + deviation * noise), or use a "
        "Gumbel softmax.",
    ),
}
_SHARP = (
    "Normalise or initialise what comes in so that it stays small, or use an activation that does "
    "not go flat."
)
FLAT = {
    "relu": Words(
        "is dead: {share} of its outputs are zero",
        "Lower the learning rate, start from other weights, normalise before it, or use "
        "leaky_relu.",
    ),
    "relu6": Words("is flat: {share} of its inputs lie outside of 0 to 6", _SHARP),
    "sigmoid": Words("is saturated: {share} of its outputs are exactly 0 or 1", _SHARP),
    "hard_sigmoid": Words("is saturated: {share} of its outputs are exactly 0 or 1", _SHARP),
    "tanh": Words("is saturated: {share} of its outputs are exactly -1 or 1", _SHARP),
    "softmax": Words("is saturated: {share} of its outputs are exactly 0 or 1", _SHARP),
    "log_softmax": Words("is saturated", _SHARP),
    "erf": Words("is saturated: {share} of its outputs are exactly -1 or 1", _SHARP),
    "selu": Words("is saturated", _SHARP),
    "product": Words(
        "multiplies by zeros: more than one of its factors is zero", "Look where they come from."
    ),
    "softplus": Words("is saturated: {share} of its outputs are zero", _SHARP),
    "gelu": Words("is saturated: {share} of its outputs are zero", _SHARP),
    "silu": Words("is saturated: {share} of its outputs are zero", _SHARP),
    "elu": Words("is saturated", _SHARP),
    "exp": Words("has come to zero: {share} of its outputs are zero", _SHARP),
    "maximum": Words(
        "takes the other side: {share} of its outputs are a constant or come from elsewhere",
        "Look at the bound, or at what comes in.",
    ),
    "minimum": Words(
        "takes the other side: {share} of its outputs are a constant or come from elsewhere",
        "Look at the bound, or at what comes in.",
    ),
    "clip": Words(
        "clips: {share} of its inputs lie at or beyond its bounds",
        "Look at the bounds, or clip gradients instead of values.",
    ),
    "where": Words("takes the other branch everywhere", "Look at its condition."),
}
MINIMUM = Words(
    "is at its minimum: what it compares is equal",
    "If that is not because training is done, look whether target and prediction are the same "
    "tensor.",
)
MASKED = Words(
    "multiplies by zeros: a mask or sample weights are zero everywhere",
    "Look at the mask, the sample weights or the labels of this batch; if it is meant, nothing is "
    "wrong.",
)
ZEROS = Words(
    "multiplies by zeros",
    "Look where they come from: weights that start at zero, inputs that are all zero, or an "
    "activation that is dead.",
)
INDICES = Words(
    "gives an index or a count, which does not move a little with its input", _INDEX.remedy
)
CUSTOM = Words(
    "has a derivative of its own, which is zero",
    "Look at its backward pass.",
)
LOST = (
    "Look for a derivative that was taken without create_graph=True, and for functions with a "
    "derivative of their own."
)
OF_NOTHING = Words(
    "is taken of nothing: no number is left",
    "Look at the mask or the labels of this batch.",
)
ONE_CLASS = Words(
    "has one number only to choose from, so that its result is always the same",
    "For two classes use sigmoid with one unit, or softmax with two; else look at its axis.",
)
NORMALISED = Words(
    "subtracts the mean of one number from itself: nothing is left",
    "Normalise over more numbers (a larger batch, more units), or leave the normalisation out.",
)
LEFT_OUT = Words(
    "puts it beside other values, and only those get a gradient",
    "Look at what comes next: a maximum, an index or a mask leaves it out.",
)
CANCELLED = Words(
    "adds up parts of the gradient that cancel exactly",
    "If a loss is the difference of two terms, look whether they are the same.",
)
UNDERFLOW = Words(
    "is too small for {dtype}: it has become zero",
    "Scale the loss: keras.optimizers.LossScaleOptimizer, which compile() adds under the policy "
    '"mixed_float16"; or use bfloat16.',
)
OVERFLOW = Words(
    "overflows: its numbers are too large for {dtype}",
    "Normalise or clip what comes in, or start from smaller weights; a recurrence that multiplies "
    "by more than one grows with every step.",
)
OF_INFINITE = Words(
    "makes NaN of infinite numbers, as where a mask of -inf leaves nothing over",
    "Leave at least one place unmasked, or mask by a large finite number such as -1e9.",
)
_EPSILON = "Add a small number inside: sqrt(x + 1e-12), log(x + 1e-7)."
INFINITE = {
    "sqrt": Words("has an infinite derivative at zero", _EPSILON),
    "norm": Words("has no derivative at zero", "Write sqrt(sum(x * x) + 1e-12)."),
    "power": Words("has no finite derivative at zero for such an exponent", _EPSILON),
    "rsqrt": Words("divides by zero", _EPSILON),
    "log": Words("takes the logarithm of zero or less", _EPSILON),
    "log1p": Words("takes the logarithm of zero or less", _EPSILON),
    "divide": Words("divides by zero", "Add a small number to the divisor, or divide_no_nan."),
    "reciprocal": Words("divides by zero", "Add a small number to the divisor."),
    "exp": Words("overflows", "Subtract the maximum first, or compute with logarithms."),
    "arccos": Words("has an infinite derivative at -1 and 1", "Clip to -1 + 1e-6 ... 1 - 1e-6."),
    "arcsin": Words("has an infinite derivative at -1 and 1", "Clip to -1 + 1e-6 ... 1 - 1e-6."),
    "atan2": Words("has no derivative where both are zero", "Keep one away from zero."),
    "abs": Words("has no derivative here", _EPSILON),
}
OUTSIDE = {  # of what is not finite on the way forward already
    "sqrt": Words("takes the root of a negative number", "Keep it positive: maximum(x, 1e-12)."),
    "power": Words(
        "takes a broken or negative power of zero or of a negative number",
        "Keep it positive: maximum(x, 1e-12).",
    ),
    "arccos": Words("is given numbers outside of -1 to 1", "Clip to -1 + 1e-6 ... 1 - 1e-6."),
    "arcsin": Words("is given numbers outside of -1 to 1", "Clip to -1 + 1e-6 ... 1 - 1e-6."),
}
WHERE = (
    "`where` chooses the good branch, but the bad one is differentiated, too: choose on the input "
    "as well, f(where(ok, x, 1))."
)
