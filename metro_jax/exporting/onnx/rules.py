"""From the primitives of a JAX program to ONNX operators.

Every primitive that the networks are made of has a rule here. Functions that have an
operator of their own are known by name, see `tracing`; all others are looked into.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from metro_jax.exporting.onnx.graph import (
  CHANNELS_FIRST,
  Graph,
  Shape,
  Tensor,
  Value,
)

Rule = Callable[[Graph, JaxprEqn, list[Value]], Tensor]

ELEMENTWISE = {
  "add": "Add",
  "sub": "Sub",
  "mul": "Mul",
  "div": "Div",
  "max": "Max",
  "min": "Min",
  "neg": "Neg",
  "exp": "Exp",
  "erf": "Erf",
  "tanh": "Tanh",
  "sqrt": "Sqrt",
}
UNCHANGED = ("copy", "stop_gradient")


def translate(graph: Graph, program: ClosedJaxpr, inputs: list[Value]) -> list[Value]:
  """Adds a program's operators to the graph.

  Args:
    graph: Where to.
    program: The only size that it leaves open is the batch.
    inputs: Its arguments; arrays are constants, and what follows from them alone is
      computed here and now.

  Returns:
    Its results.

  Raises:
    ValueError: If there is no rule for a primitive, naming it and where it stands.
  """
  jaxpr: Jaxpr = program.jaxpr
  known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
  constants = map(np.asarray, program.consts)
  known.update(zip(jaxpr.constvars, constants, strict=True))

  def read(atom: Any) -> Value:
    return np.asarray(atom.val) if isinstance(atom, Literal) else known[atom]

  for equation in jaxpr.eqns:
    results = _apply(graph, equation, [read(atom) for atom in equation.invars])
    known.update(zip(equation.outvars, results, strict=True))
  return [graph.full(read(atom), _shape(atom)) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: JaxprEqn, values: list[Value]) -> list[Value]:
  name, params = equation.primitive.name, equation.params
  varies = any(isinstance(value, Tensor) for value in values)
  if name in ("jit", "custom_jvp_call", "custom_vjp_call"):
    call = CALLS.get(params.get("name", "")) if varies else None
    if call is None:
      inner = params["jaxpr"] if name == "jit" else params["call_jaxpr"]
      return translate(graph, inner, values)
    graph.scope = str(equation.source_info.name_stack)
    return [call(graph, equation, values)]
  shape = _shape(equation.outvars[0])
  if not varies and all(isinstance(size, int) for size in shape):
    return [_evaluate(equation, values)]
  if name in UNCHANGED:
    return values
  graph.scope = str(equation.source_info.name_stack)
  if name in ELEMENTWISE:
    return [graph.elementwise(ELEMENTWISE[name], *values)]
  if name == "broadcast_in_dim":
    return [_broadcast_in_dim(graph, equation, values[0])]
  if name == "transpose" and isinstance(values[0], Tensor):
    return [_transpose(values[0], params["permutation"])]
  if name not in RULES:
    raise ValueError(
      f"onnx: expected primitives among {', '.join(sorted([*ELEMENTWISE, *RULES]))}, "
      f"got {name} in {graph.scope}"
    )
  given = zip(values, equation.invars, strict=True)
  whole = [graph.full(value, _shape(atom)) for value, atom in given]
  return [RULES[name](graph, equation, whole)]


def _shape(atom: Any) -> Shape:
  return atom.aval.shape


def _evaluate(equation: JaxprEqn, values: list[Value]) -> np.ndarray:
  given = zip(values, equation.invars, strict=True)
  whole = [np.broadcast_to(value, _shape(atom)) for value, atom in given]
  return np.asarray(equation.primitive.bind(*whole, **equation.params))


def _plain(graph: Graph, equation: JaxprEqn, op: str, *inputs: str, **more) -> Tensor:
  """An operator whose result is stored in the program's order."""
  shape = _shape(equation.outvars[0])
  return Tensor(graph.node(op, *inputs, **more), shape, tuple(range(len(shape))))


def _broadcast_in_dim(graph: Graph, equation: JaxprEqn, value: Value) -> Value:
  """Axes of size 1 alone; the operators that use it, or `Graph.full`, do the rest."""
  rank = len(equation.params["shape"])
  kept = equation.params["broadcast_dimensions"]
  new = [axis for axis in range(rank) if axis not in kept]
  if isinstance(value, np.ndarray):
    return np.expand_dims(value, new)
  shape = list(value.shape)
  for axis in new:
    shape.insert(axis, 1)
  if not new:
    return value
  name = graph.node("Unsqueeze", graph.stored(value), graph.integers(new))
  return Tensor(name, tuple(shape), tuple(range(rank)))


def _transpose(value: Tensor, permutation: tuple[int, ...]) -> Tensor:
  shape = tuple(value.shape[axis] for axis in permutation)
  axes = tuple(permutation.index(axis) for axis in value.axes)
  return Tensor(value.name, shape, axes)


def _convert(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  (value,) = values
  before: Any = equation.invars[0].aval
  after: Any = equation.outvars[0].aval
  if before.dtype == after.dtype and isinstance(value, Tensor):
    return value
  return graph.elementwise("Cast", value, to=after.dtype.name)


def _reshape(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  sizes = _shape(equation.outvars[0])
  if sum(not isinstance(size, int) for size in sizes) > 1:
    raise ValueError(f"onnx: expected one open size, got {sizes} in {graph.scope}")
  target = graph.integers([s if isinstance(s, int) else -1 for s in sizes])
  return _plain(graph, equation, "Reshape", graph.stored(values[0]), target)


def _squeeze(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  axes = graph.integers(equation.params["dimensions"])
  return _plain(graph, equation, "Squeeze", graph.stored(values[0]), axes)


def _concatenate(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  names = [graph.stored(value) for value in values]
  axis = equation.params["dimension"]
  return _plain(graph, equation, "Concat", *names, axis=axis)


def _slice(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  params = equation.params
  starts, limits = params["start_indices"], params["limit_indices"]
  steps = params["strides"] or [1] * len(starts)
  return _sliced(graph, values[0], starts, limits, steps)


def _sliced(graph: Graph, value: Value, starts: Any, limits: Any, steps: Any) -> Tensor:
  """Slices each axis that is not wanted whole."""
  shape = value.shape
  cut = [
    axis
    for axis, size in enumerate(shape)
    if isinstance(size, int)
    and (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
  ]
  taken = [[int(sizes[axis]) for axis in cut] for sizes in (starts, limits, steps)]
  counts = [len(range(*part)) for part in zip(*taken, strict=True)]
  lengths = dict(zip(cut, counts, strict=True))
  ranges = [graph.integers(sizes) for sizes in (*taken[:2], cut, taken[2])]
  name = graph.node("Slice", graph.stored(value), *ranges)
  new = tuple(lengths.get(axis, size) for axis, size in enumerate(shape))
  return Tensor(name, new, tuple(range(len(shape))))


def _gather(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  """A slice at a known place: what indexing becomes where the batch is open."""
  operand, starts = values
  numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
  if not isinstance(starts, np.ndarray) or starts.ndim != 1:
    raise ValueError(f"onnx: expected slices at known places in {graph.scope}")
  first: list[Any] = [0] * len(sizes)
  for axis, start in zip(numbers.start_index_map, starts, strict=True):
    first[axis] = int(start)
  limits = [start + size for start, size in zip(first, sizes, strict=True)]
  part = _sliced(graph, operand, first, limits, [1] * len(sizes))
  if not numbers.collapsed_slice_dims:
    return part
  axes = graph.integers(numbers.collapsed_slice_dims)
  return _plain(graph, equation, "Squeeze", part.name, axes)


def _pad(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  config = equation.params["padding_config"]
  if any(low < 0 or high < 0 or between for low, high, between in config):
    raise ValueError(f"onnx: expected padding at borders, got {config}")
  amounts = [int(side[n]) for n in (0, 1) for side in config]
  names = [graph.stored(values[0]), graph.integers(amounts), graph.stored(values[1])]
  return _plain(graph, equation, "Pad", *names)


def _reduce(op: str) -> Rule:
  def rule(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
    axes = graph.integers(equation.params["axes"])
    return _plain(graph, equation, op, graph.stored(values[0]), axes, keepdims=0)

  return rule


def _rsqrt(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  return graph.elementwise("Reciprocal", graph.elementwise("Sqrt", *values))


def _square(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  return graph.elementwise("Mul", values[0], values[0])


def _integer_pow(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  exponent = np.asarray(equation.params["y"], np.float32)
  return graph.elementwise("Pow", values[0], exponent)


def _erfc(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  one = np.ones((), np.float32)
  return graph.elementwise("Sub", one, graph.elementwise("Erf", *values))


def _select(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  which, where_false, where_true = values
  return graph.elementwise("Where", which, where_true, where_false)


def _clamp(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  low, x, high = values
  return graph.elementwise("Min", graph.elementwise("Max", x, low), high)


def _convolution(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  x, kernel = values
  params = equation.params
  numbers, pads = params["dimension_numbers"], params["padding"]
  dilated = {*params["lhs_dilation"], *params["rhs_dilation"]} != {1}
  if dilated or params["batch_group_count"] != 1:
    raise ValueError(f"onnx: expected a plain convolution in {graph.scope}")
  name = graph.node(
    "Conv",
    graph.stored(x, tuple(numbers.lhs_spec)),
    graph.stored(kernel, tuple(numbers.rhs_spec)),
    strides=list(params["window_strides"]),
    pads=[low for low, _ in pads] + [high for _, high in pads],
    group=params["feature_group_count"],
  )
  return Tensor(name, _shape(equation.outvars[0]), tuple(numbers.out_spec))


def _dot_general(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  """Matrix products: of a matrix and a batch of them either way, or of two batches."""
  (left_sums, right_sums), (left_batch, right_batch) = equation.params[
    "dimension_numbers"
  ]
  left, right = values
  if len(left_sums) != 1:
    raise ValueError(f"onnx: expected one axis to sum over in {graph.scope}")
  left_free = _others(left, (*left_batch, *left_sums))
  right_free = _others(right, (*right_batch, *right_sums))
  if left_batch and not len(left_free) == len(right_free) == 1:
    raise ValueError(f"onnx: expected batches of matrices in {graph.scope}")
  order = tuple(range(len(_shape(equation.outvars[0]))))
  if not left_batch and len(left_free) == 1 and len(right_free) > 1:
    # (l, s) times (…, s, r) is (…, l, r); the program wants (l, …, r).
    right_order = (*right_free[:-1], *right_sums, right_free[-1])
    order = (*range(1, len(right_free)), 0, len(right_free))
  elif not left_batch and len(right_free) != 1:
    raise ValueError(f"onnx: expected a matrix in {graph.scope}")
  else:
    right_order = (*right_batch, *right_sums, *right_free)
  names = (
    graph.stored(left, (*left_batch, *left_free, *left_sums)),
    graph.stored(right, right_order),
  )
  if _is_exact(equation):
    graph.exact.update(names)
  return Tensor(graph.node("MatMul", *names), _shape(equation.outvars[0]), order)


def _others(value: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(axis for axis in range(len(value.shape)) if axis not in axes)


def _is_exact(equation: JaxprEqn) -> bool:
  highest = jax.lax.Precision.HIGHEST
  return equation.params["precision"] in (highest, (highest, highest))


def _softmax(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  return _plain(graph, equation, "Softmax", graph.stored(values[0]), axis=-1)


def _layer_norm(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  *operands, epsilon = values
  names = [graph.stored(value) for value in operands]
  more = {"axis": -1, "epsilon": float(np.asarray(epsilon))}
  return _plain(graph, equation, "LayerNormalization", *names, **more)


def _gelu(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  """x · ½ (1 + erf(x / √2)), in the order in which runtimes know it."""
  (x,) = values
  root, one, half = (np.asarray(v, np.float32) for v in (np.sqrt(2), 1, 0.5))
  erf = graph.elementwise("Erf", graph.elementwise("Div", x, root))
  twice = graph.elementwise("Mul", x, graph.elementwise("Add", erf, one))
  return graph.elementwise("Mul", twice, half)


def _relu(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  return graph.elementwise("Relu", *values)


def _relu6(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  low, high = (np.asarray(v, np.float32) for v in (0, 6))
  return graph.elementwise("Clip", *values, low, high)


def _max_pool(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  x = graph.stored(values[0], CHANNELS_FIRST)
  window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
  name = graph.node("MaxPool", x, **window)
  return Tensor(name, _shape(equation.outvars[0]), CHANNELS_FIRST)


def _repeat_pixels(graph: Graph, equation: JaxprEqn, values: list[Value]) -> Tensor:
  (before,), (after,) = equation.invars, equation.outvars
  factor = _shape(after)[1] // _shape(before)[1]
  scales = graph.constant(np.array([1, 1, factor, factor], np.float32))
  how = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
  }
  x = graph.stored(values[0], CHANNELS_FIRST)
  name = graph.node("Resize", x, "", scales, **how)
  return Tensor(name, _shape(after), CHANNELS_FIRST)


RULES: dict[str, Rule] = {
  "clamp": _clamp,
  "concatenate": _concatenate,
  "conv_general_dilated": _convolution,
  "convert_element_type": _convert,
  "dot_general": _dot_general,
  "erfc": _erfc,
  "gather": _gather,
  "integer_pow": _integer_pow,
  "pad": _pad,
  "reduce_max": _reduce("ReduceMax"),
  "reduce_sum": _reduce("ReduceSum"),
  "reshape": _reshape,
  "rsqrt": _rsqrt,
  "select_n": _select,
  "slice": _slice,
  "square": _square,
  "squeeze": _squeeze,
}

CALLS: dict[str, Rule] = {
  "gelu": _gelu,
  "layer_norm": _layer_norm,
  "max_pool": _max_pool,
  "relu": _relu,
  "relu6": _relu6,
  "repeat_pixels": _repeat_pixels,
  "softmax": _softmax,
}
