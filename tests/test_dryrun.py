"""The command on the devices that are here; slices that are not, where libtpu is."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from metro_jax import dryrun as command
from metro_jax.planning import programs, stand_in

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "synthetic.py"
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu (pip install 'metro_jax[tpu]')",
)


def tiny_config():
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config("tiny")


def run(*flags, devices=1):
  count = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.run(
    [sys.executable, "-m", "metro_jax.dryrun", f"--config={CONFIG}:tiny", *flags],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{count} {QUICK_COMPILATION}"},
  )


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
  """What the command says and writes for two devices of this machine."""
  path = tmp_path_factory.mktemp("dryrun") / "plan.json"
  done = run("--topology=local", f"--json={path}", devices=2)
  assert done.returncode == 0, done.stderr
  return done.stdout, json.loads(path.read_text())[0]


def test_arguments_are_state_batch_and_body(two_devices):
  _, plan = two_devices
  config = tiny_config()
  network = stand_in.build(config).network
  step = programs.train_step(config, network, config.train.batch_size // 2)
  leaves = jax.tree.leaves((step.state, step.batch, step.geometry))
  size = sum(int(np.prod(np.shape(x))) * x.dtype.itemsize for x in leaves)
  assert plan["train"]["images_a_chip"] == 4
  # Whatever the step does not read (faces, the batch's index) is not handed over.
  assert 0.8 * size < plan["train"]["memory"]["arguments"] <= size


def test_all_gradients_are_exchanged(two_devices):
  _, plan = two_devices
  config = tiny_config()
  network = stand_in.build(config).network
  params = programs.train_step(config, network, 4).state.params
  trained = {k: v for k, v in params.items() if k not in config.optimizer.frozen}
  size = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(trained))
  exchanged = plan["train"]["collectives"]["all-reduce"]["bytes"]
  assert size <= exchanged < 1.2 * size  # and BatchNorm's statistics


@pytest.mark.slow
@pytest.mark.parametrize(
  "topology", ("local", pytest.param("v5e:2x2", marks=needs_libtpu))
)
def test_shard_map_is_planned_as_pmap_is(topology, tmp_path):
  plans = []
  for mapping in ("pmap", "shard_map"):
    path = tmp_path / f"{mapping}.json"
    flags = (f"--topology={topology}", f"--config.train.mapping={mapping}")
    done = run(*flags, f"--json={path}", devices=2)
    assert done.returncode == 0, done.stderr
    plans.append(json.loads(path.read_text())[0])
  for step in ("train", "evaluate"):
    pmap, shard_map = (plan[step] for plan in plans)
    for key in ("memory", "flops", "collectives"):
      assert shard_map[key] == pmap[key]


def test_the_compilers_operations_are_near_those_of_the_products(two_devices):
  _, plan = two_devices
  ours, theirs = plan["train"]["flops"], plan["train"]["compiler_flops"]
  assert 0.5 * ours < theirs < 2 * ours
  assert plan["evaluate"]["flops"] < plan["train"]["flops"]


def test_the_epoch_is_the_datasets_and_no_speed_is_made_up_for_cpus(two_devices):
  text, plan = two_devices
  assert plan["epoch_examples"] == 24
  assert plan["images_per_second_at_most"] == 0
  assert plan["train"]["seconds_at_least"] is None
  assert "no bound; no peaks of this device are published here" in text
  row = text.strip().splitlines()[-1]
  assert row.startswith("| local | 2 | 1 | 4 |")


def test_for_devices_that_are_here_programs_are_trainings_own(two_devices):
  text, plan = two_devices
  assert plan["train"]["compiled_as_in_training"]
  assert "less scratch memory" not in text


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--topologies=v9x:4x4"], "topology: expected local or a slice of v5e, v5p, v6e"),
    (["--config.train.batch_size=9"], "expected a multiple of the 2 devices of local"),
    (["--config.eval.batch_size=9"], "config.eval.batch_size: expected a multiple"),
    (["--config.model.backbone=vgg"], "config.model.backbone: expected one of"),
    (["--batch_per_chip=-1"], "batch_per_chip"),
  ],
)
def test_a_wrong_flag_is_one_line(flags, message):
  done = run(*flags, devices=2)
  assert done.returncode == 1
  lines = done.stderr.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("dryrun: ") and message in lines[0]


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="libtpu is here"
)
def test_without_libtpu_one_line_says_how_to_get_it():
  done = run("--topologies=v5e:4x4")
  assert done.returncode == 1
  assert len(done.stderr.strip().splitlines()) == 1
  assert "pip install 'metro_jax[tpu]'" in done.stderr


def test_the_epoch_of_data_that_is_not_here_is_not_known(tmp_path):
  config = tiny_config()
  config.data.train = ("h36m/train",)
  config.data.data_dir = str(tmp_path)
  assert command.epoch_examples(config) == 0


@needs_libtpu
@pytest.mark.slow
def test_a_slice_that_is_not_here_gets_bounds_and_a_largest_batch(tmp_path):
  path = tmp_path / "plan.json"
  flags = ("--topologies=v5e:4x4", "--batch_per_chip=8", "--largest")
  done = run(*flags, f"--json={path}")
  assert done.returncode == 0, done.stderr
  plan = json.loads(path.read_text())[0]
  assert not plan["train"]["compiled_as_in_training"]
  assert "! compiled with less scratch memory" in done.stdout
  assert (plan["devices"], plan["hosts"], plan["fits"]) == (16, 4, True)
  bounds = plan["train"]["seconds_at_least"]
  assert bounds["products"] == plan["train"]["flops"] / 197e12
  speed = 8 * 16 / max(bounds.values())
  assert plan["images_per_second_at_most"] == pytest.approx(speed)
