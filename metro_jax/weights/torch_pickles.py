"""The pickles inside PyTorch's files, read without running anything that they name.

A pickle is a program for a stack machine whose instructions can import and call. This
is that machine without those two: the few names that tensors use only ever become
data, and every other object stays unread: it becomes a placeholder that knows the
name that the pickle asked for, and keeps nothing. No memory is taken beyond a small
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
MAX_NAME = 200  # characters of a module or class; a pickle could join long ones often

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

_LITERALS = {
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
  *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
  *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MADE = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
  """A pickle that is not one of tensors beside other objects."""


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
    content: Of dicts, lists, tuples, plain values, `Tensor`s and `Unread`s.
    storages: All that it mentions, by key.
    length: Its own, in bytes.
  """

  content: Any
  storages: dict[str, Storage]
  length: int


class _Name(NamedTuple):
  text: str


class Unread(NamedTuple):
  """Stands for an object that nobody asks for, by the name that the pickle gives it."""

  name: str


def load(data: bytes) -> Pickle:
  """Reads the pickle at the start of some bytes.

  Args:
    data: Perhaps longer than the pickle; of it `MAX_BYTES` are looked at.

  Raises:
    RefusedError: If it uses an instruction that no PyTorch writes.
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
      case "APPENDS" | "ADDITEMS":
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
      case "POP":
        stack.pop()
      case "POP_MARK":
        self._marked()
      case "NEWOBJ_EX":
        stack.pop()
        stack.append(_made(stack.pop(-2), stack.pop()))
      case "EMPTY_SET":
        stack.append(Unread("builtins.set"))
      case "FROZENSET":
        self._marked()
        stack.append(Unread("builtins.frozenset"))
      case "BUILD":  # attributes, such as a state dict's versions
        stack.pop()
      case "BINPERSID":
        self._push_storage(_storage(stack.pop()))
      case _:
        raise RefusedError(f"a pickle with the instruction {name}")

  def _push_storage(self, storage: Storage | Unread) -> None:
    self.stack.append(storage)
    if isinstance(storage, Unread):
      return
    if self.storages.setdefault(storage.key, storage) != storage:
      raise ValueError(f"two claims about storage {storage.key}")

  def _marked(self) -> list[Any]:
    """Takes what lies above the last mark."""
    mark = self.marks.pop()
    taken = self.stack[mark:]
    del self.stack[mark:]
    return taken

  def _extend(self, values: Iterable[Any]) -> None:
    target = self.stack[-1]
    if isinstance(target, list):
      target.extend(values)
    elif not isinstance(target, Unread):
      raise ValueError("a list is missing in the pickle")

  def _set(self, flat: list[Any]) -> None:
    target = self.stack[-1]
    if isinstance(target, dict):
      target.update(_entries(zip(flat[::2], flat[1::2], strict=True)))
    elif not isinstance(target, Unread):
      raise ValueError("a dictionary is missing in the pickle")


def _entries(pairs: Iterable[tuple[Any, Any]]) -> dict[str | int, Any]:
  """A dictionary of what stands under texts and numbers.

  Hashing other keys could take the stack, deep as they may be: of those only the type
  is kept, and nothing of their values.
  """
  found: dict[str | int, Any] = {}
  for key, value in pairs:
    if isinstance(key, str | int):
      found[key] = value
    else:
      found[f"a key of type {type(key).__name__}"] = None
  return found


def _named(module: Any, name: Any) -> _Name:
  for part in (module, name):
    if not isinstance(part, str) or len(part) > MAX_NAME:
      raise RefusedError("a pickle that asks for what cannot be a name")
  return _Name(f"{module}.{name}")


def _made(called: Any, arguments: Any) -> Any:
  """What a call would give if it is one of those that tensors need, else nothing."""
  if isinstance(called, Unread):
    return called
  if not isinstance(called, _Name) or not isinstance(arguments, tuple):
    raise RefusedError("a pickle that calls what has no name")
  name = called.text
  if name == _WITH_ATTRIBUTES and isinstance(arguments[0], _Name):
    name, arguments = arguments[0].text, arguments[2]
  if name in _TENSORS:
    return _tensor(*arguments[:4])
  if name in _PARAMETERS:
    return arguments[0]
  if name.removeprefix("torch.") in STORAGES:
    raise RefusedError(f"a pickle that calls {name}")
  if name not in (_DICT, _DEFAULT_DICT):
    return Unread(name)
  if name == _DEFAULT_DICT or not arguments:
    return {}
  found = _entries(arguments[0])  # a list of pairs: Python 2's
  arguments[0].clear()  # or a pickle could copy one long list again and again
  return found


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
  if not isinstance(of_type, _Name) or not of_type.text.endswith("Storage"):
    raise RefusedError("a storage without a type")
  if not isinstance(key, str) or not isinstance(count, int) or count < 0:
    raise ValueError("a storage without a length")
  dtype = STORAGES.get(of_type.text.removeprefix("torch."))
  return Unread(of_type.text) if dtype is None else Storage(key, dtype, count)
