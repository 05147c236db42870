"""Each primitive that networks are made of means the same in onnxruntime."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnx", reason="needs the extra onnx")

from metro_jax.exporting.onnx import folding, model_file, rules  # noqa: E402
from metro_jax.exporting.onnx.graph import Graph, Node  # noqa: E402
from metro_jax.models import encoder, hrnet, resnet  # noqa: E402

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
  return RNG.standard_normal(shape).astype(np.float32)


MATRIX, VECTOR, KERNEL = drawn(4, 5), drawn(4), drawn(3, 3, 4, 6)
ROWS = drawn(6, 3)


def translated(program: Callable[[Any], Any], shape: tuple[int, ...]) -> Graph:
  """The graph of a function of one array whose first axis is the open batch."""
  (batch,) = jax.export.symbolic_shape("b")
  x = jax.ShapeDtypeStruct((batch, *shape), np.float32)
  traced = jax.jit(program).trace(x).jaxpr
  graph = Graph()
  (result,) = rules.translate(graph, traced, [graph.input("x", x.shape)])
  graph.nodes.append(Node("Identity", (graph.stored(result),), "y", {}))
  return graph


def run(graph: Graph, x: np.ndarray, y_shape: tuple[Any, ...]) -> np.ndarray:
  inputs = {"x": (("b", *x.shape[1:]), "float32")}
  model = model_file.make(graph, inputs, {"y": ("b", *y_shape[1:])})
  session = onnxruntime.InferenceSession(model.SerializeToString())
  return session.run(None, {"x": x})[0]


def convolve(x: Any, kernel: Any, stride: int = 1, **more: Any) -> Any:
  numbers = ("NHWC", "HWIO", "NHWC")
  padding = [(1, 1), (1, 1)]
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=numbers, **more
  )


PROGRAMS = {
  "arithmetic": (lambda x: -(x + VECTOR) * VECTOR / 3 - x**2 + x**3, (5, 4)),
  "functions": (lambda x: jnp.exp(x) + jnp.tanh(x) + jax.scipy.special.erf(x), (5, 4)),
  "roots": (lambda x: jnp.sqrt(x * x) + jax.lax.rsqrt(x * x + 1), (5, 4)),
  "erfc": (jax.lax.erfc, (5, 4)),
  "clip and select": (
    lambda x: jnp.where(jnp.arange(4) > 1, jax.lax.clamp(-0.5, x, 0.5), VECTOR),
    (5, 4),
  ),
  "sum over a broadcast": (
    lambda x: (x[:, None] + jnp.zeros((7, 1, 1))).sum(1),
    (5, 4),
  ),
  "mean and maximum": (lambda x: x.mean((1, 2)) + x.max((1, 2)), (3, 5, 4)),
  "constants for a batch": (
    lambda x: jnp.concatenate([jnp.broadcast_to(MATRIX, (x.shape[0], 4, 5)), x], 1),
    (2, 5),
  ),
  "slices": (
    lambda x: (
      x[:, 1:4, 2:] + x[:, :3, 3:4] * jax.lax.slice_in_dim(x, 1, 6, 2, 1)[..., :1]
    ),
    (6, 4),
  ),
  "one of an axis": (lambda x: x[..., 2], (6, 4)),
  "padding": (
    lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=7),
    (6, 4),
  ),
  "heads": (lambda x: x.reshape(-1, 6, 2, 2).transpose(0, 2, 1, 3), (6, 4)),
  "matrix on the right": (lambda x: x @ MATRIX, (6, 4)),
  "matrix on the left": (lambda x: jnp.einsum("bic,io->boc", x, ROWS), (6, 4)),
  "matrix over channels": (lambda x: jnp.einsum("bhwc,cd->bhwd", x, MATRIX), (2, 3, 4)),
  "batches": (
    lambda x: jnp.einsum("bhqd,bhkd->bhqk", x, 2 * x) @ x,
    (2, 5, 4),
  ),
  "convolution": (lambda x: convolve(x, KERNEL, 2), (8, 6, 4)),
  "depthwise": (
    lambda x: convolve(x, KERNEL[:, :, :1, :4], feature_group_count=4),
    (8, 6, 4),
  ),
  "convolutions and a shortcut": (
    lambda x: jax.nn.relu(convolve(x, KERNEL) * 2)[..., :4] + jax.nn.relu6(x * 5),
    (8, 6, 4),
  ),
  "even maps pooled": (resnet.max_pool, (8, 6, 4)),
  "odd maps pooled": (resnet.max_pool, (7, 5, 4)),
  "pixels repeated": (lambda x: hrnet.repeat_pixels(x, 4), (2, 3, 4)),
  "gelu": (encoder.gelu, (6, 4)),
  "softmax": (encoder.softmax, (6, 4)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_translated_program_computes_what_jax_does_for_any_batch(name):
  program, shape = PROGRAMS[name]
  graph = translated(program, shape)
  for batch in (1, 3):
    x = 2 * drawn(batch, *shape)
    wanted = np.asarray(program(x))
    np.testing.assert_allclose(run(graph, x, wanted.shape), wanted, 1e-5, 2e-6)


@pytest.mark.parametrize(
  ("program", "op"),
  [
    (resnet.max_pool, "MaxPool"),
    (lambda x: hrnet.repeat_pixels(x, 2), "Resize"),
    (encoder.gelu, "Erf"),
    (encoder.softmax, "Softmax"),
    (jax.nn.relu, "Relu"),
    (jax.nn.relu6, "Clip"),
  ],
)
def test_functions_with_an_operator_of_their_own_become_it(program, op):
  graph = translated(program, (4, 4, 2))
  others = {"Shape", "Identity", "Transpose", "Div", "Add", "Mul"}
  assert {node.op for node in graph.nodes} - others == {op}


def test_an_unknown_primitive_is_named():
  with pytest.raises(ValueError, match=r"onnx: expected primitives among .*, got sort"):
    translated(lambda x: jnp.sort(x), (4,))


def test_batch_normalisation_goes_into_its_convolution():
  scale, shift = drawn(6), drawn(6)
  graph = translated(lambda x: (convolve(x, KERNEL) - shift) * scale + 1, (8, 6, 4))
  x = drawn(2, 8, 6, 4)
  wanted = run(graph, x, (2, 8, 6, 6))
  folding.fold(graph, {"y"})
  ops = [node.op for node in graph.nodes if node.op not in ("Shape", "Transpose")]
  assert ops == ["Conv", "Identity"]
  (convolution,) = (node for node in graph.nodes if node.op == "Conv")
  kernel, bias = (graph.constants[name] for name in convolution.inputs[1:])
  np.testing.assert_allclose(kernel, (KERNEL * scale).transpose(3, 2, 0, 1), 1e-6)
  np.testing.assert_allclose(bias, 1 - shift * scale, 1e-5, 1e-6)
  np.testing.assert_allclose(run(graph, x, (2, 8, 6, 6)), wanted, 1e-4, 1e-5)


def test_what_another_operator_needs_is_not_folded_away():
  def program(x: Any) -> Any:
    y = convolve(x, KERNEL[..., :4])
    return y * 3 + jnp.tanh(y)

  graph = translated(program, (8, 6, 4))
  folding.fold(graph, {"y"})
  x = drawn(1, 8, 6, 4)
  np.testing.assert_allclose(run(graph, x, x.shape), program(x), 1e-4, 1e-5)


def test_a_chain_of_sums_and_products_is_one_of_each_and_nothing_where_it_cancels():
  graph = translated(lambda x: (x / 255 - 0.5) / 0.2, (8,))
  folding.fold(graph, {"y"})
  assert [node.op for node in graph.nodes] == ["Shape", "Mul", "Add", "Identity"]
  x = np.arange(0, 256, 32, dtype=np.float32)[None]
  np.testing.assert_allclose(run(graph, x, x.shape), (x / 255 - 0.5) / 0.2, 1e-5, 1e-6)
  graph = translated(lambda x: ((x - 0.5) / 0.2) * 0.2 + 0.5, (8,))
  folding.fold(graph, {"y"})
  assert {node.op for node in graph.nodes} == {"Shape", "Identity"}


def test_weights_of_fewer_bits_are_those_nearest():
  weights = drawn(32, 64)
  graph = translated(lambda x: x @ weights, (32,))
  x = np.eye(32, dtype=np.float32)
  scale = np.abs(weights).max(0) / 127
  nearest = {
    "float32": weights,
    "float16": weights.astype(np.float16).astype(np.float32),
    "int8": np.rint(weights / scale) * scale,
  }
  for kind, wanted in nearest.items():
    inputs, outputs = {"x": (("b", 32), "float32")}, {"y": ("b", 64)}
    model = model_file.make(graph, inputs, outputs, kind)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    made = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(made, wanted, 1e-5, 1e-6)
    bits = {tensor.data_type for tensor in model.graph.initializer}
    assert model_file.dtype_number(kind) in bits


def test_products_that_give_coordinates_keep_half_precision():
  weights = drawn(32, 64)

  def program(x: Any) -> Any:
    return jnp.dot(x, weights, precision=jax.lax.Precision.HIGHEST)

  inputs, outputs = {"x": (("b", 32), "float32")}, {"y": ("b", 64)}
  graph = translated(program, (32,))
  model = model_file.make(graph, inputs, outputs, "int8")
  bits = {tensor.data_type for tensor in model.graph.initializer}
  assert bits == {model_file.dtype_number("float16")}
