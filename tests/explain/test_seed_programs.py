"""Programs as people publish them, in answers about gradients of several losses, unmended.

Each is a script, run as it stands and with one name changed, `pt.GradientTape` for
`tf.GradientTape`. Either it then computes the same to the last bit; or it fails as it did, and the
mistake is named. Networks and data that a program leaves to the reader come before it.
"""

import re
import runpy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("for TensorFlow", allow_module_level=True)
tf = pytest.importorskip("tensorflow")

# ------------------------------------------------------------------ two networks, one target

TWO_NETWORKS = """
import tensorflow as tf
import polytape as pt

def small():
    hidden = tf.keras.layers.Dense(4, activation="relu")
    return tf.keras.Sequential([tf.keras.Input((3,)), hidden, tf.keras.layers.Dense(2)])

network_A, network_B = small(), small()
input_data, target_data = tf.random.normal((8, 3)), tf.random.normal((8, 2))
loss_function = loss_function_A = loss_function_B = tf.keras.losses.MeanSquaredError()
variables = network_A.trainable_variables + network_B.trainable_variables
"""

ONE_AFTER_THE_OTHER = """
optimizer_A = tf.keras.optimizers.Adam()
optimizer_B = tf.keras.optimizers.Adam()
with tf.GradientTape() as tape_A:
    output_A = network_A(input_data)
    loss_A = loss_function(output_A, target_data)
gradients_A = tape_A.gradient(loss_A, network_A.trainable_variables)
optimizer_A.apply_gradients(zip(gradients_A, network_A.trainable_variables))
with tf.GradientTape() as tape_B:
    output_B = network_B(input_data)
    loss_B = loss_function(output_B, target_data)
gradients_B = tape_B.gradient(loss_B, network_B.trainable_variables)
optimizer_B.apply_gradients(zip(gradients_B, network_B.trainable_variables))
"""

SUMMED = """
optimizer = tf.keras.optimizers.Adam()
with tf.GradientTape() as tape:
    output_A = network_A(input_data)
    output_B = network_B(input_data)
    loss = loss_function_A(output_A, target_data) + loss_function_B(output_B, target_data)
gradients = tape.gradient(loss, network_A.trainable_variables + network_B.trainable_variables)
optimizer.apply_gradients(
    zip(gradients, network_A.trainable_variables + network_B.trainable_variables)
)
"""

WEIGHTED = """
optimizer = tf.keras.optimizers.Adam()
weight_A = 0.7
weight_B = 0.3
with tf.GradientTape() as tape:
    output_A = network_A(input_data)
    output_B = network_B(input_data)
    loss = weight_A * loss_function_A(output_A, target_data) + weight_B * loss_function_B(
        output_B, target_data
    )
gradients = tape.gradient(loss, network_A.trainable_variables + network_B.trainable_variables)
optimizer.apply_gradients(
    zip(gradients, network_A.trainable_variables + network_B.trainable_variables)
)
"""

COMPLEX = """
optimizer = tf.keras.optimizers.Adam()

def complex_loss(output_A, output_B, target_data):
    return tf.reduce_mean(tf.square(output_A + output_B - target_data))

with tf.GradientTape() as tape:
    output_A = network_A(input_data)
    output_B = network_B(input_data)
    loss = complex_loss(output_A, output_B, target_data)
gradients = tape.gradient(loss, network_A.trainable_variables + network_B.trainable_variables)
optimizer.apply_gradients(
    zip(gradients, network_A.trainable_variables + network_B.trainable_variables)
)
"""

# ------------------------------------------------------------------- two weights, two losses

TWO_WEIGHTS = """
import tensorflow as tf
import polytape as pt

w1 = tf.Variable(tf.random.normal((2, 1)))
w2 = tf.Variable(tf.random.normal((3, 1)))
x1 = tf.constant([[1.0, 2.0]], dtype=tf.float32)
x2 = tf.constant([[3.0, 4.0, 5.0]], dtype=tf.float32)
y1_true = tf.constant([[3.0]], dtype=tf.float32)
y2_true = tf.constant([[20.0]], dtype=tf.float32)

def loss_fn1(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_pred - y_true))

def loss_fn2(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_pred - y_true))
"""

EACH_ITS_OWN = """
optimizer1 = tf.keras.optimizers.Adam(0.01)
optimizer2 = tf.keras.optimizers.SGD(0.005)
for _ in range(5):
    with tf.GradientTape(persistent=True) as tape:
        y1_pred = tf.matmul(x1, w1)
        y2_pred = tf.matmul(x2, w2)
        loss1 = loss_fn1(y1_true, y1_pred)
        loss2 = loss_fn2(y2_true, y2_pred)
    grad1 = tape.gradient(loss1, w1)
    grad2 = tape.gradient(loss2, w2)
    optimizer1.apply_gradients(zip([grad1], [w1]))
    optimizer2.apply_gradients(zip([grad2], [w2]))
"""

A_SECOND_PUSH = """
optimizer = tf.keras.optimizers.Adam(0.01)
for _ in range(5):
    with tf.GradientTape(persistent=True) as tape:
        y1_pred = tf.matmul(x1, w1)
        y2_pred = tf.matmul(x2, w2)
        loss1 = loss_fn1(y1_true, y1_pred)
        loss2 = loss_fn2(y2_true, y2_pred)
        total_loss = loss1 + loss2
    grad_all = tape.gradient(total_loss, [w1, w2])
    grad_w2 = tape.gradient(loss2, w2)
    optimizer.apply_gradients(zip(grad_all, [w1, w2]))
    optimizer.apply_gradients(zip([grad_w2], [w2]))
"""

CLIPPED = """
optimizer = tf.keras.optimizers.Adam(0.01)
clip_norm = 1.0
for _ in range(5):
    with tf.GradientTape(persistent=True) as tape:
        y1_pred = tf.matmul(x1, w1)
        y2_pred = tf.matmul(x2, w2)
        loss1 = loss_fn1(y1_true, y1_pred)
        loss2 = loss_fn2(y2_true, y2_pred)
    grad1 = tape.gradient(loss1, [w1, w2])
    grad2 = tape.gradient(loss2, [w1, w2])
    aggregated_grads = [g1 + g2 for g1, g2 in zip(grad1, grad2)]
    clipped_grads = [tf.clip_by_norm(g, clip_norm) for g in aggregated_grads]
    optimizer.apply_gradients(zip(clipped_grads, [w1, w2]))
"""

# ---------------------------------------------------------------- one output, cut in two parts

ONE_OUTPUT = """
import numpy as np
import tensorflow as tf
import polytape as pt

input_shape, output_1_dim, output_2_dim = (4, 4, 1), 16, 3
model = tf.keras.Sequential([
    tf.keras.layers.Input(shape=input_shape),
    tf.keras.layers.Flatten(),
    tf.keras.layers.Dense(8, activation="relu"),
    tf.keras.layers.Dense(output_1_dim + output_2_dim),
    tf.keras.layers.Reshape((output_1_dim + output_2_dim,)),
])
optimizer = tf.keras.optimizers.Adam()
loss_fn1 = tf.keras.losses.MeanSquaredError()
loss_fn2 = tf.keras.losses.CategoricalCrossentropy()
images = np.random.rand(8, 4, 4, 1).astype(np.float32)
target_1 = np.random.rand(8, 16).astype(np.float32)
target_2_one_hot = tf.one_hot(np.random.randint(0, 3, size=(8,)).astype(np.int32), depth=3)
"""

WEIGHTED_SUM = """
weight1, weight2 = 0.7, 0.3

def combined_loss_weighted(
    y_true_1, y_pred_1, y_true_2, y_pred_2, loss_fn1, loss_fn2, weight1, weight2
):
    loss1 = loss_fn1(y_true_1, y_pred_1)
    loss2 = loss_fn2(y_true_2, y_pred_2)
    return weight1 * loss1 + weight2 * loss2

@tf.function
def train_step(images, target_1, target_2):
    with tf.GradientTape() as tape:
        combined_output = model(images)
        output_1 = combined_output[:, :output_1_dim]
        output_2 = combined_output[:, output_1_dim:]
        loss = combined_loss_weighted(
            target_1, output_1, target_2, output_2, loss_fn1, loss_fn2, weight1, weight2
        )
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

train_step(images, target_1, target_2_one_hot)
"""

SEPARATE = """
def combined_loss_separate_gradients(y_true_1, y_pred_1, y_true_2, y_pred_2, loss_fn1, loss_fn2):
    with tf.GradientTape(persistent=True) as tape:
        loss1 = loss_fn1(y_true_1, y_pred_1)
        loss2 = loss_fn2(y_true_2, y_pred_2)
    grad1 = tape.gradient(loss1, model.trainable_variables)
    grad2 = tape.gradient(loss2, model.trainable_variables)
    del tape
    return grad1, grad2

@tf.function
def train_step_separate_grads(images, target_1, target_2):
    combined_output = model(images)
    output_1 = combined_output[:, :output_1_dim]
    output_2 = combined_output[:, output_1_dim:]
    grad1, grad2 = combined_loss_separate_gradients(
        target_1, output_1, target_2, output_2, loss_fn1, loss_fn2
    )
    combined_gradients = [
        (grad1[i] + grad2[i]) / 2
        if grad1[i] is not None and grad2[i] is not None
        else (grad1[i] if grad1[i] is not None else grad2[i])
        for i in range(len(grad1))
    ]
    optimizer.apply_gradients(zip(combined_gradients, model.trainable_variables))

train_step_separate_grads(images, target_1, target_2_one_hot)
"""

NORMALIZED = """
def combined_loss_norm_gradients(y_true_1, y_pred_1, y_true_2, y_pred_2, loss_fn1, loss_fn2):
    with tf.GradientTape(persistent=True) as tape:
        loss1 = loss_fn1(y_true_1, y_pred_1)
        loss2 = loss_fn2(y_true_2, y_pred_2)
    grad1 = tape.gradient(loss1, model.trainable_variables)
    grad2 = tape.gradient(loss2, model.trainable_variables)
    del tape
    grad1_normed = [tf.nn.l2_normalize(g) if g is not None else g for g in grad1]
    grad2_normed = [tf.nn.l2_normalize(g) if g is not None else g for g in grad2]
    return grad1_normed, grad2_normed

@tf.function
def train_step_norm_grads(images, target_1, target_2):
    combined_output = model(images)
    output_1 = combined_output[:, :output_1_dim]
    output_2 = combined_output[:, output_1_dim:]
    grad1_normed, grad2_normed = combined_loss_norm_gradients(
        target_1, output_1, target_2, output_2, loss_fn1, loss_fn2
    )
    combined_gradients = [
        (grad1_normed[i] + grad2_normed[i]) / 2
        if grad1_normed[i] is not None and grad2_normed[i] is not None
        else (grad1_normed[i] if grad1_normed[i] is not None else grad2_normed[i])
        for i in range(len(grad1_normed))
    ]
    optimizer.apply_gradients(zip(combined_gradients, model.trainable_variables))

train_step_norm_grads(images, target_1, target_2_one_hot)
"""

# --------------------------------------------------------------- a loss on a hidden layer

HIDDEN = """
import tensorflow as tf
import polytape as pt

class SimpleModel(tf.keras.Model):
    def __init__(self):
        super(SimpleModel, self).__init__()
        self.dense1 = tf.keras.layers.Dense(10, activation='relu')
        self.dense2 = tf.keras.layers.Dense(1, activation=None)

    def call(self, inputs):
        x = self.dense1(inputs)
        return self.dense2(x)

def primary_loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))

inputs = tf.random.normal((64, 5))
targets = tf.random.normal((64, 1))
model = SimpleModel()
optimizer = tf.keras.optimizers.Adam()
"""

AUXILIARY = """
def auxiliary_loss(x):
    return tf.reduce_sum(tf.square(x)) * 0.01

def training_step(inputs, targets):
    with tf.GradientTape() as tape:
        hidden_output = model.dense1(inputs)
        predictions = model(inputs)
        loss1 = primary_loss(targets, predictions)
        loss2 = auxiliary_loss(hidden_output)
    gradients1 = tape.gradient(loss1, model.trainable_variables)
    gradients2 = tape.gradient(loss2, model.trainable_variables)
    combined_gradients = [g1 + g2 for g1, g2 in zip(gradients1, gradients2)]
    optimizer.apply_gradients(zip(combined_gradients, model.trainable_variables))

for _ in range(5):
    training_step(inputs, targets)
"""

SMOOTH = """
def smoothness_loss(hidden):
    diffs = hidden[1:] - hidden[:-1]
    return tf.reduce_mean(tf.square(diffs)) * 0.1

def training_step(inputs, targets):
    with tf.GradientTape() as tape:
        hidden_output = model.dense1(inputs)
        predictions = model(inputs)
        loss1 = primary_loss(targets, predictions)
        loss2 = smoothness_loss(hidden_output)
    gradients1 = tape.gradient(loss1, model.trainable_variables)
    gradients2 = tape.gradient(loss2, model.trainable_variables)
    alpha = 0.7
    combined_gradients = [alpha*g1 + (1-alpha)*g2 for g1, g2 in zip(gradients1, gradients2)]
    optimizer.apply_gradients(zip(combined_gradients, model.trainable_variables))

for _ in range(5):
    training_step(inputs, targets)
"""

ENCODER_DECODER = """
import tensorflow as tf
import polytape as pt

class Coder(tf.keras.Model):
    def __init__(self, width):
        super(Coder, self).__init__()
        self.dense1 = tf.keras.layers.Dense(10, activation='relu')
        self.dense2 = tf.keras.layers.Dense(width, activation=None)

    def call(self, inputs):
        x = self.dense1(inputs)
        return self.dense2(x)

def reconstruction_loss(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))

def adversarial_loss(encoded):
    target_mean = tf.constant([0.5]*5, dtype=tf.float32)
    return tf.reduce_mean(tf.square(encoded - target_mean))

encoder, decoder = Coder(5), Coder(7)
encoder_optimizer = tf.keras.optimizers.Adam()
decoder_optimizer = tf.keras.optimizers.Adam()
inputs = tf.random.normal((64, 7))
targets = tf.random.normal((64, 7))

def training_step(inputs, targets):
    with tf.GradientTape() as encoder_tape, tf.GradientTape() as decoder_tape:
        encoded = encoder(inputs)
        reconstructed = decoder(encoded)
        loss1 = reconstruction_loss(targets, reconstructed)
        loss2 = adversarial_loss(encoded)
    gradients1 = decoder_tape.gradient(loss1, decoder.trainable_variables)
    gradients2 = encoder_tape.gradient(loss2, encoder.trainable_variables)
    decoder_optimizer.apply_gradients(zip(gradients1, decoder.trainable_variables))
    encoder_optimizer.apply_gradients(zip(gradients2, encoder.trainable_variables))

for _ in range(5):
    training_step(inputs, targets)
"""

# ----------------------------------------------------- inputs by name, for several models

BY_NAME = """
import tensorflow as tf
import polytape as pt

model1 = tf.keras.Sequential([tf.keras.layers.Dense(6, activation='relu')])
model2 = tf.keras.Sequential([tf.keras.layers.Dense(6, activation='relu')])
"""

CONCATENATED = """
combined_model = tf.keras.Sequential([
    tf.keras.layers.Lambda(lambda x: tf.concat([x['model1'], x['model2']], axis=1)),
    tf.keras.layers.Dense(1, activation='sigmoid')
])
input_data = {'model1': tf.random.normal((1, 4)), 'model2': tf.random.normal((1, 4))}
with tf.GradientTape() as tape:
    predictions = combined_model(input_data)
    loss = tf.keras.losses.binary_crossentropy(tf.constant([1.0]), predictions)
gradients = tape.gradient(loss, combined_model.trainable_variables)
"""

ADDED = """
def custom_loss(y_true, y_pred, model1_output, model2_output):
    difference = tf.reduce_mean(tf.abs(model1_output - model2_output))
    return difference + tf.keras.losses.mse(y_true, y_pred)

combined_model = tf.keras.Model(
    inputs=[model1.input, model2.input],
    outputs=[
        model1.output, model2.output, tf.keras.layers.Add()([model1.output, model2.output])
    ],
)
input_data_model1 = tf.random.normal((1, 4))
input_data_model2 = tf.random.normal((1, 4))
with tf.GradientTape() as tape:
    model1_out, model2_out, combined_out = combined_model([input_data_model1, input_data_model2])
    loss = custom_loss(tf.constant([0.0]), combined_out, model1_out, model2_out)
gradients = tape.gradient(loss, combined_model.trainable_variables)
"""

LAST_STEP = """
model1 = tf.keras.Sequential([tf.keras.layers.LSTM(6)])
combined_model = tf.keras.Sequential([
    tf.keras.layers.Lambda(lambda x: tf.concat([x['model1'][:, -1, :], x['model2']], axis=1)),
    tf.keras.layers.Dense(1, activation='sigmoid')
])
input_data = {'model1': tf.random.normal((1, 5, 4)), 'model2': tf.random.normal((1, 4))}
with tf.GradientTape() as tape:
    predictions = combined_model(input_data)
    loss = tf.keras.losses.binary_crossentropy(tf.constant([1.0]), predictions)
gradients = tape.gradient(loss, combined_model.trainable_variables)
"""


ADD_NONE = (
    r"of one loss .* have a gradient, of another None, .*tape.gradients\(.*combine\(\"sum\"\).* at "
    r"pt.py:\d+: {0}1 = tape.gradient\(loss1, .* and pt.py:\d+: {0}2 = tape.gradient\(loss2, .*"
)
OUTSIDE = (
    r"by any of its 4 sources \(.*kernel, .*\): No variable was read inside the `with` block: the "
    r"prediction was computed outside the tape. .* At pt.py:\d+: grad{0} = tape.gradient\(loss{0}"
)
TWICE = (
    r"non-persistent .* used up: `gradient`, at pt.py:\d+: gradients1 = tape.gradient\(loss1, .* "
    r"in one call, tape.gradients\(\{\"a\": loss_a, .* pt.GradientTape\(persistent=True\)"
)
NO_RANK = (
    r"`target` and `output` must have the same rank .* target.shape=\(1,\), output.shape=\(1, 1"
)


@dataclass(frozen=True)
class Seed:
    """A program, and what it meets.

    error   how it ends, with TensorFlow's tape as well;  named  in the text of that, with ours
    warned  what ours warns of before that, in order
    """

    before: str
    text: str
    error: type[Exception] | None = None
    named: str = ""
    warned: tuple[str, ...] = ()


SEEDS = {
    "one network after the other": Seed(TWO_NETWORKS, ONE_AFTER_THE_OTHER),
    "two networks, summed": Seed(TWO_NETWORKS, SUMMED),
    "two networks, weighted": Seed(TWO_NETWORKS, WEIGHTED),
    "two networks, one loss of both": Seed(TWO_NETWORKS, COMPLEX),
    "each weight its own optimizer": Seed(TWO_WEIGHTS, EACH_ITS_OWN),
    "a second push": Seed(TWO_WEIGHTS, A_SECOND_PUSH),
    "added and clipped": Seed(
        TWO_WEIGHTS, CLIPPED, ValueError, r"value \(None\)", (ADD_NONE.format("grad"),)
    ),
    "weighted sum": Seed(ONE_OUTPUT, WEIGHTED_SUM),
    "separate gradients": Seed(
        ONE_OUTPUT,
        SEPARATE,
        ValueError,
        "No gradients provided for any variable",
        (OUTSIDE.format(1), OUTSIDE.format(2)),
    ),
    "normalized gradients": Seed(
        ONE_OUTPUT,
        NORMALIZED,
        ValueError,
        "No gradients provided for any variable",
        (OUTSIDE.format(1), OUTSIDE.format(2)),
    ),
    "auxiliary loss": Seed(HIDDEN, AUXILIARY, RuntimeError, TWICE),
    "encoder and decoder": Seed("", ENCODER_DECODER),
    "smooth hidden layer": Seed(HIDDEN, SMOOTH, RuntimeError, TWICE),
    "inputs by name": Seed(BY_NAME, CONCATENATED, ValueError, NO_RANK),
    "outputs added": Seed(BY_NAME, ADDED, AttributeError, "sequential.* has never been called"),
    "last step of a sequence": Seed(BY_NAME, LAST_STEP, ValueError, NO_RANK),
}


def run(program: str, path: Path) -> tuple[dict[str, Any], Exception | None, list[str]]:
    """What a script leaves behind, how it fails, and what it is warned of."""
    path.write_text(program)
    keras.utils.set_random_seed(0)
    left: dict[str, Any] = {}
    failed = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            left = runpy.run_path(str(path))
        except Exception as error:
            failed = error
    told = [w for w in caught if issubclass(w.category, UserWarning)]
    assert all(w.filename == str(path) for w in told), told
    return left, failed, [str(w.message) for w in told]


def numbers(left: dict[str, Any]) -> dict[str, list[bytes]]:
    """All weights, slots, losses and gradients of a script, bit by bit."""
    found = {}
    for name, value in left.items():
        if isinstance(value, keras.Model):
            value = value.weights
        elif isinstance(value, keras.optimizers.Optimizer):
            value = value.variables
        leaves = value if isinstance(value, list) else [value]
        if leaves and all(isinstance(v, (tf.Variable, tf.Tensor, keras.Variable)) for v in leaves):
            found[name] = [keras.ops.convert_to_numpy(leaf).tobytes() for leaf in leaves]
    return found


def renamed(program: str) -> str:
    return program.replace("tf.GradientTape", "pt.GradientTape")


def test_they_are_sixteen() -> None:
    assert len(SEEDS) == 16
    assert all("tf.GradientTape(" in seed.text for seed in SEEDS.values())


@pytest.mark.parametrize("name", SEEDS)
def test_works_as_with_tensorflow_or_says_why(name: str, tmp_path: Path) -> None:
    seed = SEEDS[name]
    program = seed.before + seed.text
    left, failed, told = run(program, tmp_path / "tf.py")
    assert not told
    own_left, own_failed, own_told = run(renamed(program), tmp_path / "pt.py")
    assert type(failed) is type(own_failed)
    assert len(own_told) == len(seed.warned), own_told
    for text, message in zip(seed.warned, own_told, strict=True):
        assert re.search(text, message, re.DOTALL), message
    if seed.error is None:
        assert failed is None, failed
        assert numbers(own_left) == numbers(left)
        assert len(numbers(left)) >= 3
        return
    assert isinstance(own_failed, seed.error)
    assert re.search(seed.named, str(own_failed), re.DOTALL), str(own_failed)


@pytest.mark.parametrize("name", ["auxiliary loss", "smooth hidden layer"])
def test_the_next_mistake(name: str, tmp_path: Path) -> None:
    """With a persistent tape `g1 + g2` meets None; `alpha * g1` does, too."""
    mended = SEEDS[name].text.replace("GradientTape()", "GradientTape(persistent=True)")
    program = SEEDS[name].before + mended
    _, failed, told = run(renamed(program), tmp_path / "pt.py")
    assert isinstance(failed, (TypeError, ValueError))
    assert len(told) == 1
    assert re.search(ADD_NONE.format("gradients"), told[0], re.DOTALL), told


def test_mended_in_one_line(tmp_path: Path) -> None:
    """As the warning says it."""
    seed = SEEDS["auxiliary loss"]
    start = seed.text.index("    gradients1 =")
    end = seed.text.index("    optimizer.apply")
    mended = (
        "    combined_gradients = tape.gradients({'a': loss1, 'b': loss2}, "
        "model.trainable_variables).combine('sum')\n"
    )
    text = seed.text[:start] + mended + seed.text[end:]
    left, failed, told = run(renamed(seed.before + text), tmp_path / "pt.py")
    assert failed is None, failed
    assert not told
    assert numbers(left)["model"]


def test_models_that_were_never_called_are_named(tmp_path: Path) -> None:
    """The labels' shape mended, the program trains its last layer, and neither of its models."""
    seed = SEEDS["inputs by name"]
    text = seed.text.replace("tf.constant([1.0])", "tf.constant([[1.0]])").replace(
        "gradients = tape.gradient(loss, combined_model.trainable_variables)",
        "tape.explain(loss[0], [combined_model, model1, model2])",
    )
    _, failed, _ = run(renamed(seed.before + text), tmp_path / "pt.py")
    assert isinstance(failed, ValueError)
    assert re.search(r"the layer 'sequential.*', which was never called", str(failed))
