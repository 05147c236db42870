"""Exports on a tiny network: each gives the checkpoint back, somewhere without us."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors

from configs import synthetic
from metro_jax import export, outputs
from metro_jax.body import joints
from metro_jax.checkpoints import runs
from metro_jax.inference import forward_pass
from metro_jax.models import setup
from metro_jax.weights import torch_metro, weight_files


@pytest.fixture(scope="module")
def run() -> runs.Run:
  config = synthetic.get_config("tiny")
  network = setup.build(config)
  shapes = setup.variable_shapes(network, config)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    if path[-1].key in ("scale", "var"):
      return np.ones(leaf.shape, leaf.dtype)
    return rng.normal(0, 0.05, leaf.shape).astype(leaf.dtype)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return runs.Run(config, network, variables, 7)


def pictures(count: int) -> np.ndarray:
  return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def test_the_program_runs_where_there_is_only_jax(run, tmp_path):
  errors = {"mpjpe_mm": 123.4}
  choice = export.Choice("stablehlo", errors_mm=errors)
  difference = export.export(run, tmp_path, choice)
  assert difference < 1e-5
  np.save(tmp_path / "crops.npy", pictures(2))
  code = (
    "import sys, runpy; sys.modules['metro_jax'] = None; "
    f"sys.argv = ['run.py', {str(tmp_path / 'crops.npy')!r}, "
    f"'--output={tmp_path / 'out.npz'}']; "
    f"runpy.run_path({str(tmp_path / 'run.py')!r}, run_name='__main__')"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
  with np.load(tmp_path / "out.npz") as stored:
    made = dict(stored)
  wanted = jax.jit(forward_pass.make_forward(run.network))(run.variables, pictures(2))
  assert made.keys() == forward_pass.OUTPUTS.keys()
  for name, value in made.items():
    np.testing.assert_allclose(value, wanted[name], atol=1e-5)
  assert made["vertices"].shape == (2, 6890, 3)
  facts = json.loads((tmp_path / "model.json").read_text())
  assert facts["joint_names"] == list(joints.J14)
  assert "mpjpe 123.4 mm" in (tmp_path / "README.md").read_text()


def test_parameters_inside_leave_one_program_file(run, tmp_path):
  choice = export.Choice("stablehlo", "inside", "float32")
  assert export.export(run, tmp_path, choice) < 1e-4
  assert not (tmp_path / "parameters.npz").exists()


def test_safetensors_and_npz_hold_every_array_and_the_facts(run, tmp_path):
  flat = export.flatten(run.variables)
  for form in ("safetensors", "npz"):
    assert export.export(run, tmp_path, export.Choice(form)) == 0
  with np.load(tmp_path / "parameters.npz") as stored:
    assert set(stored.files) == flat.keys()
    for name, value in flat.items():
      np.testing.assert_array_equal(stored[name], value)
  with safetensors.safe_open(tmp_path / "parameters.safetensors", "np") as file:
    assert set(file.keys()) == flat.keys()
    metadata = file.metadata()
  assert json.loads(metadata["joint_names"]) == list(joints.J14)
  assert json.loads(metadata["config"])["model"]["backbone"] == "resnet18"


def test_the_torch_layout_has_the_originals_keys(run, tmp_path):
  assert export.export(run, tmp_path, export.Choice("torch")) == 0
  stored = weight_files.read(tmp_path / "metro_state_dict.bin")
  assert stored.keys() == torch_metro.to_state_dict(run.variables).keys()
  assert not stored["trans_encoder.0.bert.pooler.dense.weight"].any()


def test_pytorch_loads_the_torch_layout_into_layers(run, tmp_path):
  torch = pytest.importorskip("torch", reason="asks PyTorch itself")
  export.export(run, tmp_path, export.Choice("torch"))
  stored = torch.load(tmp_path / "metro_state_dict.bin", weights_only=True)
  params = run.variables["params"]["camera_hidden"]
  inputs, outputs = params["kernel"].shape
  layer = torch.nn.Linear(inputs, outputs)
  layer.load_state_dict(
    {leaf: stored[f"cam_param_fc2.{leaf}"] for leaf in ("weight", "bias")}
  )
  x = np.random.default_rng(2).standard_normal((3, inputs)).astype(np.float32)
  made = layer(torch.from_numpy(x)).detach().numpy()
  expected = x @ params["kernel"] + params["bias"]
  np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_an_export_replaces_an_earlier_one_and_nothing_else(run, tmp_path):
  for _ in range(2):
    export.export(run, tmp_path / "x", export.Choice("npz"))
  made = {path.name for path in (tmp_path / "x").iterdir()} - {outputs.LEDGER}
  assert made == set(export.file_names(export.Choice("npz")))
  (tmp_path / "README.md").write_text("the user's")
  with pytest.raises(
    FileExistsError, match=r"README\.md: expected no file, or one that"
  ):
    export.export(run, tmp_path, export.Choice("npz"))
  assert (tmp_path / "README.md").read_text() == "the user's"
  assert {path.name for path in tmp_path.iterdir()} == {"x", "README.md"}


def test_an_export_that_reads_back_differently_is_refused(run, tmp_path, monkeypatch):
  def lossy(path, arrays):
    np.savez(path, **{name: value + 1e-3 for name, value in arrays.items()})

  monkeypatch.setattr(export.weight_files, "write", lossy)
  with pytest.raises(ValueError, match="expected the checkpoint back within 0"):
    export.export(run, tmp_path, export.Choice("npz"))
