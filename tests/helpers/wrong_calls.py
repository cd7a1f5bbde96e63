"""Three hundred wrong calls, as people make them; `wrong_calls.txt` has the answers."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import polytape as pt
from joined import X as JX
from joined import Y as JY
from joined import forward, joined, networks, objectives
from small import LOSSES, data, model

X, Y = data(16)
GOOD = [[2.0, -1.0], [-1.0, 3.0]]
NAN, INF = float("nan"), float("inf")
Call = Callable[[], Any]


def compiled(**changes: Any) -> pt.Model:
    found = model()
    found.compile(**{"optimizer": "sgd", "loss": LOSSES, "combine": "upgrad", **changes})
    return found


def fitted(x: Any = X, y: Any = Y, fit: Any = None, **changes: Any) -> Any:
    found = compiled(run_eagerly=True, **changes)
    return found.fit(x, y, **{"verbose": 0, **(fit or {})})


def routed(given: Any = None, x: Any = JX, y: Any = JY, **changes: Any) -> Any:
    found = joined(given, run_eagerly=True, **changes)
    return found.fit(x, y, verbose=0)


def of(name: str, loss: Any, **options: Any) -> list[pt.Objective]:
    """The usual objectives, one of them replaced or added."""
    others = [objective for objective in objectives() if objective.name != name]
    return [pt.Objective(name, loss, **options), *others]


def ready() -> pt.Combiner:
    """A Combiner that has seen gradients of two objectives."""
    combiner = pt.Combiner("famo")
    combiner(pair())
    return combiner


def pair(names: str = "ab") -> pt.Gradients:
    w = keras.Variable([1.0, 2.0])
    return pt.gradients(lambda: {name: ops.sum(w) ** (i + 1) for i, name in enumerate(names)}, [w])


def one(loss: Any, **more: Any) -> pt.Gradients:
    """Gradients of a loss made of one variable."""
    w = keras.Variable([1.0, 2.0])
    return pt.gradients(lambda: {"a": loss(w), "b": ops.sum(w)}, [w], **more)


def phases(*given: Any) -> Any:
    return joined(phases=list(given))


BEFORE_COMPILE: dict[str, Call] = {
    "fit": lambda: model().fit(X, Y, verbose=0),
    "train_on_batch": lambda: model().train_on_batch(X, Y),
    "evaluate": lambda: model().evaluate(X, Y, verbose=0),
    "test_on_batch": lambda: model().test_on_batch(X, Y),
    "routing_table": lambda: model().routing_table(),
    "reweight": lambda: model().reweight({"a": 1.0}),
    "compute_loss": lambda: model().compute_loss(X, Y, Y),
}

COMPILE: dict[str, Call] = {
    "optimizer=None": lambda: compiled(optimizer=None),
    "optimizer='addam'": lambda: compiled(optimizer="addam"),
    "optimizer=3": lambda: compiled(optimizer=3),
    "optimizer is a class": lambda: compiled(optimizer=keras.optimizers.Adam),
    "optimizer=[...]": lambda: compiled(optimizer=["adam", "sgd"]),
    "optimizer={}": lambda: compiled(optimizer={}),
    "optimizer={network: None}": lambda: joined(optimizer={"encoder": None, "*": "sgd"}),
    "optimizer={network: 3}": lambda: joined(optimizer={"encoder": 3, "*": "sgd"}),
    "optimizer of no network": lambda: joined(optimizer={"encodr": "adam", "*": "sgd"}),
    "optimizer for some": lambda: joined(optimizer={"encoder": "adam"}),
    "optimizer={1: ...}": lambda: joined(optimizer={1: "adam", "*": "sgd"}),
    "combine='upgrda'": lambda: compiled(combine="upgrda"),
    "combine=''": lambda: compiled(combine=""),
    "combine=None": lambda: compiled(combine=None),
    "combine=3": lambda: compiled(combine=3),
    "combine=UPGrad": lambda: compiled(combine=pt.UPGrad),
    "combine=[...]": lambda: compiled(combine=[pt.Normalize(), pt.PCGrad()]),
    "combine={}": lambda: compiled(combine={}),
    "combine={network: None}": lambda: joined(combine={"encoder": None, "*": "sum"}),
    "combine={1: ...}": lambda: joined(combine={1: "sum", "*": "sum"}),
    "combine of no network": lambda: joined(combine={"encodr": "sum", "*": "sum"}),
    "combine for some": lambda: joined(combine={"encoder": "upgrad"}),
    "combine is a Combiner": lambda: compiled(combine=pt.Combiner("upgrad")),
    "seed='x'": lambda: compiled(seed="x"),
    "seed=1.5": lambda: compiled(seed=1.5),
    "seed=True": lambda: compiled(seed=True),
    "seed=[1]": lambda: compiled(seed=[1]),
    "private='mine'": lambda: compiled(private="mine"),
    "private=None": lambda: compiled(private=None),
    "private=[...]": lambda: compiled(private=["own"]),
    "measure='params'": lambda: compiled(measure="params"),
    "measure=None": lambda: compiled(measure=None),
    "on_nonfinite='cry'": lambda: compiled(on_nonfinite="cry"),
    "on_nonfinite=None": lambda: compiled(on_nonfinite=None),
    "measure of a scope": lambda: compiled(combine=pt.PerVariable(pt.MGDA()), measure="outputs"),
    "loss of no output": lambda: compiled(loss={"a": "mse", "d": "mse"}),
    "loss='msee'": lambda: compiled(loss={"a": "msee"}),
    "loss=3": lambda: compiled(loss=3),
    "loss={a: 3}": lambda: compiled(loss={"a": 3}),
    "loss is a class": lambda: compiled(loss={"a": keras.losses.MeanSquaredError}),
    "loss twice": lambda: compiled(loss={"a": ["mse", "mse"]}),
    "loss_weights of no loss": lambda: compiled(loss_weights={"a": 1.0, "bb": 1.0}),
    "loss_weights too few": lambda: compiled(loss_weights=[1.0, 2.0]),
    "loss_weights=nan": lambda: compiled(loss_weights={"a": NAN}),
    "loss_weights=text": lambda: compiled(loss_weights={"a": "0.5"}),
    "Reweight of no loss": lambda: compiled(combine=pt.Reweight({"aa": 1})),
    "a typo in an argument": lambda: compiled(combin="upgrad"),
    "phases without objectives": lambda: compiled(phases=["a"]),
    "loss and objectives": lambda: joined(loss="mse"),
    "loss_weights and objectives": lambda: joined(loss_weights=[1.0]),
    "weights in two places": lambda: joined(
        of("image", "mse", weight=2.0), combine=pt.Chain(pt.Reweight({}), pt.Sum())
    ),
    "objectives=[]": lambda: joined([]),
    "objectives={}": lambda: joined({}),
    "objectives is one": lambda: joined(pt.Objective("image", "mse")),
    "objectives of strings": lambda: joined(["image"]),
    "objectives is a dict": lambda: joined({"image": "mse"}),
    "objectives twice": lambda: joined([*objectives(), pt.Objective("image", "mae")]),
    "objectives are classes": lambda: joined([pt.Objective]),
    "metrics of no output": lambda: fitted(metrics={"d": "mae"}),
}

OBJECTIVE: dict[str, Call] = {
    "no name": lambda: pt.Objective("", "mse"),
    "name=3": lambda: pt.Objective(3, "mse"),
    "name and loss swapped": lambda: pt.Objective(lambda step: 0.0, "image"),
    "loss=None": lambda: pt.Objective("a", None),
    "loss=3": lambda: pt.Objective("a", 3),
    "loss='msee'": lambda: joined(of("image", "msee")),
    "loss of three": lambda: pt.Objective("a", lambda a, b, c: a),
    "loss of none": lambda: pt.Objective("a", lambda: 0.0),
    "loss is a class": lambda: pt.Objective("a", keras.losses.MeanSquaredError),
    "trains=[]": lambda: pt.Objective("a", "mse", trains=[]),
    "trains=3": lambda: pt.Objective("a", "mse", trains=3),
    "trains=[None]": lambda: pt.Objective("a", "mse", trains=[None]),
    "trains of no network": lambda: joined(of("image", "mse", trains="encodr")),
    "trains of no pattern": lambda: joined(of("image", "mse", trains="encoder/*/kernle")),
    "weight='0.5'": lambda: pt.Objective("a", "mse", weight="0.5"),
    "weight=None": lambda: pt.Objective("a", "mse", weight=None),
    "weight=True": lambda: pt.Objective("a", "mse", weight=True),
    "weight=nan": lambda: pt.Objective("a", "mse", weight=NAN),
    "weight=inf": lambda: pt.Objective("a", "mse", weight=INF),
    "weight=1j": lambda: pt.Objective("a", "mse", weight=1j),
    "weight=[1]": lambda: pt.Objective("a", "mse", weight=[1.0]),
    "every=0": lambda: pt.Objective("a", "mse", every=0),
    "every=1.5": lambda: pt.Objective("a", "mse", every=1.5),
    "every=True": lambda: pt.Objective("a", "mse", every=True),
    "every='2'": lambda: pt.Objective("a", "mse", every="2"),
    "when=True": lambda: pt.Objective("a", "mse", when=True),
    "when=3": lambda: pt.Objective("a", "mse", when=3),
    "output of a function": lambda: pt.Objective("a", lambda step: 0.0, output="image"),
    "a typo in an argument": lambda: pt.Objective("a", "mse", train="encoder"),
    "when returns None": lambda: routed(of("image", "mse", when=lambda step: None)),
    "when returns a vector": lambda: routed(
        of("image", "mse", when=lambda step: ops.ones((2,), "bool"))
    ),
    "when returns text": lambda: routed(of("image", "mse", when=lambda step: "yes")),
    "loss returns None": lambda: routed(of("s", lambda step: None)),
    "loss returns a number": lambda: routed(of("s", lambda step: 1.0)),
    "loss returns an array": lambda: routed(of("s", lambda step: np.float32(1.0))),
    "loss returns a vector": lambda: routed(of("s", lambda step: step.outputs["code"][0])),
    "loss returns a dict": lambda: routed(of("s", lambda step: {"a": 1.0})),
    "loss reads no output": lambda: routed(of("s", lambda step: step.outputs["coed"])),
    "loss of integers": lambda: routed(
        of("s", lambda step: ops.sum(ops.cast(step.outputs["code"], "int32")))
    ),
    "output not there": lambda: routed(of("image", "mse", output="imag")),
    "target not there": lambda: routed(of("image", "mse", target="imag")),
    "no targets": lambda: routed(y=None),
    "targets of another shape": lambda: routed(y={**JY, "image": JY["image"][:, :1]}),
    "reaches nothing": lambda: routed(
        of("s", lambda step: ops.sum(ops.stop_gradient(step.outputs["code"])))
    ),
    "reaches nothing that it trains": lambda: routed(
        of("s", lambda step: ops.sum(step.outputs["code"]), trains="decoder")
    ),
    "Step by position": lambda: pt.Step(1, 2),
}

PHASES: dict[str, Call] = {
    "Phase(3)": lambda: pt.Phase(3),
    "Phase(None)": lambda: pt.Phase(None),
    "Phase([])": lambda: pt.Phase([]),
    "Phase([3])": lambda: pt.Phase([3]),
    "Phase(steps=0)": lambda: pt.Phase("image", steps=0),
    "Phase(steps=1.5)": lambda: pt.Phase("image", steps=1.5),
    "Phase(steps=True)": lambda: pt.Phase("image", steps=True),
    "Phase twice the name": lambda: pt.Phase(["image", "image"]),
    "phases=3": lambda: joined(phases=3),
    "phases=[]": lambda: joined(phases=[]),
    "phases='image'": lambda: joined(phases="image"),
    "a phase is a number": lambda: phases(3),
    "a phase of no objective": lambda: phases("imag", "label", "sparsity"),
    "an objective in no phase": lambda: phases("image", "label"),
    "an objective in two phases": lambda: phases("image", ["label", "image"], "sparsity"),
}

FIT: dict[str, Call] = {
    "no targets": lambda: fitted(y=None),
    "a target is missing": lambda: fitted(y={"a": Y["a"]}),
    "inputs of another shape": lambda: fitted(x=X[:, :3]),
    "routing_table of loss=": lambda: compiled().routing_table(),
    "reweight without a stage": lambda: compiled().reweight({"a": 1.0}),
    "reweight no objective": lambda: compiled(combine=pt.Reweight()).reweight({"aa": 1.0}),
    "reweight nan": lambda: compiled(combine=pt.Reweight()).reweight({"a": NAN}),
    "reweight text": lambda: compiled(combine=pt.Reweight()).reweight({"a": "x"}),
    "reweight a list": lambda: compiled(combine=pt.Reweight()).reweight([1.0]),
    "reweight a schedule": lambda: joined(
        of("image", "mse", weight=keras.optimizers.schedules.ExponentialDecay(1.0, 9, 0.5))
    ).reweight({"image": 0.5}),
    "reweight a variable": lambda: joined(of("image", "mse", weight=keras.Variable(1.0))).reweight(
        {"image": 0.5}
    ),
    "reweight a number": lambda: compiled(combine=pt.Reweight()).reweight(1.0),
}

MODELS: dict[str, Call] = {
    "wrap('model')": lambda: pt.Model.wrap("model"),
    "wrap(class)": lambda: pt.Model.wrap(keras.Model),
    "wrap(layer)": lambda: pt.Model.wrap(layers.Dense(1)),
    "networks=[]": lambda: pt.Model(networks=[]),
    "networks={}": lambda: pt.Model(networks={}),
    "networks=[...]": lambda: pt.Model(networks=list(networks().values())),
    "networks={'a': 3}": lambda: pt.Model(networks={"a": 3}),
    "networks={1: ...}": lambda: pt.Model(networks={1: networks()["encoder"]}),
    "networks={'*': ...}": lambda: pt.Model(networks={"*": networks()["encoder"]}),
    "forward=3": lambda: pt.Model(networks=networks(), forward=3),
    "forward of one": lambda: pt.Model(networks=networks(), forward=lambda x: x),
    "forward without networks": lambda: pt.Model(forward=forward),
    "Optimizers({})": lambda: pt.Optimizers({}),
    "Optimizers([...])": lambda: pt.Optimizers(["adam"]),
    "Optimizers(None)": lambda: pt.Optimizers(None),
    "Optimizers of a typo": lambda: pt.Optimizers({"a": "addam"}),
    "Optimizers of a class": lambda: pt.Optimizers({"a": keras.optimizers.Adam}),
    "Optimizers['b']": lambda: pt.Optimizers({"a": "adam"})["b"],
    "owners of no optimizer": lambda: pt.Optimizers({"a": "adam"}, owners=["b"]),
    "one optimizer twice": lambda: pt.Optimizers(dict.fromkeys("ab", keras.optimizers.Adam())),
    "scaling inside": lambda: pt.Optimizers(
        {"a": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())}
    ),
    "optimizers without owners": lambda: pt.Optimizers({"a": "adam"}).build([]),
}

STAGES: dict[str, Call] = {
    "Reweight([...])": lambda: pt.Reweight([1.0, 2.0]),
    "Reweight(3)": lambda: pt.Reweight(3),
    "Reweight(None)": lambda: pt.Reweight(None),
    "Reweight of text": lambda: pt.Reweight({"a": "x"}),
    "Reweight of nan": lambda: pt.Reweight({"a": NAN}),
    "Reweight of True": lambda: pt.Reweight({"a": True}),
    "Reweight of complex": lambda: pt.Reweight({"a": 1j}),
    "Reweight {1: 1.0}": lambda: pt.Reweight({1: 1.0}),
    "Chain()": lambda: pt.Chain(),
    "Chain of text": lambda: pt.Chain("normalize", "pcgrad"),
    "Chain of a list": lambda: pt.Chain([pt.Normalize(), pt.PCGrad()]),
    "Chain of a class": lambda: pt.Chain(pt.Normalize, pt.PCGrad()),
    "Chain, rows first": lambda: pt.Chain(pt.GradDrop(), pt.PCGrad()),
    "Chain of two scopes": lambda: pt.Chain(
        pt.PerVariable(pt.Normalize()), pt.PerNetwork(pt.PCGrad())
    ),
    "PerVariable of text": lambda: pt.PerVariable("pcgrad"),
    "PerVariable of a class": lambda: pt.PerVariable(pt.PCGrad),
    "PerVariable()": lambda: pt.PerVariable(),
    "PerNetwork(3)": lambda: pt.PerNetwork(3),
    "PerNetwork({})": lambda: pt.PerNetwork({}),
    "PerNetwork of text": lambda: pt.PerNetwork({"a": "pcgrad"}),
    "scope in scope": lambda: pt.PerNetwork(pt.PerVariable(pt.PCGrad())),
    "Every of text": lambda: pt.Every("pcgrad"),
    "Every(steps=0)": lambda: pt.Every(pt.PCGrad(), steps=0),
    "Every(steps=True)": lambda: pt.Every(pt.PCGrad(), steps=True),
    "Smoothed of text": lambda: pt.Smoothed("mgda"),
    "Smoothed(decay=1.5)": lambda: pt.Smoothed(pt.MGDA(), decay=1.5),
    "Smoothed(None)": lambda: pt.Smoothed(None),
    "GlobalClip of text": lambda: pt.GlobalClip("mgda", 1.0),
    "GlobalClip(1.0)": lambda: pt.GlobalClip(1.0),
    "GlobalClip(-1)": lambda: pt.GlobalClip(pt.MGDA(), -1.0),
    "GlobalClip(nan)": lambda: pt.GlobalClip(pt.MGDA(), NAN),
    "Clip(0)": lambda: pt.Clip(0.0),
    "Clip('x')": lambda: pt.Clip("x"),
    "Log of text": lambda: pt.Log("mgda"),
    "CAGrad(c=-1)": lambda: pt.CAGrad(c=-1.0),
    "CAGrad(c='0.4')": lambda: pt.CAGrad(c="0.4"),
    "CAGrad(d=1)": lambda: pt.CAGrad(d=1.0),
    "EPO of a list": lambda: pt.EPO([2.0, 1.0]),
    "EPO of zeros": lambda: pt.EPO((0.0, 0.0)),
    "EPO of three for two": lambda: pt.weigh(pt.EPO((1.0, 1.0, 1.0)), GOOD, losses=[1.0, 1.0]),
    "scale='summ'": lambda: pt.UPGrad(scale="summ"),
    "a method by position": lambda: pt.Sum("upgrad"),
    "pt.UpGrad": lambda: pt.UpGrad(),
    "pt.gradient": lambda: pt.gradient,
    "pt.combiner_": lambda: pt.Combinr,
    "pt.models": lambda: pt.Modell,
}

WEIGH: dict[str, Call] = {
    "nothing": lambda: pt.weigh("mgda"),
    "no Gramian": lambda: pt.weigh("mgda", losses=[1.0, 2.0]),
    "no such method": lambda: pt.weigh("mgdaa", GOOD),
    "not square": lambda: pt.weigh("mgda", np.ones((2, 3))),
    "T = 0": lambda: pt.weigh("mgda", np.ones((0, 0))),
    "T = 0 losses": lambda: pt.weigh("dwa", losses=[]),
    "ragged": lambda: pt.weigh("mgda", [[1.0, 0.0], [1.0]]),
    "ragged losses": lambda: pt.weigh("dwa", losses=[[1.0, 0.0], [1.0]]),
    "strings": lambda: pt.weigh("mgda", [["a", "b"], ["c", "d"]]),
    "losses of strings": lambda: pt.weigh("dwa", losses=["a", "b"]),
    "a dict of losses": lambda: pt.weigh("dwa", losses={"a": 1.0, "b": 2.0}),
    "complex": lambda: pt.weigh("mgda", np.eye(2) * 1j),
    "complex losses": lambda: pt.weigh("dwa", losses=[1j, 1.0]),
    "nan": lambda: pt.weigh("mgda", [[NAN, 0.0], [0.0, 1.0]]),
    "nan losses": lambda: pt.weigh("dwa", losses=[NAN, 1.0]),
    "inf losses": lambda: pt.weigh("gls", losses=[INF, 1.0]),
    "names twice": lambda: pt.weigh("mgda", GOOD, names=["a", "a"]),
    "names are numbers": lambda: pt.weigh("mgda", GOOD, names=[1, 2]),
    "names is text": lambda: pt.weigh("mgda", GOOD, names="ab c"),
    "too many names": lambda: pt.weigh("mgda", GOOD, names=["a", "b", "c"]),
    "active of another size": lambda: pt.weigh("mgda", GOOD, active=[True]),
    "active of numbers": lambda: pt.weigh("mgda", GOOD, active=[0.5, 1.0]),
    "active of text": lambda: pt.weigh("mgda", GOOD, active=["yes", "no"]),
    "step='x'": lambda: pt.weigh("mgda", GOOD, step="x"),
    "step=-1": lambda: pt.weigh("mgda", GOOD, step=-1),
    "step=1.5": lambda: pt.weigh("mgda", GOOD, step=1.5),
    "seed='x'": lambda: pt.weigh("randomweights", GOOD, seed="x"),
    "seed=1.5": lambda: pt.weigh("randomweights", GOOD, seed=1.5),
    "no cross": lambda: pt.weigh("modo", GOOD),
    "cross of another size": lambda: pt.weigh("modo", GOOD, cross=np.ones((3, 3))),
    "cross of nan": lambda: pt.weigh("modo", GOOD, cross=[[NAN, 0.0], [0.0, 1.0]]),
    "cross of text": lambda: pt.weigh("modo", GOOD, cross="x"),
    "no traces": lambda: pt.weigh("ntk", losses=[1.0, 2.0]),
    "traces of another size": lambda: pt.weigh("ntk", losses=[1.0, 2.0], traces=[1.0]),
    "negative traces": lambda: pt.weigh("ntk", losses=[1.0, 2.0], traces=[-1.0, 1.0]),
    "traces of nan": lambda: pt.weigh("ntk", losses=[1.0, 2.0], traces=[NAN, 1.0]),
    "last=3": lambda: pt.weigh("famo", losses=[1.0, 2.0], last=3),
    "last of two": lambda: pt.weigh("famo", losses=[1.0, 2.0], last=([1.0, 2.0], [1.0, 2.0])),
    "last of other sizes": lambda: pt.weigh("famo", losses=[1.0, 2.0], last=([1.0], [1.0], [True])),
    "last of text": lambda: pt.weigh("famo", losses=[1.0, 2.0], last=("a", "b", "c")),
    "a state of another size": lambda: pt.weigh(
        pt.Smoothed(pt.Normalize()), np.eye(3), state=pt.weigh(pt.Smoothed(pt.Normalize()), GOOD)[1]
    ),
    "a state of another kind": lambda: pt.weigh(pt.Smoothed(pt.Normalize()), GOOD, state=3),
    "a state of nan": lambda: pt.weigh(
        "dwa",
        losses=[1.0, 2.0],
        state=keras.tree.map_structure(
            lambda leaf: np.full(np.shape(leaf), NAN), pt.weigh("dwa", losses=[1.0, 1.0])[1]
        ),
    ),
    "sees the rows": lambda: pt.weigh(pt.MoCo(), GOOD),
}

LOOP: dict[str, Call] = {
    "not a function": lambda: pt.gradients({"a": 1.0}, [keras.Variable(1.0)]),
    "a function with arguments": lambda: pt.gradients(lambda x: {"a": x}, [keras.Variable(1.0)]),
    "no variables": lambda: pt.gradients(lambda: {"a": ops.ones(())}, []),
    "variables are arrays": lambda: pt.gradients(lambda: {"a": ops.ones(())}, [np.ones(2)]),
    "variables are layers": lambda: pt.gradients(lambda: {"a": ops.ones(())}, [layers.Dense(1)]),
    "variables are None": lambda: pt.gradients(lambda: {"a": ops.ones(())}, None),
    "a variable twice": lambda: (lambda w: pt.gradients(lambda: {"a": ops.sum(w.value)}, [w, w]))(
        keras.Variable(1.0)
    ),
    "returns nothing": lambda: pt.gradients(lambda: None, [keras.Variable(1.0)]),
    "returns an empty dict": lambda: pt.gradients(lambda: {}, [keras.Variable(1.0)]),
    "a loss is None": lambda: one(lambda w: None),
    "a loss is a number": lambda: one(lambda w: 1.0),
    "a loss is an array": lambda: one(lambda w: np.array(3.0, "float32")),
    "a loss is a vector": lambda: one(lambda w: w * 2.0),
    "a loss is an integer": lambda: one(lambda w: ops.sum(ops.cast(w, "int32"))),
    "a loss is complex": lambda: one(lambda w: ops.cast(ops.sum(w), "complex64")),
    "a loss reaches nothing": lambda: one(lambda w: ops.sum(ops.stop_gradient(w))),
    "names are numbers": lambda: pt.gradients(lambda: {1: ops.ones(())}, [keras.Variable(1.0)]),
    "measure='outputs'": lambda: one(ops.sum, measure="outputs"),
    "measure without a mark": lambda: one(ops.sum, measure="features"),
    "grads['c']": lambda: pair()["c"],
    "combine of no loss": lambda: pair().combine("upgrad", losses=["c"]),
    "combine of losses twice": lambda: pair().combine("upgrad", losses=["a", "a"]),
    "combine of another variable": lambda: pair().combine(
        "upgrad", variables=[keras.Variable(1.0, name="other")]
    ),
    "combine with a state": lambda: pair().combine(pt.FAMO()),
    "combine, private beside a Combiner": lambda: pair().combine(
        pt.Combiner("upgrad"), private="joint"
    ),
    "combine, private='mine'": lambda: pair().combine("upgrad", private="mine"),
    "compiled_step of losses": lambda: pt.compiled_step({"a": 1.0}, "sgd", "upgrad", model()),
    "compiled_step, no optimizer": lambda: pt.compiled_step(lambda x: x, None, "upgrad", model()),
    "compiled_step, no networks": lambda: pt.compiled_step(
        lambda x: {"a": x}, "sgd", "upgrad", None
    )(1.0),
    "compiled_step, no dict": lambda: pt.compiled_step(lambda x: None, "sgd", "upgrad", model())(
        1.0
    ),
    "Combiner('upgrda')": lambda: pt.Combiner("upgrda"),
    "Combiner(UPGrad)": lambda: pt.Combiner(pt.UPGrad),
    "Combiner(None)": lambda: pt.Combiner(None),
    "Combiner(private=)": lambda: pt.Combiner("upgrad", private="mine"),
    "Combiner(seed='x')": lambda: pt.Combiner("upgrad", seed="x"),
    "Combiner(seed=1.5)": lambda: pt.Combiner("upgrad", seed=1.5),
    "Combiner of a dict": lambda: pt.Combiner("upgrad")({"a": [1.0]}),
    "Combiner of other losses": lambda: (lambda c: (c(pair()), c(pair("cd"))))(
        pt.Combiner("upgrad")
    ),
    "Combiner without traces": lambda: pt.Combiner("ntk")(pair()),
    "traces of another size": lambda: pt.Combiner("ntk")(pair(), traces=[1.0]),
    "prepare(None)": lambda: pt.Combiner("upgrad").prepare(None, []),
    "prepare a string": lambda: pt.Combiner("upgrad").prepare("ab", [keras.Variable(1.0)]),
    "prepare a name twice": lambda: pt.Combiner("upgrad").prepare(
        ["a", "a"], [keras.Variable(1.0)]
    ),
    "prepare no variables": lambda: pt.Combiner("upgrad").prepare(["a"], []),
    "look_again first": lambda: pt.Combiner("famo").look_again({"a": 1.0}),
    "look_again without a key": lambda: ready().look_again({"a": 1.0}),
    "look_again one too many": lambda: ready().look_again({"a": 1.0, "b": 1.0, "c": 1.0}),
    "look_again a list": lambda: ready().look_again([1.0, 1.0]),
    "look_again text": lambda: ready().look_again({"a": "x", "b": 1.0}),
    "look_again a vector": lambda: ready().look_again({"a": ops.ones((2,)), "b": 1.0}),
    "heed first": lambda: pt.Combiner("dtp").on_epoch_metrics({"acc": 1.0}),
    "derivative of None": lambda: pt.derivative(lambda x: x, None),
    "derivative by integers": lambda: pt.derivative(lambda x: x, ops.ones((2,), "int32")),
    "derivative, not a function": lambda: pt.derivative(3, ops.ones((2,))),
    "derivative of a constant": lambda: pt.derivative(lambda x: ops.ones((2,)), ops.ones((2,))),
    "derivative, two outputs": lambda: pt.derivative(lambda x: (x, x), ops.ones((2,))),
}

DATA: dict[str, Call] = {
    "zip_objectives([])": lambda: pt.data.zip_objectives([]),
    "zip_objectives({})": lambda: pt.data.zip_objectives({}),
    "a source is a number": lambda: pt.data.zip_objectives({"a": 3}),
    "a source is text": lambda: pt.data.zip_objectives({"a": "data"}),
    "other lengths": lambda: pt.data.zip_objectives({"a": (np.ones(3), np.ones(4))}),
    "four arrays": lambda: pt.data.zip_objectives({"a": (np.ones(3),) * 4}),
    "an iterator": lambda: pt.data.zip_objectives({"a": iter([])}),
    "batch_size=0": lambda: pt.data.zip_objectives({"a": (np.ones(3),)}, batch_size=0),
    "batch_size of no source": lambda: pt.data.zip_objectives(
        {"a": (np.ones(3),)}, batch_size={"b": 1}
    ),
    "stop='first'": lambda: pt.data.zip_objectives({"a": (np.ones(3),)}, stop="first"),
    "stop=0": lambda: pt.data.zip_objectives({"a": (np.ones(3),)}, stop=0),
    "seed='x'": lambda: pt.data.zip_objectives({"a": (np.ones(3),)}, seed="x"),
    "multiple=0": lambda: pt.data.zip_objectives({"a": ([np.ones(3), np.ones(2)],)}, multiple=0),
    "padding='x'": lambda: pt.data.zip_objectives({"a": ([np.ones(3), np.ones(2)],)}, padding="x"),
}

GROUPS: dict[str, dict[str, Call]] = {
    "before compile": BEFORE_COMPILE,
    "compile": COMPILE,
    "objective": OBJECTIVE,
    "phases": PHASES,
    "fit": FIT,
    "models": MODELS,
    "stages": STAGES,
    "weigh": WEIGH,
    "loop": LOOP,
    "data": DATA,
}
