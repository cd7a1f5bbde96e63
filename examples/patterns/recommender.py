"""A recommender with two labels: clicks of every impression, purchases of the clicked ones only.

Whether an item would have been bought is known only where it was clicked. By hand the unclicked
rows become zeros (which teaches that nothing is bought), or are weighted zero while the mean still
divides by the whole batch (which makes the rare loss rarer still, and 0 * NaN is NaN). Here the
missing purchases are NaN: no label, the mean is over what is there, and a batch without a click
has no purchase objective. Embeddings see few rows per step and get an optimizer of their own.

KERAS_BACKEND=torch python examples/patterns/recommender.py        (or tensorflow, or jax)
"""

from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.metrics import roc_auc_score

import polytape as pt

USERS, ITEMS = 100, 50


def impressions(count: int = 8192, seed: int = 0) -> tuple[dict, dict]:
    """Who saw what, and {"click", "buy"}, (count, 1), from a made-up taste of every user."""
    rng = np.random.default_rng(seed)
    taste, wealth = rng.normal(size=(USERS, 2)), rng.normal(size=USERS)
    kind, price = rng.normal(size=(ITEMS, 2)), rng.normal(size=ITEMS)
    user, item = rng.integers(USERS, size=count), rng.integers(ITEMS, size=count)
    liking = (taste[user] * kind[item]).sum(axis=1)
    click = rng.logistic(size=count) < 2 * liking - 1
    buy = rng.logistic(size=count) < liking + 2 * (wealth[user] - price[item])
    buy = np.where(click, buy, np.nan)
    labels = {"click": click, "buy": buy}
    return {"user": user, "item": item}, {
        k: v.astype("float32")[:, None] for k, v in labels.items()
    }


def build() -> tuple[keras.Model, dict[str, Any]]:
    user, item = (keras.Input((), dtype="int32", name=name) for name in ("user", "item"))
    person = layers.Embedding(USERS, 8, "random_normal", name="user_embedding")(user)
    product = layers.Embedding(ITEMS, 8, "random_normal", name="item_embedding")(item)
    match = layers.Concatenate()([person, product, person * product])
    trunk = layers.Dense(32, activation="relu", name="trunk")(match)
    heads = {name: layers.Dense(1, name=name)(trunk) for name in ("click", "buy")}

    model = pt.Model({"user": user, "item": item}, heads)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(
        objectives=[pt.Objective("click", loss), pt.Objective("buy", loss)],
        optimizer={
            "*_embedding/*": keras.optimizers.Adagrad(0.1, initial_accumulator_value=1e-6),
            "*": keras.optimizers.Adam(3e-3),
        },
        combine="pcgrad",  # where both meet: in the trunk and the embeddings
    )
    x, y = impressions()
    return model, {"x": x, "y": y, "batch_size": 512}


def main(epochs: int = 15) -> dict[str, float]:
    keras.utils.set_random_seed(0)
    model, data = build()
    model.fit(**data, epochs=epochs, verbose=0)
    logits, found = model.predict(data["x"], verbose=0), {}
    for name, labels in data["y"].items():
        known = ~np.isnan(labels)
        found[name] = float(roc_auc_score(labels[known], logits[name][known]))
    print("area under the curve", {name: round(value, 3) for name, value in found.items()})
    return found


if __name__ == "__main__":
    main()
