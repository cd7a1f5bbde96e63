"""An explanation of losses by variables, all of which every loss may train."""

from collections.abc import Sequence

import numpy as np

from polytape.differentiation.table import Table
from polytape.differentiation.variables import Variables
from polytape.engines.operations import Trace
from polytape.explanation.explanation import Explanation
from polytape.explanation.finding import Finding
from polytape.explanation.measured import products_of
from polytape.explanation.search import Asked, search


def explained(
    names: Sequence[str],
    losses: Sequence[float],
    rows: Table,
    known: Variables,
    trace: Trace | None,
) -> Explanation:
    """Of gradients by variables, all of which every objective may train."""
    owners = tuple(path.split("/")[0] for path in known.paths)
    reach = np.array([[gradient is not None for gradient in row] for row in rows])
    frozen = {*known.frozen}
    everywhere = np.ones_like(reach) & [path not in frozen for path in known.paths]
    products = products_of(rows, None)
    squares = np.diagonal(products.rows, axis1=1, axis2=2).T
    asked = Asked(
        objectives=names,
        scalars=range(len(names)),
        networks=owners,
        paths=known.paths,
        reach=reach,
        routes=everywhere,
        declared=np.zeros_like(reach),
        zero=reach & (squares == 0),
        finite=np.isfinite(squares),
        losses=np.array(losses),
        present=np.ones(len(names), bool),
    )
    return Explanation(
        objectives=tuple(names),
        networks=tuple(dict.fromkeys(owners)),
        method="",
        losses=dict(zip(names, losses, strict=True)),
        paths=known.paths,
        owners=owners,
        layers=tuple(path.rpartition("/")[0] or path for path in known.paths),
        reach=reach,
        routes=everywhere,
        products=products,
        findings=(*search(asked, trace), *_frozen(known.frozen)),
    )


def _frozen(paths: Sequence[str]) -> list[Finding]:
    """Of parameters of a module that do not train."""
    return [
        Finding(
            "",
            path.split("/")[0],
            "frozen",
            f"{path!r} is frozen (requires_grad=False or trainable=False): no gradient is taken by "
            "it",
            "If it is to learn, set it to train.",
            variables=(path,),
        )
        for path in paths
    ]
