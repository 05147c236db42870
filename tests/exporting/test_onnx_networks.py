"""Networks of every kind are the same in onnxruntime, and outside of this package."""

import collections
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import synthetic
from tests.fixtures import drawn_runs as networks

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")

from metro_jax import export  # noqa: E402
from metro_jax.checkpoints import runs  # noqa: E402
from metro_jax.exporting import comparison, run_onnx  # noqa: E402
from metro_jax.exporting.card import Choice  # noqa: E402
from metro_jax.exporting.onnx import models  # noqa: E402
from metro_jax.inference import photographs, predictor  # noqa: E402
from metro_jax.models import hrnet  # noqa: E402

PHOTOGRAPH = (
  pathlib.Path(__file__).parents[2] / "configs" / "photographs" / "pose2sim_040.jpg"
)
CONFIGS = {
  "resnet18": lambda: networks.tiny_config(),
  "hrnet_w40": lambda: networks.tiny_config("hrnet_w40"),
  "blazepose": lambda: networks.tiny_config("blazepose"),
  "hand": networks.hand_config,
}
OPERATORS = {
  "resnet18": {"MaxPool", "Relu"},
  "hrnet_w40": {"Resize", "Relu"},
  "blazepose": {"Clip"},
  "hand": {"MaxPool", "Relu"},
}


@pytest.fixture(autouse=True)
def small_hrnet(request, monkeypatch):
  if "slow" not in request.keywords:  # the whole takes minutes to compile
    monkeypatch.setitem(hrnet.WIDTHS, "hrnet_w40", 2)
    monkeypatch.setattr(hrnet, "MODULES", {2: 1})


def expect_same(config: ConfigDict, folder: pathlib.Path, image_type: str) -> runs.Run:
  run = networks.draw_run(config)
  gap = export.export(run, folder, Choice("onnx", image_type=image_type))
  assert gap < 1e-5  # metres: 0.01 mm
  crops, wanted = comparison.sample(run, image_type)
  tolerances = {"model.onnx": 1e-5, "model_fp16.onnx": 1e-3, "model_int8.onnx": 0.1}
  for name, tolerance in tolerances.items():
    made = run_onnx.load(folder, name)(crops)
    assert made.keys() == wanted.keys()
    for output, value in made.items():
      assert value.dtype == np.float32
      np.testing.assert_allclose(value, wanted[output], 0, tolerance, err_msg=name)
  sizes = [(folder / name).stat().st_size for name in tolerances]
  assert sizes[1] < 0.6 * sizes[0]
  assert sizes[2] < sizes[1]
  return run


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_tiny_network_is_the_same_in_onnxruntime(kind, tmp_path):
  image_type = "float32" if kind == "hand" else "uint8"
  run = expect_same(CONFIGS[kind](), tmp_path, image_type)
  model = onnx.load(tmp_path / "model.onnx")
  (opset,) = model.opset_import
  assert opset.version >= 17
  ops = collections.Counter(node.op_type for node in model.graph.node)
  leaves = jax.tree.leaves(run.variables["params"]["backbone"])
  convolutions = sum(leaf.ndim == 4 for leaf in leaves)
  assert OPERATORS[kind] | {"LayerNormalization", "Softmax", "MatMul"} <= ops.keys()
  assert ops["Conv"] == convolutions  # and BatchNorm has left nothing beside them
  assert not {"BatchNormalization", "Pad"} & ops.keys()
  assert ops["Transpose"] <= 2 + 4 * ops["Softmax"]


def test_depthwise_convolutions_are_convolutions_in_groups(tmp_path):
  export.export(
    networks.draw_run(networks.tiny_config("blazepose")), tmp_path, Choice("onnx")
  )
  model = onnx.load(tmp_path / "model.onnx")
  groups = [
    attribute.i
    for node in model.graph.node
    for attribute in node.attribute
    if attribute.name == "group" and attribute.i > 1
  ]
  assert len(groups) == 15
  assert max(groups) == 864


def test_a_network_trained_in_bfloat16_is_exported_in_single_precision(tmp_path):
  config = networks.tiny_config(compute_dtype="bfloat16")
  run = networks.draw_run(config)
  assert export.export(run, tmp_path, Choice("onnx")) < 1e-5


def test_a_model_that_differs_is_refused(tmp_path, monkeypatch):
  monkeypatch.setitem(models.TOLERANCES, "float16", 1e-9)
  run = networks.draw_run(networks.tiny_config())
  with pytest.raises(ValueError, match=r"model_fp16.onnx: expected the checkpoint's"):
    export.export(run, tmp_path, Choice("onnx"))
  assert not (tmp_path / "model.onnx").exists()


def test_without_the_extra_the_format_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "metro_jax.exporting.onnx.models", None)
  monkeypatch.delattr("metro_jax.exporting.onnx.models")
  with pytest.raises(ValueError, match=r"pip install 'metro_jax\[onnx\]'"):
    export.file_names(Choice("onnx"))


def test_the_folder_runs_on_a_photograph_without_this_package(tmp_path):
  run = networks.draw_run(networks.tiny_config())
  choice = Choice("onnx", errors_mm={"mpjpe_mm": 123.4})
  export.export(run, tmp_path, choice)
  made = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
  assert made == set(export.file_names(choice))
  code = (
    "import sys, runpy; sys.modules['metro_jax'] = sys.modules['jax'] = None; "
    f"sys.argv = ['run.py', {str(PHOTOGRAPH)!r}, '--model=model_int8.onnx']; "
    f"runpy.run_path({str(tmp_path / 'run.py')!r}, run_name='__main__')"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
  obj = (tmp_path / "pose2sim_040_mesh.obj").read_text().splitlines()
  assert sum(line.startswith("v ") for line in obj) == 6890
  assert sum(line.startswith("f ") for line in obj) == len(run.network.body.faces)
  assert (tmp_path / "pose2sim_040_mesh.jpg").stat().st_size > 1000
  card = (tmp_path / "README.md").read_text()
  assert "mpjpe 123.4 mm" in card
  assert "an upright square around the person" in card


def test_run_py_sees_what_predict_sees(tmp_path):
  config = networks.tiny_config()
  config.data.passes = 2
  run = networks.draw_run(config)
  export.export(run, tmp_path, Choice("onnx"))
  expect_as_predict(run, tmp_path, 1e-4)


def expect_as_predict(run: runs.Run, folder: pathlib.Path, tolerance_m: float) -> None:
  image = photographs.read(PHOTOGRAPH)
  height, width = image.shape[:2]
  (box,) = photographs.squares(height, width, None, 1.2)
  body = predictor.make_predictor(run)(image, box)
  facts = json.loads((folder / "model.json").read_text())
  predict = run_onnx.load(folder)
  center, side = np.array([width / 2, height / 2]), max(height, width)
  made = run_onnx.look(predict, facts, image, center, side)
  assert facts["looks"] == 2
  square = run_onnx.upright(facts["framing"], made["joints_px"])
  made = run_onnx.look(predict, facts, image, *square)
  np.testing.assert_allclose(made["vertices"], body.vertices_m, 0, tolerance_m)
  np.testing.assert_allclose(made["joints"], body.joints_m, 0, tolerance_m)


@pytest.mark.slow
def test_the_embedded_network_is_the_same(tmp_path):
  run = runs.load("embedded")
  assert export.export(run, tmp_path, Choice("onnx")) < 1e-5
  expect_as_predict(run, tmp_path, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "hrnet_w64"])
def test_the_papers_networks_are_the_same(backbone, tmp_path):
  config = synthetic.get_config("full")
  config.model.backbone = backbone
  expect_same(config, tmp_path, "uint8")
