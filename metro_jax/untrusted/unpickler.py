"""Reads pickles without running anything that they name.

A pickle is a program for a stack machine whose instructions can import and call. This
is that machine without those two: it puts together plain values, and what a name
stands for and what calling it gives is a table's, a reader's own. No memory is taken
beyond a small multiple of the pickle's own bytes: every argument is cut from the bytes
that exist, and nothing that nests is hashed.

Source: Python's pickletools, which documents every instruction.
"""

import io
import pickletools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

MAX_NAME = 200  # characters of a module or class; a pickle could join long ones often

_LITERALS = {
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
  *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
  *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
  *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MADE: dict[str, Callable[[], Any]] = {
  "EMPTY_TUPLE": tuple,
  "EMPTY_LIST": list,
  "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
  """A pickle that asks for more than it may."""


class Name(NamedTuple):
  """A class or function that a pickle names; nothing is looked up."""

  module: str
  name: str

  def __str__(self) -> str:
    return f"{self.module}.{self.name}"


class Unread(NamedTuple):
  """Stands for an object that nobody asks for, by the name that the pickle gives it."""

  name: str


class Unpickler:
  """Reads plain values; readers of more say what names, calls and attributes give.

  Args:
    max_opcodes: Of the pickle; also bounds how deep it nests.

  Attributes:
    content: What the pickle holds.
    length: Its own, in bytes.
  """

  def __init__(self, max_opcodes: int) -> None:
    self.content: Any = None
    self.length = 0
    self._max_opcodes = max_opcodes
    self._stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}

  def find(self, name: Name) -> Name:
    """Returns a name that a pickle asks for, or refuses it."""
    return name

  def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
    """Returns what a call stands for, without calling anything, or refuses it."""
    raise RefusedError(f"a pickle that calls {name}")

  def build(self, target: Any, state: Any) -> None:
    """Keeps an object's attributes, if the reader has a use for them."""

  def persistent_load(self, identity: Any) -> Any:
    """Returns what lies outside the pickle under an identity, or refuses it."""
    raise RefusedError(f"a pickle of more than itself: {type(identity).__name__}")

  def load(self, data: bytes) -> Any:
    """Reads the pickle at the start of some bytes, and returns what it holds.

    Raises:
      RefusedError: If it asks for what the reader refuses.
      ValueError: If it is damaged; any other exception then, too.
    """
    stream = io.BytesIO(data)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
      if count >= self._max_opcodes:
        raise RefusedError(f"a pickle of more than {self._max_opcodes} instructions")
      self._run(opcode.name, argument)
    self.content, self.length = self._stack.pop(), stream.tell()
    return self.content

  def _run(self, opcode: str, argument: Any) -> None:
    stack = self._stack
    if opcode in _LITERALS:
      stack.append(argument)
    elif opcode in _CONSTANTS:
      stack.append(_CONSTANTS[opcode])
    elif opcode in _MADE:
      stack.append(_MADE[opcode]())
    elif opcode in _TUPLES:
      first = len(stack) - _TUPLES[opcode]
      stack[first:] = [tuple(stack[first:])]
    elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
      self._memo[int(argument)] = stack[-1]
    elif opcode in ("GET", "BINGET", "LONG_BINGET"):
      stack.append(self._memo[int(argument)])
    else:
      self._run_rarer(opcode, argument)

  def _run_rarer(self, opcode: str, argument: Any) -> None:
    stack = self._stack
    match opcode:
      case "PROTO" | "FRAME" | "STOP":
        pass
      case "MARK":
        self._marks.append(len(stack))
      case "MEMOIZE":
        self._memo[len(self._memo)] = stack[-1]
      case "TUPLE" | "LIST":
        stack.append((tuple if opcode == "TUPLE" else list)(self._marked()))
      case "APPEND":
        self._extend([stack.pop()])
      case "APPENDS" | "ADDITEMS":
        self._extend(self._marked())
      case "DICT":
        flat = self._marked()
        stack.append({})
        self._set(flat)
      case "SETITEM":
        self._set([stack.pop(-2), stack.pop()])
      case "SETITEMS":
        self._set(self._marked())
      case "GLOBAL":
        stack.append(self._named(*argument.split(" ", 1)))
      case "STACK_GLOBAL":
        stack.append(self._named(stack.pop(-2), stack.pop()))
      case "REDUCE" | "NEWOBJ":
        stack.append(self._called(stack.pop(-2), stack.pop()))
      case "NEWOBJ_EX":
        stack.pop()
        stack.append(self._called(stack.pop(-2), stack.pop()))
      case "OBJ":
        called, *arguments = self._marked()
        stack.append(self._called(called, tuple(arguments)))
      case "EMPTY_SET":
        stack.append(Unread("builtins.set"))
      case "FROZENSET":
        self._marked()
        stack.append(Unread("builtins.frozenset"))
      case "BUILD":
        state = stack.pop()
        self.build(stack[-1], state)
      case "DUP":
        stack.append(stack[-1])
      case "POP" if self._marks and self._marks[-1] == len(stack):
        self._marks.pop()
      case "POP":
        stack.pop()
      case "POP_MARK":
        self._marked()
      case "BINPERSID":
        stack.append(self.persistent_load(stack.pop()))
      case _:
        raise RefusedError(f"a pickle with the instruction {opcode}")

  def _named(self, module: Any, name: Any) -> Name:
    for part in (module, name):
      if not isinstance(part, str) or len(part) > MAX_NAME:
        raise RefusedError("a pickle that asks for what cannot be a name")
    return self.find(Name(module, name))

  def _called(self, called: Any, arguments: Any) -> Any:
    if isinstance(called, Unread):
      return called
    if not isinstance(called, Name) or type(arguments) is not tuple:
      raise RefusedError("a pickle that calls what has no name")
    return self.call(called, arguments)

  def _marked(self) -> list[Any]:
    """Takes what lies above the last mark."""
    mark = self._marks.pop()
    taken = self._stack[mark:]
    del self._stack[mark:]
    return taken

  def _extend(self, values: Iterable[Any]) -> None:
    target = self._stack[-1]
    if isinstance(target, list):
      target.extend(values)
    elif not isinstance(target, Unread):
      raise ValueError("a list is missing in the pickle")

  def _set(self, flat: list[Any]) -> None:
    target = self._stack[-1]
    if isinstance(target, dict):
      target.update(_entries(zip(flat[::2], flat[1::2], strict=True)))
    elif not isinstance(target, Unread):
      raise ValueError("a dictionary is missing in the pickle")


def dictionary(arguments: tuple[Any, ...]) -> dict[str | int, Any]:
  """Returns what OrderedDict makes of Python 2's list of pairs, or of nothing.

  The list is emptied: a pickle could otherwise copy a long one again and again.
  """
  if not arguments:
    return {}
  found = _entries(arguments[0])
  arguments[0].clear()
  return found


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
