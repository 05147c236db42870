"""Pickles of arrays, such as SMPL's, MANO's and 3DPW's.

Some have chumpy's and SciPy's objects inside. A name in a pickle stands for one of a
table of inert classes that keep what the file says; any other is refused by name.
"""

import os
import pathlib
from typing import Any

from metro_jax.untrusted.pickle_stubs import KINDS, Inert, reading
from metro_jax.untrusted.unpickler import Name, RefusedError, Unpickler, dictionary

MAX_BYTES = 2**30  # of a file, unpacked; the largest SMPL file has a quarter of it
MAX_OPCODES = 20_000  # SMPL's files have some hundreds


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
  check_size(path)
  found = unpickle(path.read_bytes(), str(path))
  named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
  if not named or not found:
    raise ValueError(f"{path}: expected a pickled dictionary of arrays, got another")
  return found


def check_size(path: pathlib.Path) -> None:
  """Refuses a file that is larger than any of its kind.

  Raises:
    ValueError: If it is.
  """
  size = path.stat().st_size
  if size > MAX_BYTES:
    raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")


def unpickle(data: bytes, where: str, max_opcodes: int = MAX_OPCODES) -> Any:
  """Reads a pickle of arrays.

  Args:
    data: The pickle.
    where: File and name, for the error.
    max_opcodes: How many it may have.

  Returns:
    Inert values, and plain ones.

  Raises:
    ValueError: If it is damaged or names what is no array.
  """
  with reading(where):
    try:
      return _ArrayUnpickler(max_opcodes).load(data)
    except (MemoryError, _RefusedNameError):
      raise
    except RefusedError as error:
      raise ValueError(f"expected a pickle of arrays, got {error}") from error
    except Exception as error:  # pickletools lets errors of its decoders through
      raise ValueError(f"expected a whole pickle, got {error}") from error


class _RefusedNameError(RefusedError):
  pass


class _ArrayUnpickler(Unpickler):
  def find(self, name: Name) -> Name:
    if name not in KINDS:
      raise _RefusedNameError(f"refused {name}: only arrays are read")
    return name

  def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
    match name:
      case ("collections", "OrderedDict"):
        return dictionary(arguments)
      case (_, "_reconstructor") if arguments and isinstance(arguments[0], Name):
        return KINDS[arguments[0]]()  # an empty object, in old protocols
    return KINDS[name](*arguments)

  def build(self, target: Any, state: Any) -> None:
    if isinstance(target, Inert):
      target.state = state

  def run(self, opcode: str, argument: Any) -> None:
    if opcode == "INST":  # of protocol 0
      name = self.find(Name(*argument.split(" ", 1)))
      self._stack.append(self.call(name, tuple(self._marked())))
    else:
      super().run(opcode, argument)
