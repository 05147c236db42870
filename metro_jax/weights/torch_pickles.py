"""The pickles inside PyTorch's files, read without running anything that they name.

A pickle is a program for a stack machine whose instructions can import and call. This
is that machine without those two: it knows the instructions that tensors need, and
the few names that they use only ever become data. No memory is taken beyond a small
multiple of the pickle's own bytes.

Source: Python's pickletools, which documents every instruction; PyTorch's
  torch/serialization.py and torch/_utils.py.
"""

import io
import pickletools
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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
_PARAMETER = "torch._utils._rebuild_parameter"
_DICT = "collections.OrderedDict"
# What training checkpoints hold beside their tensors; kept as nothing at all.
_UNREAD = (
  "torch.Size",
  "torch.device",
  "argparse.Namespace",
  "_codecs.encode",
  "numpy.dtype",
  "numpy.core.multiarray.scalar",
  "numpy._core.multiarray.scalar",
)
_NAMES = {*_TENSORS, _PARAMETER, _DICT, *_UNREAD} | {f"torch.{n}" for n in STORAGES}

_LITERALS = {
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
  *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "STRING", "BINSTRING"),
  *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MADE = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
  """A pickle that wants more than tensors."""


class Storage(NamedTuple):
  """Numbers that lie elsewhere in the file."""

  key: str
  dtype: np.dtype
  count: int

  @property
  def nbytes(self) -> int:
    return self.count * self.dtype.itemsize


class Tensor(NamedTuple):
  """A view of a storage; offset and strides count elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class Pickle(NamedTuple):
  """What a pickle holds.

  Attributes:
    content: Of dicts, lists, tuples, plain values and `Tensor`s.
    storages: All that it mentions, by key.
    length: Its own, in bytes.
  """

  content: Any
  storages: dict[str, Storage]
  length: int


class _Name(NamedTuple):
  text: str


class _Unread(NamedTuple):
  """Stands for an object that nobody asks for."""


def load(data: bytes) -> Pickle:
  """Reads the pickle at the start of some bytes.

  Args:
    data: Perhaps longer than the pickle; of it `MAX_BYTES` are looked at.

  Raises:
    RefusedError: If it uses a name or an instruction that tensors do not need.
    ValueError: If it is damaged; IndexError, KeyError and TypeError then, too.
  """
  machine = _Machine()
  stream = io.BytesIO(data[:MAX_BYTES])
  for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
    if count >= MAX_OPCODES:
      raise RefusedError(f"a pickle of more than {MAX_OPCODES} instructions")
    machine.run(opcode.name, argument)
  return Pickle(machine.stack.pop(), machine.storages, stream.tell())


class _Machine:
  """The stack, the marks on it, the memo, and the storages that were mentioned."""

  def __init__(self):
    self.stack: list[Any] = []
    self.marks: list[int] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}

  def run(self, name: str, argument: Any) -> None:
    """One instruction."""
    stack = self.stack
    if name in _LITERALS:
      stack.append(argument)
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _MADE:
      stack.append(_MADE[name]())
    elif name in _TUPLES:
      first = len(stack) - _TUPLES[name]
      stack[first:] = [tuple(stack[first:])]
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
      self.memo[int(argument)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
      stack.append(self.memo[int(argument)])
    else:
      self._run_rarer(name, argument)

  def _run_rarer(self, name: str, argument: Any) -> None:
    stack = self.stack
    match name:
      case "PROTO" | "FRAME" | "STOP":
        pass
      case "MARK":
        self.marks.append(len(stack))
      case "MEMOIZE":
        self.memo[len(self.memo)] = stack[-1]
      case "TUPLE" | "LIST":
        stack.append((tuple if name == "TUPLE" else list)(self._marked()))
      case "APPEND":
        self._extend([stack.pop()])
      case "APPENDS":
        self._extend(self._marked())
      case "SETITEM":
        self._set([stack.pop(-2), stack.pop()])
      case "SETITEMS":
        self._set(self._marked())
      case "GLOBAL":
        stack.append(_named(*argument.split(" ", 1)))
      case "STACK_GLOBAL":
        stack.append(_named(stack.pop(-2), stack.pop()))
      case "REDUCE" | "NEWOBJ":
        stack.append(_made(stack.pop(-2), stack.pop()))
      case "BUILD":  # attributes, such as a state dict's versions
        stack.pop()
      case "BINPERSID":
        self._push_storage(_storage(stack.pop()))
      case _:
        raise RefusedError(f"a pickle with the instruction {name}")

  def _push_storage(self, storage: Storage) -> None:
    if self.storages.setdefault(storage.key, storage) != storage:
      raise ValueError(f"two claims about storage {storage.key}")
    self.stack.append(storage)

  def _marked(self) -> list[Any]:
    """Takes what lies above the last mark."""
    mark = self.marks.pop()
    taken = self.stack[mark:]
    del self.stack[mark:]
    return taken

  def _extend(self, values: Iterable[Any]) -> None:
    if not isinstance(self.stack[-1], list):
      raise ValueError("a list is missing in the pickle")
    self.stack[-1].extend(values)

  def _set(self, flat: list[Any]) -> None:
    if not isinstance(self.stack[-1], dict):
      raise ValueError("a dictionary is missing in the pickle")
    self.stack[-1].update(_entries(zip(flat[::2], flat[1::2], strict=True)))


def _entries(pairs: Iterable[tuple[Any, Any]]) -> dict[str | int, Any]:
  """A dictionary; hashing other keys could take the stack, deep as they may be."""
  found = {}
  for key, value in pairs:
    if not isinstance(key, str | int):
      raise RefusedError(f"a dictionary with a key of type {type(key).__name__}")
    found[key] = value
  return found


def _named(module: str, name: str) -> _Name:
  text = f"{module}.{name}"
  if text not in _NAMES:
    raise RefusedError(f"a pickle that asks for {text}")
  return _Name(text)


def _made(called: Any, arguments: Any) -> Any:
  """What a call would give, where it is one of those that tensors need."""
  if not isinstance(called, _Name) or not isinstance(arguments, tuple):
    raise RefusedError("a pickle that calls what has no name")
  if called.text in _TENSORS:
    storage, offset, shape, strides = arguments[:4]
    return Tensor(storage, offset, shape, strides)
  if called.text == _PARAMETER:
    return arguments[0]
  if called.text in _UNREAD:
    return _Unread()
  if called.text != _DICT:
    raise RefusedError(f"a pickle that calls {called.text}")
  if not arguments:
    return {}
  found = _entries(arguments[0])  # a list of pairs: Python 2's
  arguments[0].clear()  # or a pickle could copy one long list again and again
  return found


def _storage(identity: Any) -> Storage:
  """PyTorch's identity of a storage: kind, type, key, device, length, and a view."""
  kind, of_type, key, _, count, *view = identity
  if kind not in ("storage", b"storage") or any(part is not None for part in view):
    raise RefusedError("a view of a storage, as no PyTorch since 0.4 writes")
  if not isinstance(of_type, _Name) or not of_type.text.endswith("Storage"):
    raise RefusedError("a storage without a type")
  if not isinstance(key, str) or not isinstance(count, int) or count < 0:
    raise ValueError("a storage without a length")
  return Storage(key, STORAGES[of_type.text.removeprefix("torch.")], count)
