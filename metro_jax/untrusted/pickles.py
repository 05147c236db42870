"""Pickles of arrays, such as SMPL's, MANO's and 3DPW's.

Some have chumpy's and SciPy's objects inside. A name in a pickle stands for one of a
table of inert classes that keep what the file says; any other is refused by name.
"""

import os
from typing import Any

from metro_jax import files
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
  found = unpickle(files.read_bytes(path, MAX_BYTES), str(path))
  named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
  if not named or not found:
    raise ValueError(f"{path}: expected a pickled dictionary of arrays, got another")
  return found


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
    except MemoryError:
      raise
    except RefusedError as error:
      raise ValueError(f"refused {error}: expected nothing but arrays") from error
    except Exception as error:  # pickletools lets errors of its decoders through
      raise ValueError(f"expected a whole pickle, got {error}") from error


class _ArrayUnpickler(Unpickler):
  def find(self, name: Name) -> Name:
    if name not in KINDS:
      raise RefusedError(str(name))
    return name

  def call(self, name: Name, arguments: tuple[Any, ...]) -> Any:
    if name == ("collections", "OrderedDict"):
      return dictionary(arguments)
    if name.name == "_reconstructor" and isinstance(arguments[0], Name):
      return KINDS[arguments[0]]()  # an empty object, in old protocols
    return KINDS[name](*arguments)

  def build(self, target: Any, state: Any) -> None:
    if isinstance(target, Inert):
      target.state = state
