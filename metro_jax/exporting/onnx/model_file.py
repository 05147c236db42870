"""A graph as an ONNX model: in single precision, or with its weights in fewer bits.

Weights of fewer bits are turned into single precision when a runtime loads them, which
then computes as fast, and nearly as exactly, as with the others: processors and
browsers have few operators for half precision that would be faster, and none for
convolutions of integers.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import metro_jax
from metro_jax.exporting.onnx.graph import Graph, Node, Shape

OPSET = 18
IR_VERSION = 9  # of the first runtimes that know the opset
WEIGHTS = ("float32", "float16", "int8")
FEW = 1024  # numbers that are not worth it
LEVELS = 127


def make(
  graph: Graph,
  inputs: Mapping[str, tuple[Shape, str]],
  outputs: Mapping[str, Shape],
  weights: str = "float32",
) -> onnx.ModelProto:
  """Makes a model.

  Args:
    graph: All of it.
    inputs: Shapes and types by name; sizes that are no numbers are the batch.
    outputs: Shapes of float32 by name.
    weights: One of `WEIGHTS`: how they are kept. Of "int8", those whose products are
      coordinates are float16.

  Returns:
    The model, checked.
  """
  nodes: list[Node] = []
  kept: dict[str, np.ndarray] = {}
  for name, array in graph.constants.items():
    kind = weights if array.dtype == np.float32 and array.size >= FEW else "float32"
    if kind == "int8" and name in graph.exact:
      kind = "float16"
    nodes += _keep(name, array, kind, kept)
  made = helper.make_graph(
    [_node(node) for node in [*nodes, *graph.nodes]],
    "metro",
    [_value(name, *described) for name, described in inputs.items()],
    [_value(name, shape, "float32") for name, shape in outputs.items()],
    [numpy_helper.from_array(array, name) for name, array in kept.items()],
  )
  opset = [helper.make_opsetid("", OPSET)]
  producer = {"producer_name": "metro_jax", "producer_version": metro_jax.__version__}
  model = helper.make_model(
    made, opset_imports=opset, ir_version=IR_VERSION, **producer
  )
  onnx.checker.check_model(model, full_check=True)
  return model


def write(model: onnx.ModelProto, path: pathlib.Path) -> None:
  """Writes the model into one file."""
  path.write_bytes(model.SerializeToString())


def _keep(
  name: str, array: np.ndarray, kind: str, kept: dict[str, np.ndarray]
) -> Sequence[Node]:
  """Puts an array among those kept; returns what makes it single precision again."""
  to_float = {"to": "float32"}
  if kind == "float32":
    kept[name] = array
    return []
  stored = f"{name}/{kind}"
  if kind == "float16":
    kept[stored] = array.astype(np.float16)
    return [Node("Cast", (stored,), name, to_float)]
  # One scale a channel of the output: a kernel's first axis, a matrix's last.
  axes = (
    tuple(range(1, array.ndim)) if array.ndim == 4 else tuple(range(array.ndim - 1))
  )
  scale = np.maximum(np.abs(array).max(axes, keepdims=True), 1e-30) / LEVELS
  kept[stored] = np.rint(array / scale).astype(np.int8)
  kept[f"{name}/scale"] = scale.astype(np.float32)
  return [
    Node("Cast", (stored,), f"{name}/whole", to_float),
    Node("Mul", (f"{name}/whole", f"{name}/scale"), name, {}),
  ]


def _node(node: Node) -> onnx.NodeProto:
  attributes: dict[str, Any] = dict(node.attributes)
  if "to" in attributes:
    attributes["to"] = dtype_number(attributes["to"])
  made = helper.make_node(node.op, node.inputs, [node.output], node.output)
  made.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
  return made


def _value(name: str, shape: Shape, kind: str) -> onnx.ValueInfoProto:
  sizes = [size if isinstance(size, int) else "batch" for size in shape]
  return helper.make_tensor_value_info(name, dtype_number(kind), sizes)


def dtype_number(name: str) -> int:
  """ONNX's number of a type."""
  return helper.np_dtype_to_tensor_dtype(np.dtype(name))
