"""`keras.distribution` on JAX: N devices end where one does, for every method and way of training.

One process for each table. That all devices hold the same bits, `jax_spread.weights` asserts.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from jax_spread import FEW, SCATTERED, environment, free_address, of_slices, scenarios
from spread import CLOSE, methods

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution is of JAX"),
]
SCRIPT = Path(__file__).resolve().parents[1] / "helpers" / "jax_spread.py"
ONE, MANY, MODEL = "data 2", "data 8", "model 2 x 4"


def started(*arguments: str, devices: int = 8) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(SCRIPT), *arguments],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: "subprocess.Popen[str]", seconds: int = 900) -> Any:
    """What a process printed last."""
    try:
        printed, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(printed.splitlines()[-1])


def together(*arguments: str) -> list[Any]:
    """What two processes printed that train together."""
    address = free_address()
    pair = [started(*arguments, "--process", str(n), address, devices=1) for n in range(2)]
    try:
        return [told(process) for process in pair]
    finally:
        for process in pair:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the weights of one device are kept."""
    return str(tmp_path_factory.mktemp("one_device"))


@pytest.fixture(scope="module")
def of_methods(folder: str) -> Any:
    return told(started("methods", folder, "data 4", MODEL))


@pytest.fixture(scope="module")
def of_scenarios(folder: str) -> Any:
    return {**told(started("scenarios", folder, MANY)), **told(started("few", folder, MODEL))}


@pytest.mark.parametrize("layout", ["data 4", MODEL])
@pytest.mark.parametrize("name", methods())
def test_methods(of_methods: Any, name: str, layout: str) -> None:
    assert of_methods[layout][name] < CLOSE


@pytest.fixture(scope="module")
def of_two_processes(folder: str, of_methods: Any) -> Any:
    del of_methods  # which has made what they are compared with
    return together("methods", folder, ONE)


@pytest.mark.parametrize("name", methods())
def test_methods_in_two_processes(of_two_processes: Any, name: str) -> None:
    for found in of_two_processes:
        assert found[ONE][name] < CLOSE


@pytest.mark.parametrize("name", scenarios())
def test_scenarios(of_scenarios: Any, name: str) -> None:
    assert of_scenarios[MANY][name] < CLOSE


@pytest.mark.parametrize("name", FEW)
def test_scenarios_with_sharded_variables(of_scenarios: Any, name: str) -> None:
    assert of_scenarios[MODEL][name] < CLOSE


@pytest.fixture(scope="module")
def few_in_two_processes(folder: str, of_scenarios: Any) -> Any:
    del of_scenarios
    return together("few", folder, ONE)


@pytest.mark.parametrize("name", FEW)
def test_scenarios_in_two_processes(few_in_two_processes: Any, name: str) -> None:
    for found in few_in_two_processes:
        assert found[ONE][name] < CLOSE


# ------------------------------------------------------------------ rows in slices


@pytest.fixture(scope="module")
def of_sliced_rows(folder: str, of_methods: Any, of_scenarios: Any) -> Any:
    del of_methods, of_scenarios
    return told(started("slices", folder, "scatter 4"))


def sliced() -> list[str]:
    return [*of_slices(), *SCATTERED] if keras.backend.backend() == "jax" else []


@pytest.mark.parametrize("name", sliced())
def test_scattered_rows(of_sliced_rows: Any, name: str) -> None:
    assert of_sliced_rows["scatter 4"][name] < CLOSE
