"""The preference vector of a method as weights of the objectives that take part."""

from polytape.contract import Evidence, Tensor, ops


def preferred(evidence: Evidence, preference: tuple[float, ...] | None) -> Tensor:
    """Preference (..., T), float32: zero where inactive, the others add up to their number.

    None prefers nobody: one each. Only proportions count, so an objective that is inactive this
    step leaves the proportions of the others as they are.

    ValueError if the vector has not one entry per objective.
    """
    active = ops.cast(evidence.active, "float32")
    if preference is None:
        return active
    if len(preference) != len(evidence.names):
        raise ValueError(
            f"`preference` needs one entry per objective. Received: {preference!r} of length "
            f"{len(preference)} for the {len(evidence.names)} objectives "
            f"{', '.join(evidence.names)}. Give the entries in this order."
        )
    wanted = active * ops.convert_to_tensor(preference, dtype="float32")
    total = ops.sum(wanted, axis=-1, keepdims=True)
    return wanted * (evidence.count / ops.where(total > 0, total, 1.0))
