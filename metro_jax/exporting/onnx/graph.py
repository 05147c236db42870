"""A graph of ONNX operators as it grows: nodes, constants, and where axes are stored.

Nothing here needs the packages of ONNX; `model_file` makes a file of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[Any, ...]  # int, or JAX's symbol for the batch
CHANNELS_FIRST = (0, 3, 1, 2)  # of (b, h, w, c)
SHARED_SIZE = 64  # constants of fewer numbers are kept once


class Node(NamedTuple):
  """An operator with one output."""

  op: str
  inputs: tuple[str, ...]
  output: str
  attributes: dict[str, Any]


class Tensor(NamedTuple):
  """A value that depends on the pictures.

  Attributes:
    name: Of the graph's value.
    shape: In the program's order of axes; 1 also where an axis was broadcast, which is
      left to the operators.
    axes: Stored axis i is the program's axis `axes[i]`: transposing costs nothing until
      an operator asks for another order.
  """

  name: str
  shape: Shape
  axes: tuple[int, ...]


Value = np.ndarray | Tensor  # the former are constants


class Graph:
  """What has been added so far.

  Attributes:
    nodes: In the order of computation.
    constants: By name.
    exact: Names of constants whose products give coordinates.
    scope: Where in the network the next nodes stand; part of their names.
    batch: The value of shape (1,) that is the batch's size.
  """

  def __init__(self) -> None:
    self.nodes: list[Node] = []
    self.constants: dict[str, np.ndarray] = {}
    self.exact: set[str] = set()
    self.scope = ""
    self.batch = ""
    self._shared: dict[tuple[Any, ...], str] = {}

  def input(self, name: str, shape: Shape) -> Tensor:
    """The pictures; their first axis is the batch."""
    self.batch = self.node("Shape", name, start=0, end=1)
    return Tensor(name, shape, tuple(range(len(shape))))

  def node(self, op: str, *inputs: str, **attributes: Any) -> str:
    """Adds an operator; returns the name of its output."""
    name = f"{self.scope}/{op}_{len(self.nodes)}".lstrip("/")
    self.nodes.append(Node(op, inputs, name, attributes))
    return name

  def constant(self, values: Any) -> str:
    """Adds a constant, in single precision at most; returns its name."""
    array = np.asarray(values)
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    key = (array.dtype.str, array.shape, array.tobytes())
    if array.size < SHARED_SIZE and key in self._shared:
      return self._shared[key]
    name = f"{self.scope}/constant_{len(self.constants)}".lstrip("/")
    self.constants[name] = array
    if array.size < SHARED_SIZE:
      self._shared[key] = name
    return name

  def integers(self, values: Sequence[int]) -> str:
    """Adds a list of integers, as shapes and axes are given."""
    return self.constant(np.array(values, np.int64))

  def stored(self, value: Value, axes: tuple[int, ...] | None = None) -> str:
    """The name of a value with its axes in an order; the program's if none is given."""
    axes = tuple(range(len(value.shape))) if axes is None else axes
    if isinstance(value, np.ndarray):
      return self.constant(np.transpose(value, axes) if value.ndim else value)
    order = [value.axes.index(axis) for axis in axes]
    if order == sorted(order):
      return value.name
    return self.node("Transpose", value.name, perm=order)

  def full(self, value: Value, shape: Shape) -> Value:
    """The value with all numbers that broadcasting gives it."""
    grown = [n for n, size in enumerate(shape) if not _same(value.shape[n], size)]
    if not grown:
      return value
    wanted = [size if n in grown else 1 for n, size in enumerate(shape)]
    sizes = [self.batch if not isinstance(s, int) else s for s in wanted]
    name = self.node("Expand", self.stored(value), self._sizes(sizes))
    return Tensor(name, shape, tuple(range(len(shape))))

  def _sizes(self, sizes: list[str | int]) -> str:
    if all(isinstance(size, int) for size in sizes):
      return self.integers([int(size) for size in sizes])
    parts = [size if isinstance(size, str) else self.integers([size]) for size in sizes]
    return self.node("Concat", *parts, axis=0)

  def elementwise(self, op: str, *values: Value, **attributes: Any) -> Tensor:
    """Adds an operator on numbers by themselves, which broadcasts."""
    rank = max(len(value.shape) for value in values)
    tensors = [v for v in values if isinstance(v, Tensor) and len(v.shape) == rank]
    axes = tensors[0].axes if tensors else tuple(range(rank))
    names = [self.stored(v, axes if len(v.shape) == rank else None) for v in values]
    shapes = [v.shape for v in values if len(v.shape) == rank]
    return Tensor(self.node(op, *names, **attributes), _broadcast(shapes), axes)


def _same(got: Any, wanted: Any) -> bool:
  return not (isinstance(got, int) and got == 1) or (
    isinstance(wanted, int) and wanted == 1
  )


def _broadcast(shapes: Sequence[Shape]) -> Shape:
  return tuple(
    next((s for s in sizes if not (isinstance(s, int) and s == 1)), 1)
    for sizes in zip(*shapes, strict=True)
  )
