"""The command on the tiny network: table, JSON, comparison, trace and errors."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "synthetic.py"
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


BATCHES = ("--config.train.batch_size=2", "--config.eval.batch_size=2")
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILATION}


def run(*flags):
  command = [sys.executable, "-m", "metro_jax.benchmark", f"--config={CONFIG}:tiny"]
  return subprocess.run(
    [*command, *BATCHES, *flags],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=ENVIRONMENT,
  )


@pytest.fixture(scope="module")
def some(tmp_path_factory):
  """What takes little to compile, as short as it can be."""
  path = tmp_path_factory.mktemp("benchmark") / "some.json"
  done = run("--seconds=0", "--sections=predict", f"--json={path}")
  assert done.returncode == 0, done.stderr
  return path, done.stdout, json.loads(path.read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
  """All sections once, as short as they can be, with a trace."""
  folder = tmp_path_factory.mktemp("benchmark")
  flags = (f"--json={folder / 'all.json'}", f"--profile={folder / 'trace'}")
  done = run("--seconds=0", *flags)
  assert done.returncode == 0, done.stderr
  return folder, done.stdout, json.loads((folder / "all.json").read_text())


@pytest.mark.slow
def test_every_part_of_the_work_is_measured(everything):
  _, _, found = everything
  assert list(found["rows"]) == [
    *("train step", "evaluate step", "predict 1", "predict 8", "predict 64"),
    "input, all threads",
  ]
  assert list(found["parts"]) == [
    *("backbone", "encoder block 0", "encoder block 1", "heads"),
    *("body model", "loss", "optimizer", "all-reduce"),
  ]
  assert found["input_images_per_second_and_core"] > 0
  for row in (*found["rows"].values(), *found["parts"].values()):
    assert row["images_per_second"] > 0
    assert row["seconds"]["low"] <= row["seconds"]["seconds"] <= row["seconds"]["high"]
  steps = [found["rows"][name] for name in ("train step", "evaluate step", "predict 8")]
  assert all(row["memory_bytes"] > 1e6 and row["flops"] > 1e6 for row in steps)
  assert found["setting"]["train_batch"] == 2


def test_predictions_take_operations_by_the_picture(some):
  _, text, found = some
  assert text.count("| predict ") == 3
  flops = [found["rows"][f"predict {size}"]["flops"] for size in (1, 8, 64)]
  assert flops == [flops[0], 8 * flops[0], 64 * flops[0]]


@pytest.mark.slow
def test_the_trace_opens_in_perfetto(everything):
  folder, _, _ = everything
  assert list((folder / "trace").rglob("perfetto_trace.json.gz"))
  assert list((folder / "trace").rglob("*.xplane.pb"))


def test_rows_appear_as_they_are_measured_and_compiling_is_announced(tmp_path):
  path = tmp_path / "old.json"
  path.write_text(json.dumps({"rows": {}}))
  command = [sys.executable, "-m", "metro_jax.benchmark", f"--config={CONFIG}:tiny"]
  flags = ("--seconds=0", "--sections=predict", f"--compare={path}", *BATCHES)
  with subprocess.Popen(
    [*command, *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
    env=ENVIRONMENT,
  ) as process:
    lines = iter(process.stdout.readline, "")
    seen = [line for line in lines if line.startswith(("compiling", "| predict"))]
  assert process.returncode == 0
  wanted = [(f"compiling predict {n} …", f"| predict {n} |") for n in (1, 8, 64)]
  for line, start in zip(seen, (x for pair in wanted for x in pair), strict=True):
    assert line.startswith(start)
  assert all(line.endswith("| new |\n") for line in seen[1::2])


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--sections=train,everything", "--sections: expected any of train, evaluate"),
    ("--compare=/nonexistent.json", "--compare: expected a file of --json"),
  ],
)
def test_a_wrong_flag_is_one_line(flag, message):
  done = run(flag)
  assert done.returncode == 1
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("benchmark: ") and message in lines[0]
