"""Pickles of arrays, read without running anything that they name.

SMPL's and MANO's files are pickles, some with chumpy's and SciPy's objects inside,
and mesh samplings are `.npz` files of pickled objects. All of them are untrusted: a
name in a pickle is looked up in one table of inert classes that keep what the file
says; whatever stands elsewhere is refused by name. Sizes that a file claims are
compared with the bytes it has before anything is allocated for them.
"""

import io
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from metro_jax.body.inert import KINDS, OrderedDict, array, filled, reading

MAX_BYTES = 2**30  # of a file, unpacked; the largest SMPL file has a quarter of it
MAX_OPCODES = 20_000  # SMPL's files have some hundreds; also bounds nesting
_DEFLATE_RATIO = 1032  # no deflated stream unpacks to more

_REFUSED_OPCODES = {
  *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
  *("NEXT_BUFFER", "READONLY_BUFFER"),
}
# Arguments that are sizes or places, and never more than the pickle's length.
_LARGEST = {
  **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), MAX_OPCODES),
  "FRAME": MAX_BYTES,
}


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads a pickled dictionary, Python 2's included.

  Args:
    path: The file.

  Returns:
    Its entries as inert values, which `array` and `sparse` turn into numbers.

  Raises:
    ValueError: If the file is not a pickle of arrays, naming what was refused.
  """
  path = pathlib.Path(path)
  _check_size(path)
  found = _unpickle(path.read_bytes(), str(path))
  if isinstance(found, OrderedDict):
    with reading(str(path)):
      found = found.entries()
  if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
    raise ValueError(f"{path}: expected a pickled dictionary of arrays, got another")
  return found


def load_npy(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads an array of numbers from a `.npy` file.

  Raises:
    ValueError: If it is none, or not as long as it claims.
  """
  path = pathlib.Path(path)
  _check_size(path)
  return array(_parse_npy(path.read_bytes(), str(path)), str(path))


def load_npz(
  path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> dict[str, Any]:
  """Reads arrays of a `.npz` file, pickled objects among them.

  Args:
    path: The file.
    names: Which to read, those that the file has; None reads all.

  Returns:
    Arrays of numbers, and inert values for arrays of objects.

  Raises:
    ValueError: If the file is damaged, claims more than it has, or names what is
      refused.
  """
  path = pathlib.Path(path)
  _check_size(path)
  found = {}
  with reading(str(path)), zipfile.ZipFile(path) as file:
    members = {i.filename.removesuffix(".npy"): i for i in file.infolist()}
    wanted = [name for name in members if names is None or name in names]
    _check_members([members[name] for name in wanted])
    for name in wanted:
      found[name] = _parse_npy(file.read(members[name]), f"{path}: {name}")
  return found


def _check_size(path: pathlib.Path) -> None:
  size = path.stat().st_size
  if size > MAX_BYTES:
    raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
  """Refuses archives that unpack to more than they can hold."""
  total = sum(member.file_size for member in members)
  if total > MAX_BYTES:
    raise ValueError(f"expected at most {MAX_BYTES} unpacked bytes, got {total}")
  for member in members:
    if member.file_size > _DEFLATE_RATIO * (member.compress_size + 1):
      raise ValueError(
        f"{member.filename}: {member.compress_size} bytes cannot hold the "
        f"{member.file_size} that they claim"
      )


def _parse_npy(data: bytes, where: str) -> Any:
  """An array of numbers, or what the pickle behind an object array holds."""
  with reading(where):
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
      raise ValueError(f"expected .npy format 1.0 or 2.0, got {version}")
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else _read_header_2
    shape, fortran, dtype = read(stream)
    rest = data[stream.tell() :]
    if dtype.hasobject:
      return _unpickle(rest, where)
    return filled(rest, dtype, shape, fortran)


def _read_header_2(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
  return np.lib.format.read_array_header_2_0(stream)


def _unpickle(data: bytes, where: str) -> Any:
  with reading(where):
    _check_opcodes(data)
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


def _check_opcodes(data: bytes) -> None:
  """Walks the pickle without running it: whole, short, and no outsized claims.

  The C unpickler allocates for lengths and memo places before it reads; here every
  argument is cut from the bytes that exist.
  """
  try:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
      if count >= MAX_OPCODES:
        raise pickle.UnpicklingError(f"a pickle of more than {MAX_OPCODES} opcodes")
      most = _LARGEST.get(opcode.name)
      outsized = most is not None and int(argument) > min(most, len(data))
      if outsized or opcode.name in _REFUSED_OPCODES:
        raise pickle.UnpicklingError(f"opcode {opcode.name} {argument}")
  except pickle.UnpicklingError as error:
    raise ValueError(f"expected a pickle of arrays, got {error}") from error
  except Exception as error:  # pickletools lets errors of its decoders through
    raise ValueError(f"expected a whole pickle, got {error}") from error


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> type:
    kind = KINDS.get((module, name))
    if kind is None:
      raise pickle.UnpicklingError(f"refused {module}.{name}: only arrays are read")
    return kind
