"""What the names in a pickle stand for here: inert classes, and their numbers.

An object of NumPy, SciPy or chumpy in a pickle becomes one of these. They keep what
the pickle says and do nothing with it; `array`, `sparse` and `items` read it, when a
loader asks for an entry. `KINDS` is the whole list of names that a pickle may use.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

MAX_DEPTH = 8  # of chumpy objects inside one another
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}|O[48]?")


class Sparse(NamedTuple):
  """A sparse matrix as plain data; entries at the same place add up."""

  shape: tuple[int, int]
  rows: Int[np.ndarray, " n"]
  columns: Int[np.ndarray, " n"]
  values: Float[np.ndarray, " n"]


def array(value: Any, where: str) -> np.ndarray:
  """Returns the array that an inert value stands for.

  Args:
    value: What `pickles.load` or `npz.load` gave: an array, a scalar, a chumpy object.
    where: File and name, for the error.

  Returns:
    An array of numbers or text, perhaps read-only.

  Raises:
    ValueError: If the value is something else or its parts do not fit.
  """
  with reading(where):
    return _array(_content(value), MAX_DEPTH)


def sparse(value: Any, where: str) -> Sparse:
  """Returns a SciPy matrix (csc, csr, coo) or a dense one as plain sparse data.

  Args:
    value: What `pickles.load` or `npz.load` gave.
    where: File and name, for the error.

  Raises:
    ValueError: If it is no matrix, or an index lies outside its shape.
  """
  with reading(where):
    return _sparse(_content(value))


def items(value: Any, where: str) -> list[Any]:
  """Returns the inert values of an object array of at most one axis, or of a list.

  Raises:
    ValueError: If it is neither.
  """
  with reading(where):
    if isinstance(value, list | tuple):
      return list(value)
    found = _raw_array(value)[2] if isinstance(value, _Array) else None
    if not isinstance(found, list):
      raise ValueError("expected an array of objects, got another value")
    return found


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
  """Turns whatever damage raises into one line that says where."""
  try:
    yield
  except (OSError, MemoryError):
    raise
  except Exception as error:  # struct, zip, zlib and NumPy share no base
    text = (str(error).splitlines() or [""])[0]
    if not isinstance(error, ValueError):
      text = f"expected a whole file, got {type(error).__name__}: {text}"
    raise ValueError(text if text.startswith(where) else f"{where}: {text}") from error


def filled(
  raw: bytes | memoryview, dtype: np.dtype, shape: Sequence[int], fortran: bool
) -> np.ndarray:
  """Returns a view of the bytes, which must be as many as the shape claims."""
  if dtype.kind not in "biufSU" or not all(type(n) is int and n >= 0 for n in shape):
    raise ValueError(f"expected an array of numbers, got {dtype} {tuple(shape)}")
  size = math.prod(shape) * dtype.itemsize
  if len(raw) != size:
    raise ValueError(
      f"expected {size} bytes for {dtype} {tuple(shape)}, got {len(raw)}"
    )
  return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class Inert:
  """Keeps what a pickle says of an object: of a call its arguments, and a state."""

  state: Any = None

  def __init__(self, *args: Any) -> None:
    self.args = args


class _Array(Inert):
  """numpy's _reconstruct; the state holds the array."""


class _FromBuffer(Inert):
  """numpy's _frombuffer(buffer, dtype, shape, order)."""


class _Scalar(Inert):
  """numpy's scalar(dtype, bytes)."""


class _Dtype(Inert):
  """numpy's dtype(code, align, copy), with the byte order in its state."""


class _Encoded(Inert):
  """Bytes as Python 3 writes them for Python 2: _codecs.encode(text, "latin1")."""


class _Chumpy(Inert):
  """A chumpy object: an array, or one made from another by moving its entries."""


class _Select(_Chumpy):
  pass


class _Transpose(_Chumpy):
  pass


class _Reshape(_Chumpy):
  pass


class _ColumnMajor(Inert):
  """SciPy's csc."""


class _RowMajor(Inert):
  """SciPy's csr."""


class _Coordinates(Inert):
  """SciPy's coo."""


def _kinds() -> dict[tuple[str, str], type[Inert]]:
  """Every name that a pickle may use: module and name, exactly."""
  kinds: dict[tuple[str, str], type[Inert]] = {
    ("numpy", "ndarray"): Inert,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encoded,
    ("collections", "OrderedDict"): Inert,  # becomes a dictionary
    ("copy_reg", "_reconstructor"): Inert,  # becomes what it makes
    ("copyreg", "_reconstructor"): Inert,
    ("__main__", "MyMesh"): Inert,  # the finest mesh of mesh_downsampling.npz
    ("psbody.mesh.mesh", "Mesh"): Inert,  # and its coarser ones
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _Select,
    ("chumpy.reordering", "transpose"): _Transpose,
    ("chumpy.reordering", "Reshape"): _Reshape,
    ("chumpy.reordering", "reshape"): _Reshape,
  }
  for module in ("numpy.core", "numpy._core"):
    kinds[f"{module}.multiarray", "_reconstruct"] = _Array
    kinds[f"{module}.multiarray", "scalar"] = _Scalar
    kinds[f"{module}.numeric", "_frombuffer"] = _FromBuffer
  for module in ("__builtin__", "builtins"):
    kinds[module, "bytes"] = _Encoded
    kinds |= {(module, name): Inert for name in ("object", "set", "frozenset")}
  formats = {"csc": _ColumnMajor, "csr": _RowMajor, "coo": _Coordinates}
  for name, kind in formats.items():
    for module in (f"scipy.sparse.{name}", f"scipy.sparse._{name}"):
      kinds |= {(module, f"{name}_{end}"): kind for end in ("matrix", "array")}
  return kinds


KINDS = _kinds()


def _array(value: Any, depth: int) -> np.ndarray:
  match value:
    case np.ndarray() | bool() | int() | float() | str():
      return np.asarray(value)
    case _Scalar():
      code, raw = value.args
      return filled(_bytes(raw), _dtype(code), (), False)
    case _Array() | _FromBuffer():
      dtype, shape, raw, fortran = _raw_array(value)
      return filled(_bytes(raw), _dtype(dtype), shape, fortran)
    case _Chumpy() if depth > 0:
      return _chumpy(value, depth - 1)
  raise ValueError(f"expected an array, got {_name(value)}")


def _content(value: Any) -> Any:
  """The one object in an object array without axes, as NumPy's savez wraps it."""
  if isinstance(value, _Array) and tuple(value.state[-4]) == ():
    content = value.state[-1]
    if isinstance(content, list) and len(content) == 1:
      return content[0]
  return value


def _raw_array(value: _Array | _FromBuffer) -> tuple[Any, tuple[int, ...], Any, bool]:
  """Type, shape, content and whether the first axis is the fastest."""
  if isinstance(value, _FromBuffer):
    raw, dtype, shape, order = value.args[:4]
    return dtype, tuple(shape), raw, order == "F"
  shape, dtype, fortran, raw = value.state[-4:]
  return dtype, tuple(shape), raw, bool(fortran)


def _dtype(value: Any) -> np.dtype:
  code = value.args[0] if isinstance(value, _Dtype) else None
  if not isinstance(code, str) or not _DTYPE.fullmatch(code) or code[0] == "O":
    raise ValueError(f"expected a type of numbers, got {code!r}")
  order, *structure = value.state[1:5] if value.state else ("=",)
  if any(part is not None for part in structure) or order not in "<>=|":
    raise ValueError("expected a type of numbers, got a structure")
  return np.dtype(order + code)


def _bytes(raw: Any) -> bytes:
  """Bytes however they were written; Python 2's come as Latin-1 text."""
  if isinstance(raw, _Encoded):
    raw = raw.args[0] if raw.args else ""
  if isinstance(raw, str):
    return raw.encode("latin1")
  if isinstance(raw, bytes | bytearray):
    return bytes(raw)
  raise ValueError(f"expected an array of numbers, got one of {_name(raw)}")


def _chumpy(value: _Chumpy, depth: int) -> np.ndarray:
  """What chumpy computes: every one of these only moves entries."""
  state = value.state
  if type(value) is _Chumpy:
    return _array(state["x"], depth)
  inner = _array(state["a"], depth)
  if inner.dtype.kind not in "biuf":
    raise ValueError("expected a chumpy object of numbers, got text")
  if isinstance(value, _Transpose):
    return np.transpose(inner, state.get("axes"))
  if isinstance(value, _Reshape):
    return inner.reshape(state["newshape"])
  chosen = inner.ravel()[_array(state["idxs"], depth)]
  shape = state.get("preferred_shape")
  return chosen if shape is None else chosen.reshape(shape)


def _sparse(value: Any) -> Sparse:
  if not isinstance(value, _ColumnMajor | _RowMajor | _Coordinates):
    dense = _array(value, MAX_DEPTH)
    if dense.ndim != 2 or dense.dtype.kind not in "biuf":
      raise ValueError(f"expected a matrix, got {dense.dtype} {dense.shape}")
    rows, columns = np.nonzero(dense)
    return Sparse(dense.shape, rows, columns, dense[rows, columns].astype(np.float64))
  state = value.state
  shape = tuple(int(n) for n in state["_shape" if "_shape" in state else "shape"])
  values = _array(state["data"], 0).astype(np.float64)
  rows, columns = _places(value, shape)
  if len(shape) != 2 or not rows.shape == columns.shape == values.shape:
    raise ValueError(f"expected a matrix, got parts that do not fit, shape {shape}")
  for index, size in zip((rows, columns), shape, strict=True):
    if len(index) and not 0 <= index.min() <= index.max() < size:
      raise ValueError(f"expected indices in 0..{size - 1}, got {index.max()}")
  return Sparse(shape, rows, columns, values)


def _places(value: Inert, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Row and column of every entry of a SciPy matrix."""
  state = value.state
  if isinstance(value, _Coordinates):
    pair = state.get("coords") or (state["row"], state["col"])
    rows, columns = (_array(part, 0).astype(np.int64) for part in pair)
    return rows, columns
  starts = _array(state["indptr"], 0).astype(np.int64)
  inner = _array(state["indices"], 0).astype(np.int64)
  lines = shape[1] if isinstance(value, _ColumnMajor) else shape[0]
  lengths = np.diff(starts)
  whole = len(starts) == lines + 1 and starts[0] == 0 and starts[-1] == len(inner)
  if not whole or (lengths < 0).any():
    raise ValueError(f"expected {lines + 1} rising starts of lines, got others")
  outer = np.repeat(np.arange(lines), lengths)
  return (inner, outer) if isinstance(value, _ColumnMajor) else (outer, inner)


def _name(value: Any) -> str:
  return type(value).__name__.lstrip("_")
