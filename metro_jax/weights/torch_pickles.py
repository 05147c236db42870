"""The pickles inside PyTorch's files: tensors, and where their numbers lie.

The few names that tensors use become data, and every other object stays unread: it
becomes a placeholder that knows the name that the pickle asked for, and keeps nothing.

Source: PyTorch's torch/serialization.py and torch/_utils.py.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from metro_jax.untrusted.unpickler import (
  Name,
  RefusedError,
  Unpickler,
  Unread,
  dictionary,
)

MAX_BYTES = 32 * 2**20  # the largest METRO has a hundredth of it
MAX_OPCODES = 10**6  # METRO with an HRNet needs a tenth

STORAGES = {
  "FloatStorage": np.dtype("<f4"),
  "DoubleStorage": np.dtype("<f8"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("i1"),
  "ByteStorage": np.dtype("u1"),
  "BoolStorage": np.dtype("?"),
}
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = (
  "torch._utils._rebuild_parameter",
  "torch._utils._rebuild_parameter_with_state",
)
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_DICT, _DEFAULT_DICT = "collections.OrderedDict", "collections.defaultdict"


class Storage(NamedTuple):
  """Numbers that lie elsewhere in the file."""

  key: str
  dtype: np.dtype
  size: int

  @property
  def nbytes(self) -> int:
    """Returns how many bytes the numbers take."""
    return self.size * self.dtype.itemsize


class Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class TensorUnpickler(Unpickler):
  """Reads dicts, lists, tuples, plain values, `Tensor`s and `Unread`s.

  Attributes:
    storages: All that the pickle mentions, by key.
  """

  def __init__(self) -> None:
    super().__init__(MAX_OPCODES)
    self.storages: dict[str, Storage] = {}

  def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
    """Returns what a call gives if it is one that tensors need, else nothing."""
    if str(name) == _WITH_ATTRIBUTES and isinstance(arguments[0], Name):
      name, arguments = arguments[0], arguments[2]
    called = str(name)
    if called in _TENSORS:
      return _tensor(*arguments[:4])
    if called in _PARAMETERS:
      return arguments[0]
    if called.removeprefix("torch.") in STORAGES:
      raise RefusedError(f"a pickle that calls {called}")
    if called == _DICT:
      return dictionary(arguments)
    return {} if called == _DEFAULT_DICT else Unread(called)

  def persistent_load(self, identity: Any) -> Storage | Unread:
    """Returns a storage by PyTorch's identity of it."""
    storage = _storage(identity)
    if isinstance(storage, Unread):
      return storage
    if self.storages.setdefault(storage.key, storage) != storage:
      raise ValueError(f"two claims about storage {storage.key}")
    return storage


def load(data: bytes) -> TensorUnpickler:
  """Reads the pickle at the start of some bytes, of which `MAX_BYTES` are looked at.

  Raises:
    RefusedError: If it asks for what no PyTorch writes.
    ValueError: If it is damaged; IndexError, KeyError and TypeError then, too.
  """
  reader = TensorUnpickler()
  reader.load(data[:MAX_BYTES])
  return reader


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor | Unread:
  if isinstance(storage, Unread):
    return storage
  if not isinstance(storage, Storage):
    raise ValueError("a tensor without a storage")
  return Tensor(storage, offset, shape, strides)


def _storage(identity: Any) -> Storage | Unread:
  """PyTorch's identity of a storage: kind, type, key, device, length, and a view."""
  kind, of_type, key, _, count, *view = identity
  if kind not in ("storage", b"storage") or any(part is not None for part in view):
    raise RefusedError("a view of a storage, as no PyTorch since 0.4 writes")
  if not isinstance(of_type, Name) or not of_type.name.endswith("Storage"):
    raise RefusedError("a storage without a type")
  if not isinstance(key, str) or not isinstance(count, int) or count < 0:
    raise ValueError("a storage without a length")
  dtype = STORAGES.get(str(of_type).removeprefix("torch."))
  return Unread(str(of_type)) if dtype is None else Storage(key, dtype, count)
