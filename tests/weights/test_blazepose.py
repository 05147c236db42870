"""BlazePose's weights: those of the package, and how they are read from a model."""

import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.asset_builds import build_blazepose
from metro_jax.models.blazepose import BlazePose
from metro_jax.weights import blazepose, weight_files


@pytest.fixture(scope="module")
def shapes():
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(BlazePose().init, jax.random.key(0), images)
  return {"params": {"backbone": shapes["params"]}, "batch_stats": {}}


def test_the_packages_weights_are_all_of_the_backbone(shapes):
  loaded = blazepose.load("embedded", shapes)
  leaves = jax.tree.leaves(loaded.variables)
  assert jax.tree.structure(loaded.variables["params"]) == jax.tree.structure(
    shapes["params"]
  )
  assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
  assert sum(leaf.size for leaf in leaves) == 1_407_272  # of the released file
  assert blazepose.ASSET.stat().st_size < 2.9e6


def test_a_file_of_the_same_names_is_read_and_every_fault_said(shapes, tmp_path):
  arrays = weight_files.read(blazepose.ASSET)
  arrays["stem.bias"] = arrays["stem.bias"] + 1
  weight_files.write(tmp_path / "x.npz", arrays)
  backbone = blazepose.load(tmp_path / "x.npz", shapes).variables["params"]["backbone"]
  np.testing.assert_array_equal(backbone["stem"]["bias"], arrays["stem.bias"])
  arrays["conv1.weight"] = arrays.pop("stem.bias")
  weight_files.write(tmp_path / "x.npz", arrays)
  with pytest.raises(
    ValueError, match=r"x\.npz: .*missing: stem\.bias; 1 unexpected: conv1\.weight"
  ):
    blazepose.load(tmp_path / "x.npz", shapes)


def model_with(kernel, bias, depthwise):
  """A model of one convolution, its numbers widened from float16 by operators."""
  schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
  flatbuffers = pytest.importorskip("flatbuffers")
  builtin = schema.BuiltinOperator
  kinds = [builtin.DEPTHWISE_CONV_2D if depthwise else builtin.CONV_2D]
  model, graph = schema.ModelT(), schema.SubGraphT()
  model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
  model.operatorCodes = []
  for kind in (*kinds, builtin.DEQUANTIZE):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    model.operatorCodes.append(code)
  graph.tensors, graph.operators = [], []

  def add_tensor(name, shape, data=None):
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), shape, 0
    if data is not None:
      buffer = schema.BufferT()
      buffer.data = np.frombuffer(data.tobytes(), np.uint8)
      model.buffers.append(buffer)
      tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1

  def add_operator(code, inputs, output):
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, [output]
    graph.operators.append(operator)

  wide = []
  for name, value in (("kernel", kernel), ("bias", bias)):
    stored = add_tensor(name, value.shape, value)
    wide.append(add_tensor(f"{name} widened", value.shape))
    add_operator(1, [stored], wide[-1])
  images, last = add_tensor("images", (1, 4, 4, 2)), add_tensor("map", (1, 2, 2, 2))
  add_operator(0, [images, *wide], last)
  add_operator(0, [last, *wide], add_tensor("later", (1, 1, 1, 2)))
  graph.inputs, graph.outputs = [images], [last]
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b"TFL3")
  return bytes(builder.Output())


@pytest.mark.parametrize("depthwise", [False, True])
def test_kernels_turn_to_our_layout_and_later_operators_are_left(depthwise):
  rng = np.random.default_rng(0)
  shape = (1, 3, 5, 6) if depthwise else (4, 3, 5, 6)
  kernel = rng.standard_normal(shape).astype(np.float16)
  bias = rng.standard_normal(6 if depthwise else 4).astype(np.float16)
  (layer,) = build_blazepose.layers(model_with(kernel, bias, depthwise), "map")
  np.testing.assert_array_equal(layer.bias, bias)
  if depthwise:  # (1, h, w, c)
    assert layer.kernel.shape == (3, 5, 1, 6)
    assert layer.kernel[2, 3, 0, 4] == kernel[0, 2, 3, 4]
  else:  # (out, h, w, in)
    assert layer.kernel.shape == (3, 5, 6, 4)
    assert layer.kernel[2, 3, 4, 1] == kernel[1, 2, 3, 4]


def test_a_model_of_another_network_is_refused():
  numbers = np.ones((4, 3, 3, 6), np.float16), np.ones(4, np.float16)
  model = model_with(*numbers, False)
  with pytest.raises(ValueError, match=r"expected a tensor model_1/model/add_8/add"):
    build_blazepose.build(model)


def test_the_model_is_found_in_the_wheel(tmp_path):
  wheel = tmp_path / "mediapipe.whl"
  with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr(build_blazepose.MEMBER, b"model")
  assert build_blazepose.read(wheel) == b"model"
  with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr("else", b"")
  with pytest.raises(FileNotFoundError, match="expected a wheel with mediapipe/"):
    build_blazepose.read(wheel)
  pathlib.Path(tmp_path / "x.whl").write_text("no archive")
  with pytest.raises(ValueError, match=r"expected a wheel or a \.tflite file"):
    build_blazepose.read(tmp_path / "x.whl")
