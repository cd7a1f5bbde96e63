"""What type checkers and editors see of the front door."""

import subprocess
import sys
from pathlib import Path

import polytape as pt
from polytape.catalogue.stubs import STUBS

PROGRAM = """\
import keras
import polytape as pt

model: pt.Model = pt.Model(keras.Input((1,)), {})
u = keras.layers.Dense(1)
model = pt.Model(networks={"u": u}, forward=lambda nets, x: nets["u"](x), name="m")
model.compile("adam", {"a": "mse"}, combine="upgrad", measure="features", seed=3)
model.compile({"a": keras.optimizers.Adam(), "*": "sgd"}, combine={"a": pt.PCGrad(), "*": "sum"})
chain = pt.Chain(pt.Normalize(), pt.Clip(1.0), pt.UPGrad(scale="mean"))
weights, state = pt.weigh("mgda", [[1.0]])
batches = pt.data.zip_objectives({})

pt.Model(netwroks={})  # wrong
pt.Model(networks=[keras.layers.Dense(1)])  # wrong
pt.Model(networks={}, forward=lambda x: x)  # wrong
pt.Model(keras.Input((1,)), {}, {})  # wrong
model.compile(combine="upgradd")  # wrong
model.compile(measur="features")  # wrong
model.compile(on_nonfinite="cry")  # wrong
pt.Objective("a", "mse", train="encoder")  # wrong
pt.UpGrad()  # wrong
pt.CAGrad(d=0.4)  # wrong
pt.weigh("mgdaa", [[1.0]])  # wrong
"""


def test_stubs_are_fresh() -> None:
    stale = [path.name for path, text in STUBS.items() if path.read_text("utf-8") != text()]
    assert not stale, "python -m polytape.catalogue.stubs"


def test_every_public_name_is_in_the_stub() -> None:
    stub = (Path(pt.__file__).parent / "__init__.pyi").read_text("utf-8")
    assert all(f'    "{name}",\n' in stub for name in dir(pt))


def test_a_type_checker_finds_mistakes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    run = subprocess.run(
        [*command, "--follow-imports=silent", str(program)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    wrong = [n for n, line in enumerate(PROGRAM.splitlines(), start=1) if "# wrong" in line]
    told = [int(line.split(":")[1]) for line in run.stdout.splitlines() if ": error:" in line]
    assert sorted(set(told)) == wrong, run.stdout + run.stderr
