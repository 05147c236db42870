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

from metro_jax.body.inert import KINDS, OrderedDict, array, filled, items, reading

MAX_BYTES = 2**30  # of a file, unpacked; the largest SMPL file has a quarter of it
MAX_OPCODES = 20_000  # SMPL's files have some hundreds; also bounds nesting
_OPCODES_PER_TEXT = 16  # of a list: two, or some more if each is NumPy's scalar
_DEFLATE_RATIO = 1032  # no deflated stream unpacks to more

_REFUSED_OPCODES = {
  *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
  *("NEXT_BUFFER", "READONLY_BUFFER"),
}
# Opcodes whose argument is a place in the memo, never above the count of opcodes.
_PLACES = ("PUT", "BINPUT", "LONG_BINPUT")


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
    check_members([members[name] for name in wanted])
    for name in wanted:
      found[name] = _parse_npy(file.read(members[name]), f"{path}: {name}")
  return found


def read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Shape, whether the first axis is the fastest, and type, of a `.npy` file.

  Args:
    stream: At the file's start; left behind the header.

  Raises:
    ValueError: If it is no such file, or of a format that NumPy does not write.
  """
  version = np.lib.format.read_magic(stream)
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f"expected .npy format 1.0 or 2.0, got {version}")
  if version == (1, 0):
    return np.lib.format.read_array_header_1_0(stream)
  return np.lib.format.read_array_header_2_0(stream)


def parse_texts(data: bytes, where: str) -> list[str]:
  """The texts of a `.npy` file with one axis, of a fixed length or pickled objects.

  Args:
    data: The file's bytes.
    where: File and name, for the error.

  Raises:
    ValueError: If they are no texts, or not as many as claimed.
  """
  with reading(where):
    stream = io.BytesIO(data)
    shape, fortran, dtype = read_header(stream)
    rest = data[stream.tell() :]
    if len(shape) != 1 or shape[0] > len(rest):
      raise ValueError(f"expected texts along one axis, got {dtype} {shape}")
    if not dtype.hasobject:
      return [_text(value) for value in filled(rest, dtype, shape, fortran).tolist()]
    most = MAX_OPCODES + _OPCODES_PER_TEXT * shape[0]
    found = items(_unpickle(rest, where, most), where)
    if len(found) != shape[0]:
      raise ValueError(f"expected {shape[0]} texts, got {len(found)}")
    return [_text(value, where) for value in found]


def _text(value: Any, where: str = "") -> str:
  if not isinstance(value, str | bytes):
    value = array(value, where).item()
  if not isinstance(value, str | bytes):
    raise ValueError(f"expected texts, got {type(value).__name__}")
  # Names of files are of any bytes; where one is no text, only its row is bad.
  return value if isinstance(value, str) else value.decode(errors="surrogateescape")


def _check_size(path: pathlib.Path) -> None:
  size = path.stat().st_size
  if size > MAX_BYTES:
    raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")


def check_members(
  members: Sequence[zipfile.ZipInfo], most_bytes: int = MAX_BYTES
) -> None:
  """Refuses members of an archive that unpack to more than they can hold.

  Args:
    members: Those that are to be read.
    most_bytes: How large they may be together, unpacked.

  Raises:
    ValueError: If they claim more, or more than a deflated stream of theirs holds.
  """
  total = sum(member.file_size for member in members)
  if total > most_bytes:
    raise ValueError(f"expected at most {most_bytes} unpacked bytes, got {total}")
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
    shape, fortran, dtype = read_header(stream)
    rest = data[stream.tell() :]
    if dtype.hasobject:
      return _unpickle(rest, where)
    return filled(rest, dtype, shape, fortran)


def _unpickle(data: bytes, where: str, most: int = MAX_OPCODES) -> Any:
  with reading(where):
    _check_opcodes(data, most)
    return _Unpickler(io.BytesIO(data), encoding="latin1").load()


def _check_opcodes(data: bytes, limit: int) -> None:
  """Walks the pickle without running it: whole, short, and no outsized claims.

  The C unpickler allocates for lengths and memo places before it reads; here every
  argument is cut from the bytes that exist.
  """
  largest = {**dict.fromkeys(_PLACES, limit), "FRAME": MAX_BYTES}
  try:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
      if count >= limit:
        raise pickle.UnpicklingError(f"a pickle of more than {limit} opcodes")
      most = largest.get(opcode.name)
      outsized = most is not None and int(argument or 0) > min(most, len(data))
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
