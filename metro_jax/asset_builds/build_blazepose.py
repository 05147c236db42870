"""Builds assets/blazepose.safetensors, BlazePose's backbone, from MediaPipe's wheel.

  python -m metro_jax.asset_builds.build_blazepose --mediapipe mediapipe-0.10.21-....whl

The wheel comes from PyPI (`pip download --no-deps mediapipe==0.10.21`; later ones hold
no models). Needs the extra `build`. The numbers are the file's own, in float16; only
their axes and names become ours.
"""

import argparse
import pathlib
import zipfile
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from metro_jax import files
from metro_jax.models.blazepose import BLOCKS, BlazePose
from metro_jax.weights import blazepose

MEMBER = "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"
LAST_MAP = "model_1/model/add_8/add"  # the tensor whose making we take


class Layer(NamedTuple):
  """A convolution's numbers, its axes height, width, in and out, as in Flax."""

  kernel: np.ndarray
  bias: np.ndarray


def read(path: str | pathlib.Path) -> bytes:
  """The model in the wheel, or the model's own file.

  Raises:
    FileNotFoundError: If there is no such file, or no such model in it.
    ValueError: If the file is neither.
  """
  path = pathlib.Path(path)
  if path.suffix == ".tflite":
    return path.read_bytes()
  try:
    with zipfile.ZipFile(path) as wheel:
      return wheel.read(MEMBER)
  except zipfile.BadZipFile as error:
    raise ValueError(f"{path}: expected a wheel or a .tflite file") from error
  except KeyError as error:
    raise FileNotFoundError(f"{path}: expected a wheel with {MEMBER}") from error


def layers(model: bytes, last: str = LAST_MAP) -> list[Layer]:
  """The convolutions that make a map, in their order.

  Args:
    model: A TensorFlow Lite file with one graph.
    last: The map's name.

  Raises:
    ValueError: If the graph has no such map.
  """
  from ai_edge_litert import schema_py_generated as schema  # a build-time package

  tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
  (graph,) = tree.subgraphs
  makers = {int(number): op for op in graph.operators for number in op.outputs}
  names = {tensor.name.decode(): n for n, tensor in enumerate(graph.tensors)}
  if last not in names:
    raise ValueError(f"the model: expected a tensor {last}, found none")
  convolutions = {schema.BuiltinOperator.CONV_2D: (1, 2, 3, 0)}
  convolutions[schema.BuiltinOperator.DEPTHWISE_CONV_2D] = (1, 2, 0, 3)
  found = []
  for number in _behind(names[last], makers):
    op = makers[number]
    code = tree.operatorCodes[op.opcodeIndex]
    axes = convolutions.get(max(code.builtinCode, code.deprecatedBuiltinCode))
    if axes:
      kernel, bias = (_numbers(tree, graph, makers, int(n)) for n in op.inputs[1:3])
      found.append(Layer(kernel.transpose(axes), bias))
  return found


def _behind(last: int, makers: dict[int, Any]) -> list[int]:
  """The computed tensors that a tensor follows from, itself last, in their order."""
  wanted, waiting = set(), [last]
  while waiting:
    number = waiting.pop()
    if number in makers and number not in wanted:
      wanted.add(number)
      waiting += [int(n) for n in makers[number].inputs]
  return [number for number in makers if number in wanted]


def _numbers(tree: Any, graph: Any, makers: dict[int, Any], number: int) -> np.ndarray:
  """A constant; in the file it stands in float16, behind an operator that widens it."""
  if number in makers:
    (number,) = makers[number].inputs
  tensor = graph.tensors[number]
  data = np.asarray(tree.buffers[tensor.buffer].data, np.uint8)
  return data.view(np.float16).reshape(tensor.shape)


def build(model: bytes) -> dict[str, np.ndarray]:
  """The asset's arrays by name.

  Raises:
    ValueError: If the model's convolutions are not those of `BlazePose`.
  """
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(BlazePose().init, jax.random.key(0), images)["params"]
  flat = flax.traverse_util.flatten_dict(shapes, sep=".")
  parts = ("expand", "depthwise", "project")
  names = [f"block{n}.{part}" for n in range(len(BLOCKS)) for part in parts]
  names = ["stem", *(name for name in names if f"{name}.kernel" in flat)]
  found = layers(model)
  if len(found) != len(names):
    raise ValueError(f"the model: expected {len(names)} convolutions, got {len(found)}")
  arrays = {}
  for name, layer in zip(names, found, strict=True):
    for leaf, value in layer._asdict().items():
      key, wanted = f"{name}.{leaf}", flat[f"{name}.{leaf}"].shape
      if value.shape != wanted:
        raise ValueError(f"{key}: expected shape {wanted}, got {value.shape}")
      arrays[key] = np.ascontiguousarray(value)
  return arrays


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--mediapipe", required=True, help="the wheel, or the .tflite")
  parser.add_argument("--output", default=blazepose.ASSET, type=pathlib.Path)
  arguments = parser.parse_args()
  try:
    arrays = build(read(arguments.mediapipe))
  except (OSError, ValueError) as error:
    parser.error(str(error))
  with files.replacing(arguments.output) as partial:
    safetensors.numpy.save_file(arrays, partial)
  count, size = sum(a.size for a in arrays.values()), arguments.output.stat().st_size
  print(f"{arguments.output}: {len(arrays)} arrays, {count:,} numbers, {size:,} B")


if __name__ == "__main__":
  main()
