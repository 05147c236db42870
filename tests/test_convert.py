"""METRO's weights to a run and back, and a fresh run that starts from weights."""

import importlib.util
import json
import pathlib
import runpy
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest

from metro_jax import convert
from metro_jax import train as command
from metro_jax.checkpoints import initial_weights, runs
from metro_jax.models import setup
from metro_jax.training import state
from metro_jax.weights import imagenet, torch_metro, weight_files

GOLDENS = pathlib.Path(__file__).parent / "goldens"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "synthetic.py"


@pytest.fixture(scope="module")
def config():
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config("tiny")


@pytest.fixture(scope="module")
def shapes(config):
  network = setup.build(config)
  return setup.variable_shapes(network, config)


@pytest.fixture(scope="module")
def state_dict(shapes):
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes
  )
  return torch_metro.to_state_dict(variables)


@pytest.fixture(scope="module")
def run(config, state_dict, tmp_path_factory):
  folder = tmp_path_factory.mktemp("convert")
  weight_files.write(folder / "metro.safetensors", state_dict)
  convert.to_run(config, str(folder / "metro.safetensors"), folder / "run")
  return folder / "run"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".bin"])
def test_there_and_back_is_bit_exact(run, state_dict, tmp_path, suffix):
  assert convert.to_file(run, tmp_path / f"x{suffix}") == 0
  back = weight_files.read(tmp_path / f"x{suffix}")
  assert set(back) == set(state_dict)
  for key, value in state_dict.items():
    np.testing.assert_array_equal(back[key], value)


def test_a_file_that_convert_did_not_write_stays(run, tmp_path):
  path = tmp_path / "own.npz"
  path.write_text("the user's")
  with pytest.raises(FileExistsError, match=r"own\.npz: expected no file"):
    convert.to_file(run, path)
  assert path.read_text() == "the user's"
  for _ in range(2):
    convert.to_file(run, tmp_path / "new.npz")
  assert weight_files.read(tmp_path / "new.npz")


def test_a_checkpoint_through_pytorchs_file_is_the_same_bit_by_bit(
  config, run, tmp_path
):
  convert.to_file(run, tmp_path / "metro.bin")
  convert.to_run(config, str(tmp_path / "metro.bin"), tmp_path / "again")
  there, back = (runs.load(folder).variables for folder in (run, tmp_path / "again"))
  jax.tree.map(np.testing.assert_array_equal, back, there)


def test_half_precision_and_double_precision_weights_become_the_networks(
  config, shapes, state_dict, tmp_path
):
  halves = {key: value.astype(np.float16) for key, value in state_dict.items()}
  weight_files.write(tmp_path / "half.bin", halves)
  doubles = {key: value.astype(np.float64) for key, value in state_dict.items()}
  weight_files.write(tmp_path / "double.bin", doubles)
  expected = torch_metro.from_state_dict(state_dict, shapes)
  half, double = (
    weight_files.load_metro(tmp_path / name, shapes).variables
    for name in ("half.bin", "double.bin")
  )
  jax.tree.map(np.testing.assert_array_equal, double, expected)
  rounded = jax.tree.map(lambda x: np.float32(np.float16(x)), expected)
  jax.tree.map(np.testing.assert_array_equal, half, rounded)
  assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float32)}


CONVERT = """
import pathlib, re, sys
from metro_jax import config, convert
c = config.get_config()
c.model.backbone = "hrnet_w64"
convert.to_run(c, sys.argv[1], pathlib.Path(sys.argv[2]))
status = pathlib.Path("/proc/self/status").read_text()
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]))
"""


@pytest.mark.slow
def test_metro_with_hrnet_w64_is_converted_within_three_times_its_size(tmp_path):
  fill_value = runpy.run_path(str(GOLDENS / "fill_rule.py"))["fill_value"]
  state_dict = {key: fill_value(key, shape) for key, shape in w64_shapes().items()}
  path = tmp_path / "metro.bin"
  weight_files.write(path, state_dict)
  command = [sys.executable, "-c", CONVERT, str(path), str(tmp_path / "run")]
  made = subprocess.run(command, capture_output=True, text=True, check=True)
  assert int(made.stdout.split()[-1]) <= 3 * path.stat().st_size
  params = runs.load(tmp_path / "run").variables["params"]
  kernel = params["backbone"]["stem1"]["conv"]["kernel"].transpose(3, 2, 0, 1)
  np.testing.assert_array_equal(kernel, state_dict["backbone.conv1.weight"])


def w64_shapes() -> dict[str, tuple[int, ...]]:
  """Of every key, the released code's."""
  body = json.loads((GOLDENS / "state_dict_shapes.json").read_text())["body_resnet50"]
  hrnet = json.loads((GOLDENS / "state_dict_shapes_hrnet.json").read_text())
  rest, _ = body.values()
  backbone, counters = hrnet["hrnet-w64"].values()
  shapes = {k: shape for k, shape in rest.items() if not k.startswith("backbone.")}
  shapes |= backbone | dict.fromkeys(counters, ())
  return {key: tuple(shape) for key, shape in shapes.items()}


def test_a_converted_run_says_whose_weights_it_has(run):
  source = str(run.parent / "metro.safetensors")
  assert runs.load(run).training == (("synthetic/train",), source, 0)


def test_a_workdir_that_holds_a_run_is_refused(config, run):
  with pytest.raises(ValueError, match="expected a folder without a run"):
    convert.to_run(config, str(run.parent / "metro.safetensors"), run)


def test_a_file_that_does_not_fit_leaves_no_run(config, tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  weight_files.write(tmp_path / "x.npz", {"cam_param_fc.bias": np.ones(1, np.float32)})
  with pytest.raises(ValueError, match=r"x\.npz: state dict does not fit"):
    convert.to_run(config, str(tmp_path / "x.npz"), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def load_initial(config):
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  return initial_weights.load(config, network, like)


@pytest.mark.parametrize("source", ["run", "metro.safetensors"])
def test_init_from_takes_a_run_or_a_file(config, run, tmp_path, source):
  config = config.copy_and_resolve_references()
  config.train.init_from = str(run.parent / source)
  given = load_initial(config)
  expected = runs.load(run).variables
  jax.tree.map(np.testing.assert_array_equal, given.variables, expected)


def test_backbone_weights_fill_the_backbone_alone(config, shapes, tmp_path, capsys):
  arrays = {e.key: np.full(e.shape, 7, np.float32) for e in imagenet.entries(shapes)}
  weight_files.write(tmp_path / "x.npz", arrays)
  config = config.copy_and_resolve_references()
  config.model.backbone_weights = str(tmp_path / "x.npz")
  given = load_initial(config)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  fresh = state.TrainState(**zeros, opt_state=(), step=0, key=0)
  params = state.with_weights(fresh, given.variables).params
  for name, module in params.items():
    expected = 7 if name == "backbone" else 0
    assert all((leaf == expected).all() for leaf in jax.tree.leaves(module))
  assert f"{len(arrays)} arrays, none ignored" in capsys.readouterr().out


def test_a_run_may_start_from_the_weights_in_the_package(config, tmp_path):
  config = config.copy_and_resolve_references()
  config.model.backbone = "blazepose"
  config.model.backbone_weights = "embedded"
  initial_weights.expect_there(config, tmp_path / "run")
  network = setup.build(config)
  like = setup.variable_shapes(network, config)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  fresh = state.TrainState(**zeros, opt_state=(), step=0, key=0)
  given = load_initial(config)
  started = state.with_weights(fresh, given.variables)
  assert jax.tree.structure(started) == jax.tree.structure(fresh)
  for name, module in started.params.items():
    filled = [bool(leaf.any()) for leaf in jax.tree.leaves(module)]
    assert set(filled) == {name == "backbone"}
  with pytest.raises(ValueError, match=r"METRO has no module for backbone/block0"):
    torch_metro.to_state_dict(started.variables)


def test_a_missing_file_fails_a_fresh_run_at_once_and_not_a_resumed_one(
  config, tmp_path
):
  config = config.copy_and_resolve_references()
  config.train.init_from = str(tmp_path / "gone.npz")
  with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
    command.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
  (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
  initial_weights.expect_there(config, tmp_path / "run")
