"""Matrix products and convolutions of a function, read off its trace.

A compiler's own count includes what it adds and, where it calls a library, leaves out
what it hands over. This count depends on the program alone.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

SUBLANES = 8  # rows that a TPU's registers hold at once
_PART = re.compile(r"\b(backbone|encoder/block\d+|token_mixing|upsampling\d+|camera)")


class Product(NamedTuple):
  """`batch` products of (rows, inner) with (inner, columns), `times` over.

  Attributes:
    part: Of the network: "backbone", "encoder/block0", ... or "" elsewhere.
    times: Turns of the loops around it.
  """

  part: str
  batch: int
  rows: int
  inner: int
  columns: int
  times: int

  @property
  def flops(self) -> float:
    """2 batch rows inner columns: a multiplication and an addition each."""
    size = self.batch * self.rows * self.inner * self.columns
    return 2.0 * self.times * size

  def tiled_flops(self, tile: int) -> float:
    """The same with every side filled up to whole tiles of a matrix unit.

    One operand's inner and outer side lie in tiles of `tile`; the other's rows stream
    past in groups of `SUBLANES`. The operand that wastes less is the one that lies.
    """
    inner = _up(self.inner, tile)
    outer = min(
      _up(self.rows, SUBLANES) * _up(self.columns, tile),
      _up(self.rows, tile) * _up(self.columns, SUBLANES),
    )
    return 2.0 * self.times * self.batch * inner * outer


def _up(size: int, tile: int) -> int:
  return -(-size // tile) * tile


def of(function: Callable[..., Any], *arguments: Any) -> list[Product]:
  """Traces a function and lists its products; computes nothing.

  Args:
    function: Of arrays or trees of arrays.
    arguments: Arrays or shapes.
  """
  return list(_walk(jax.make_jaxpr(function)(*arguments).jaxpr, "", 1))


def of_step(function: Callable[..., Any], axis: str, *arguments: Any) -> list[Product]:
  """The same for a step that uses a mapped axis: those of one device."""
  trace = jax.make_jaxpr(function, axis_env=[(axis, 1)])
  return list(_walk(trace(*arguments).jaxpr, "", 1))


def by_part(products: list[Product]) -> dict[str, float]:
  """FLOPs of each part; "" is everything outside the network."""
  sums: dict[str, float] = {}
  for product in products:
    sums[product.part] = sums.get(product.part, 0.0) + product.flops
  return sums


def _walk(jaxpr: Any, outer: str, times: int) -> Iterator[Product]:
  for equation in jaxpr.eqns:
    scope = f"{outer}/{equation.source_info.name_stack}"
    if equation.primitive.name == "dot_general":
      yield _dot(equation, _part(scope), times)
    elif equation.primitive.name == "conv_general_dilated":
      yield _convolution(equation, _part(scope), times)
    turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    for inner in _inner(equation.params):
      yield from _walk(inner, scope, times * turns)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The programs inside an equation; of a choice, all of its branches."""
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _part(scope: str) -> str:
  found = _PART.search(scope)
  return found[1] if found else ""


def _dot(equation: Any, part: str, times: int) -> Product:
  (left_inner, right_inner), (left_batch, right_batch) = equation.params[
    "dimension_numbers"
  ]
  left, right = (variable.aval.shape for variable in equation.invars)

  def rest(shape: tuple[int, ...], *taken: tuple[int, ...]) -> int:
    used = {axis for axes in taken for axis in axes}
    return math.prod(n for axis, n in enumerate(shape) if axis not in used)

  return Product(
    part,
    batch=math.prod(left[axis] for axis in left_batch),
    rows=rest(left, left_inner, left_batch),
    inner=math.prod(left[axis] for axis in left_inner),
    columns=rest(right, right_inner, right_batch),
    times=times,
  )


def _convolution(equation: Any, part: str, times: int) -> Product:
  """As one product over all windows: every place in the result takes one row."""
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  result = equation.outvars[0].aval.shape
  window = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
  holes = math.prod(equation.params["lhs_dilation"])
  features = result[numbers.out_spec[1]]
  rows = math.prod(result) // features
  if holes > 1:  # a strided convolution's gradient: most of its windows hold zeros
    rows = -(-rows // holes)
  return Product(part, 1, rows, window, features, times)
