"""Takes constant factors and sums into the convolutions and products before them.

So BatchNorm leaves no trace, and the pictures' normalisation one factor and one sum.
"""

import collections
from typing import NamedTuple

import numpy as np

from metro_jax.exporting.onnx.graph import Graph, Node

ROUNDING = 1e-12  # a sum that is nothing else


class Affine(NamedTuple):
  """y = factor · x + shift with constants of double precision.

  Attributes:
    x: Name of the value.
    factor: Broadcasts to it.
    shift: Likewise.
    node: The only operator that it comes from, or the last of several.
    steps: How many.
  """

  x: str
  factor: np.ndarray
  shift: np.ndarray
  node: Node
  steps: int = 1


def fold(graph: Graph, outputs: set[str]) -> None:
  """Folds what can be, in place, and drops constants that nothing uses.

  Args:
    graph: As `rules.translate` leaves it.
    outputs: Names of values that others ask for.
  """
  uses = collections.Counter(name for node in graph.nodes for name in node.inputs)
  uses.update(outputs)
  done: dict[str, Node | Affine] = {}  # by the output

  def take(name: str) -> Node | Affine | None:
    """What makes a value, if only one asks for it."""
    return done.get(name) if uses[name] == 1 else None

  for node in graph.nodes:
    step = _affine(graph, node)
    before = take(step.x) if step else None
    if step is None:
      done[node.output] = node
    elif isinstance(before, Affine):
      del done[step.x]
      factor = before.factor * step.factor
      shift = before.shift * step.factor + step.shift
      done[node.output] = Affine(before.x, factor, shift, node, before.steps + 1)
    elif isinstance(before, Node) and _is_by_channel(graph, before, step):
      del done[step.x]
      done[node.output] = _into_convolution(graph, before, step)
    else:
      done[node.output] = step
  graph.nodes = [node for made in done.values() for node in _emit(graph, made)]
  used = {name for node in graph.nodes for name in node.inputs}
  graph.constants = {k: v for k, v in graph.constants.items() if k in used}


def _affine(graph: Graph, node: Node) -> Affine | None:
  """A sum or product with one constant, as what it does to the other operand."""
  if node.op not in ("Add", "Sub", "Mul", "Div"):
    return None
  known = [graph.constants.get(name) for name in node.inputs]
  if (known[0] is None) == (known[1] is None):
    return None
  if node.op == "Div" and known[1] is None:  # of a constant
    return None
  first = known[0] is not None
  constant = np.asarray(known[0] if first else known[1], np.float64)
  one, zero = np.ones(()), np.zeros(())
  factor, shift = {
    "Add": (one, constant),
    "Sub": (-one, constant) if first else (one, -constant),
    "Mul": (constant, zero),
    "Div": (1 / constant, zero) if node.op == "Div" else (one, zero),
  }[node.op]
  return Affine(node.inputs[1 if first else 0], factor, shift, node)


def _is_by_channel(graph: Graph, node: Node, step: Affine) -> bool:
  """Whether a step treats each channel of a convolution by itself."""
  if node.op != "Conv" or node.inputs[1] not in graph.constants:
    return False
  channels = len(graph.constants[node.inputs[1]])
  shapes = {step.factor.shape, step.shift.shape} - {()}
  return all(np.prod(shape) == 1 or shape == (1, channels, 1, 1) for shape in shapes)


def _into_convolution(graph: Graph, node: Node, step: Affine) -> Node:
  x, kernel, *bias = node.inputs
  weights = graph.constants[kernel].astype(np.float64)
  factor, shift = (
    np.broadcast_to(values.reshape(-1), len(weights))
    for values in (step.factor, step.shift)
  )
  before = graph.constants[bias[0]].astype(np.float64) if bias else 0.0
  new = (weights * factor[:, None, None, None], before * factor + shift)
  inputs = (x, *(graph.constant(values) for values in new))
  return node._replace(inputs=inputs, output=step.node.output)


def _emit(graph: Graph, made: Node | Affine) -> list[Node]:
  """An operator as it is, or those that a factor and a sum need."""
  if isinstance(made, Node):
    return [made]
  output = made.node.output
  if made.steps == 1:  # in the form by which runtimes know what it is part of
    return [made.node]
  if (made.factor == 1).all() and (np.abs(made.shift) < ROUNDING).all():
    return [Node("Identity", (made.x,), output, {})]
  scaled = f"{output}/scaled"
  factor, shift = graph.constant(made.factor), graph.constant(made.shift)
  product = Node("Mul", (made.x, factor), scaled, {})
  if (np.abs(made.shift) < ROUNDING).all():
    return [product._replace(output=output)]
  if (made.factor == 1).all():
    return [Node("Add", (made.x, shift), output, {})]
  return [product, Node("Add", (scaled, shift), output, {})]
