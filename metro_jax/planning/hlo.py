"""Reading a compiled program's text: what devices send to each other, and layouts."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?(%[\w.-]+) = (.*?) ([a-z][\w-]*)\((.*?)\)")
_OPERAND = re.compile(r"%[\w.-]+")
# What moves nothing itself.
_FREE = frozenset(
  (
    *("parameter", "constant", "bitcast", "tuple", "get-tuple-element"),
    *("after-all", "partition-id", "replica-id", "iota", "opt-barrier"),
  )
)
_SLICES = ("slice", "dynamic-slice", "gather")  # read no more than they give
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_BITS = re.compile(r"\d+")


class Collectives(NamedTuple):
  """Exchanges of one kind: how many, and bytes a device puts in or gets out."""

  count: int  # type: ignore[assignment]  # the --json file says it so; hides tuple's
  bytes: float


class Shape(NamedTuple):
  """An array in a program's text.

  Attributes:
    bits: Of a number.
    sizes: Of the axes.
    minor_to_major: The axes, the one that is contiguous in memory first.
    tile: What the last of the contiguous axes are filled up to, the first last.
    outside: Whether it lives in a device's main memory.
  """

  bits: int
  sizes: tuple[int, ...]
  minor_to_major: tuple[int, ...]
  tile: tuple[int, ...]
  outside: bool

  @property
  def bytes(self) -> float:
    """Of its numbers alone."""
    return math.prod(self.sizes) * self.bits / 8

  @property
  def padded_bytes(self) -> float:
    """With the axes filled up to whole tiles, as it lies in memory."""
    sizes = list(self.sizes)
    for axis, tile in zip(self.minor_to_major, reversed(self.tile), strict=False):
      sizes[axis] = -(-sizes[axis] // tile) * tile
    return math.prod(sizes) * self.bits / 8


def collectives(text: str) -> dict[str, Collectives]:
  """The exchanges in a compiled program by kind.

  Args:
    text: Of `jax.stages.Compiled.as_text`. An exchange in a loop counts once.
  """
  found: dict[str, Collectives] = {}
  for line in text.splitlines():
    match = _COLLECTIVE.search(line)
    if match is None or "-done(" in line:
      continue
    shapes = list(_shapes(match[1]))
    if match[3] and match[2] in ("all-gather", "collective-permute"):
      shapes = shapes[len(shapes) // 2 :]  # of operands and results, the results
    size = sum(shape.bytes for shape in shapes)
    count, total = found.get(match[2], Collectives(0, 0.0))
    found[match[2]] = Collectives(count + 1, total + size)
  return found


class Traffic(NamedTuple):
  """Bytes to and from main memory: of the numbers, and as they lie in tiles."""

  bytes: float
  padded_bytes: float


def traffic(text: str) -> Traffic:
  """What the instructions of a compiled program read and write.

  Every instruction reads its operands and writes its results once, whole; what lives
  in memory on the chip is free. A loop's body counts as its arguments.

  Args:
    text: Of `jax.stages.Compiled.as_text`, scheduled and with layouts.
  """
  types: dict[str, list[Shape]] = {}
  total = padded = 0.0
  for name, kind, operation, operands in _entry(text):
    types[name] = list(_shapes(kind))
    if operation in _FREE:
      continue
    moved = [] if operation.endswith("-start") else list(types[name])
    if operation in _SLICES:
      moved += types[name]
    elif operation == "slice-start":  # (operands, result, state): reads the result
      source, result, *_ = types[name]
      moved.append(result._replace(outside=source.outside))
    elif not operation.endswith("-done"):
      for operand in operands:
        moved += types.get(operand, [])
    total += sum(shape.bytes for shape in moved if shape.outside)
    padded += sum(shape.padded_bytes for shape in moved if shape.outside)
  return Traffic(total, padded)


def _entry(text: str) -> Iterator[tuple[str, str, str, list[str]]]:
  """Name, type, operation and operands of the main computation's instructions."""
  inside = False
  for line in text.splitlines():
    if line.startswith("ENTRY "):
      inside = True
    elif inside and line.startswith("}"):
      return
    elif inside and (match := _INSTRUCTION.match(line)):
      name, kind, operation, operands = match.groups()
      yield name, kind, operation, _OPERAND.findall(operands)


def _shapes(text: str) -> Iterator[Shape]:
  """The arrays that a type names, one or a tuple of them."""
  for kind, sizes, layout in _SHAPE.findall(text):
    order, _, rest = layout.partition(":")
    tile = _TILE.search(rest)
    yield Shape(
      bits=_bits(kind),
      sizes=tuple(int(n) for n in sizes.split(",") if n),
      minor_to_major=tuple(int(n) for n in order.split(",") if n),
      tile=tuple(int(n) for n in tile[1].split(",")) if tile else (),
      outside="S(" not in rest,
    )


def _bits(kind: str) -> int:
  """Of a number of a type such as bf16, pred or f8e4m3fn."""
  digits = _BITS.search(kind)
  return int(digits[0]) if digits else 8 if kind == "pred" else 0
