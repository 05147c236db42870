"""PyTorch's files without PyTorch: state dicts in both serialisations.

Since version 1.6 a file is a zip of one pickle and a member a storage. Before, it was
five pickles (a magic number, a version, facts on the machine, the object, the keys of
the storages) and then the storages in the order of their keys.

What a file claims of its size is compared with what it has before memory is taken.

Source: PyTorch, torch/serialization.py.
"""

import collections
import contextlib
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from metro_jax.text_files import one_line
from metro_jax.untrusted.unpickler import RefusedError, Unread
from metro_jax.weights import torch_pickles
from metro_jax.weights.state_dicts import MAX_PATH, Contents
from metro_jax.weights.torch_pickles import Storage, Tensor

MAX_CLAIM = 4  # times a file's size, by tensors that share storages
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


class _Opened(NamedTuple):
  """A file's object, and how to have the numbers of a storage."""

  content: Any
  fetch: Callable[[Storage], np.ndarray]


class TorchFile:
  """What a PyTorch file holds; its numbers are read when they are asked for.

  Attributes:
    contents: Its tensors by their paths, and what else stands there.
  """

  def __init__(self, path: pathlib.Path):
    """Reads the file's object, without any numbers.

    Raises:
      ValueError: If the file is damaged, of another kind, or holds no tensors.
      OSError: If it cannot be read.
    """
    self._path = path
    with path.open("rb") as file, _refusing(path):
      found = _open(file).content
      self._tensors, self.contents = _walk(found)
      if not self._tensors and not (isinstance(found, dict) and not found):
        _refuse_without_tensors(found)

  def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the arrays of some tensors, perhaps read-only and not contiguous.

    Raises:
      ValueError: If the file is damaged or claims more than it has.
      OSError: If it cannot be read.
    """
    tensors = {key: self._tensors[key] for key in keys}
    with self._path.open("rb") as file, _refusing(self._path):
      _check_claims(tensors, _size(file))
      return _arrays(tensors, _open(file).fetch)


def _open(file: BinaryIO) -> _Opened:
  start = file.read(4)
  file.seek(0)
  if start == _ZIP:
    return _open_zip(file)
  if start[:1] == _PICKLE:
    return _open_legacy(file)
  raise RefusedError(f"expected a PyTorch file, got one starting with {start!r}")


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
  """Turns whatever a file is refused for into one line that names the file."""
  try:
    yield
  except MemoryError:
    raise
  except RefusedError as error:
    text = str(error)
    if not text.startswith("expected"):
      text = f"expected plain tensors, got {text}"
    raise ValueError(f"{path}: {text}") from None
  except Exception as error:  # zip, pickle, struct and NumPy share no base
    said = one_line(f"{type(error).__name__}: {error}")
    raise ValueError(f"{path}: expected a whole PyTorch file, got {said}") from error


def _open_zip(file: BinaryIO) -> _Opened:
  archive, size = zipfile.ZipFile(file), _size(file)

  def member(name: str) -> bytes:
    info = archive.getinfo(name)
    stored = info.compress_type == zipfile.ZIP_STORED
    if not stored or info.header_offset + info.file_size > size:
      raise ValueError(f"{name} that claims {info.file_size:,} bytes of {size:,}")
    return archive.read(info)

  roots = [
    name.removesuffix("data.pkl")
    for name in archive.namelist()
    if name.endswith("/data.pkl") and name.count("/") == 1
  ]
  if len(roots) != 1:
    raise RefusedError("expected a PyTorch file, got a zip without one data.pkl")
  order = f"{roots[0]}byteorder"
  if order in archive.namelist() and member(order) != b"little":
    raise RefusedError("expected little-endian numbers, got others")

  def fetch(storage: Storage) -> np.ndarray:
    raw = member(f"{roots[0]}data/{storage.key}")
    _expect_length(storage, len(raw))
    return np.frombuffer(raw, storage.dtype)

  found = torch_pickles.load(member(f"{roots[0]}data.pkl"))
  return _Opened(found.content, fetch)


def _open_legacy(file: BinaryIO) -> _Opened:
  contents, start = [], 0
  for _ in range(5):
    file.seek(start)
    found = torch_pickles.load(file.read(torch_pickles.MAX_BYTES))
    contents.append(found)
    start += found.length
    if contents[0].content != _MAGIC:
      raise RefusedError("expected a PyTorch file, got a pickle of something else")
  _, version, machine, pickled, keys = contents
  if version.content != _VERSION or machine.content.get("little_endian") is not True:
    raise RefusedError(f"expected version {_VERSION}, little-endian; got another")
  places = _places(file, start, keys.content, pickled.storages)

  def fetch(storage: Storage) -> np.ndarray:
    file.seek(places[storage])
    return np.fromfile(file, storage.dtype, storage.size)

  return _Opened(pickled.content, fetch)


def _places(
  file: BinaryIO, start: int, keys: Sequence[str], storages: Mapping[str, Storage]
) -> dict[Storage, int]:
  """Where each storage's numbers begin; its length stands before them."""
  size, places = _size(file), {}
  for key in keys:
    storage = storages.get(key)
    if storage is None:  # how long it is cannot be known
      raise RefusedError(f"expected numbers of a known type in storage {key}")
    file.seek(start)
    (count,) = struct.unpack("<q", file.read(8))
    if count != storage.size:
      raise ValueError(f"{count:,} values for the {storage.size:,} of storage {key}")
    places[storage] = start + 8
    start += 8 + storage.nbytes
    if start > size:
      raise ValueError(f"{size:,} bytes, of which storage {key} claims {start:,}")
  return places


def _walk(content: Any) -> tuple[dict[str, Tensor], Contents]:
  """Every tensor inside dictionaries and lists, by its path.

  What stands in several places is found once, and so is what holds itself.
  """
  tensors: dict[str, Tensor] = {}
  folders: dict[str, str] = {}
  unread: dict[str, str] = {}
  waiting, seen = collections.deque([("", content)]), {id(content)}
  while waiting:
    folder, container = waiting.popleft()
    for key, value in _inside(container):
      path = f"{folder}{key}"
      if len(path) > MAX_PATH:
        continue
      if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        waiting.append((f"{path}.", value))
      elif isinstance(value, Unread):
        unread[path] = value.name
      elif isinstance(value, Tensor):
        if path in tensors:
          raise RefusedError(f"expected one tensor at {path}, got several")
        tensors[path], folders[path] = value, folder
  shapes = {path: tuple(tensor.shape) for path, tensor in tensors.items()}
  return tensors, Contents(shapes, folders, unread)


def _inside(container: Any) -> Iterable[tuple[Any, Any]]:
  if isinstance(container, dict):
    return container.items()
  return enumerate(container) if isinstance(container, list) else ()


def _refuse_without_tensors(content: Any) -> NoReturn:
  """Says what there is in place of tensors.

  Raises:
    RefusedError: Always.
  """
  key, value = None, content
  if isinstance(content, dict) and content:
    key, value = next(iter(content.items()))
  if isinstance(value, Unread):
    alone = "" if key is not None else "; save its state_dict() alone"
    raise RefusedError(f"a pickle that asks for {value.name}{alone}")
  kind = type(value).__name__.lstrip("_")
  if key is None:
    raise RefusedError(f"expected a state dict, got a {kind}")
  raise RefusedError(f"expected a dense tensor at {key}, got a {kind}")


def _check_claims(tensors: Mapping[str, Tensor], size: int) -> None:
  """Refuses tensors larger than their storages, and storages shared many times."""
  total = 0
  for key, (storage, offset, shape, strides) in tensors.items():
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)):
      raise ValueError(f"a tensor of unnatural shape at {key}")
    count = math.prod(shape)
    if count > storage.size:
      raise RefusedError(f"expected {count:,} values at {key}, got {storage.size:,}")
    total += count * storage.dtype.itemsize
  stored = sum(storage.nbytes for storage in {t.storage for t in tensors.values()})
  if stored > size or total > MAX_CLAIM * size:
    raise RefusedError(f"claims of {max(stored, total):,} bytes in a file of {size:,}")


def _arrays(
  tensors: Mapping[str, Tensor], fetch: Callable[[Storage], np.ndarray]
) -> dict[str, np.ndarray]:
  fetched: dict[Storage, np.ndarray] = {}
  arrays = {}
  for key, tensor in tensors.items():
    storage = tensor.storage
    if storage not in fetched:
      fetched[storage] = fetch(storage)
    width = storage.dtype.itemsize
    arrays[key] = np.ndarray(  # raises where strides leave the buffer
      tensor.shape,
      storage.dtype,
      fetched[storage],
      tensor.offset * width,
      [stride * width for stride in tensor.strides],
    )
  return arrays


def _expect_length(storage: Storage, got: int) -> None:
  if got != storage.nbytes:
    raise ValueError(
      f"{got:,} bytes for the {storage.nbytes:,} of storage {storage.key}"
    )


def _size(file: BinaryIO) -> int:
  """In bytes; leaves the position where it was."""
  here = file.tell()
  size = file.seek(0, 2)
  file.seek(here)
  return size


def write(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict in the older serialisation, which every PyTorch reads.

  Args:
    path: The file.
    state_dict: Arrays by key.

  Raises:
    ValueError: If PyTorch has no such type of numbers.
    OSError: If the file cannot be written.
  """
  arrays = {key: np.asarray(value, order="C") for key, value in state_dict.items()}
  names = {dtype: name for name, dtype in torch_pickles.STORAGES.items()}
  for key, value in arrays.items():
    if value.dtype not in names:
      raise ValueError(f"{path}: expected numbers at {key}, got {value.dtype}")
  machine = {"protocol_version": _VERSION, "little_endian": True, "type_sizes": {}}
  machine["type_sizes"] = {"short": 2, "int": 4, "long": 4}
  tensors = [
    _plain(key) + _tensor(str(number), names[value.dtype], value)
    for number, (key, value) in enumerate(arrays.items())
  ]
  content = b"\x80\x02" + _new_dict() + b"(" + b"".join(tensors) + b"u."
  with path.open("wb") as file:
    for plain in (_MAGIC, _VERSION, machine):
      file.write(pickle.dumps(plain, 2))
    file.write(content)
    file.write(pickle.dumps([str(number) for number in range(len(arrays))], 2))
    for value in arrays.values():
      file.write(struct.pack("<q", value.size))
      value.tofile(file)


def _tensor(key: str, storage: str, value: np.ndarray) -> bytes:
  """A call of _rebuild_tensor_v2(storage, offset, shape, strides, gradient, hooks)."""
  strides = [math.prod(value.shape[axis + 1 :]) for axis in range(value.ndim)]
  identity = (
    b"("
    + _plain("storage")
    + _global("torch", storage)
    + b"".join(_plain(part) for part in (key, "cpu", value.size, None))
    + b"tQ"
  )
  arguments = (_plain(part) for part in (0, value.shape, tuple(strides), False))
  return (
    _global("torch._utils", "_rebuild_tensor_v2")
    + b"("
    + identity
    + b"".join(arguments)
    + _new_dict()
    + b"tR"
  )


def _new_dict() -> bytes:
  return _global("collections", "OrderedDict") + b")R"


def _global(module: str, name: str) -> bytes:
  return f"c{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
  """Instructions that push a plain value, without remembering it."""
  if isinstance(value, str):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw
  if isinstance(value, tuple):
    return b"(" + b"".join(_plain(part) for part in value) + b"t"
  return pickle.dumps(value, 2)[2:-1]
