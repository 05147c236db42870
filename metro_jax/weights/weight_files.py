"""State dicts on disk: `.safetensors`, `.npz`, PyTorch's files, Hugging Face.

Weight files come from strangers, so nothing in one is executed, and what it claims of
its size is checked before memory is taken. None of them needs PyTorch.
"""

import os
import pathlib
import re
import tempfile
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

from metro_jax import files
from metro_jax.text_files import one_line
from metro_jax.weights import state_dicts, torch_files, torch_metro
from metro_jax.weights.array_files import NpzFile, SafetensorsFile
from metro_jax.weights.state_dicts import Choice, MisfitError
from metro_jax.weights.torch_files import TorchFile
from metro_jax.weights.torch_metro import Entry

SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w./-]+)?")
_REPOSITORY_FILES = ("model.safetensors", "pytorch_model.bin")

Arrays = dict[str, np.ndarray]


class Loaded(NamedTuple):
  """Weights from a file, in the shape of our variables.

  Attributes:
    variables: Collections of NumPy arrays.
    ignored: Keys of the file that the network has no use for.
    source: Where they came from.
  """

  variables: dict[str, Any]
  ignored: int
  source: str


def locate(source: str | os.PathLike[str]) -> pathlib.Path:
  """The local file that a setting names; downloads one of a repository.

  Args:
    source: A path, or a Hugging Face repository "org/name", of which the file
      model.safetensors or else pytorch_model.bin is taken, or "org/name:file". A "#"
      and the name of an entry of the file may follow.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If the repository or its file cannot be had, as without a network.
    ValueError: If the file is of a kind that holds no weights.
  """
  name, _ = _split(source)
  path = pathlib.Path(name).expanduser()
  if not path.exists() and _is_repository(name):
    path = _download(name)
  if not path.is_file():
    raise FileNotFoundError(f"{source}: expected a file of weights, found none")
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f"{source}: expected a file of weights ({', '.join(SUFFIXES)}), "
      f"got {path.suffix or 'no ending'!r}"
    )
  return path


def _split(source: str | os.PathLike[str]) -> tuple[str, str]:
  """A source's file or repository, and the entry of it that is asked for, if any."""
  name, mark, entry = str(source).rpartition("#")
  if not mark or pathlib.Path(source).expanduser().exists():
    return str(source), ""
  return name, entry.rstrip(".")


def _is_repository(source: str) -> bool:
  name, colon, _ = source.partition(":")
  is_file = not colon and name.endswith(SUFFIXES)
  return bool(_REPOSITORY.fullmatch(source)) and not is_file and name[0] != "."


def _download(source: str) -> pathlib.Path:
  """A repository's file, from the local cache where it is there."""
  import huggingface_hub  # slow to import, and few need it
  from huggingface_hub import errors

  name, _, chosen = source.partition(":")
  tried = (chosen,) if chosen else _REPOSITORY_FILES
  for file in tried:
    try:
      return pathlib.Path(huggingface_hub.hf_hub_download(name, file))
    except errors.LocalEntryNotFoundError as error:
      raise OSError(
        f"{source}: expected a file or a Hugging Face repository; there is no such "
        "file, and the repository cannot be reached and is not in the cache"
      ) from error
    except errors.EntryNotFoundError:
      continue
    except Exception as error:  # of several HTTP libraries
      raise OSError(
        f"{source}: expected a file or a Hugging Face repository, got {one_line(error)}"
      ) from error
  raise FileNotFoundError(
    f"{source}: expected the repository to have {' or '.join(tried)}"
  )


def read(source: str | os.PathLike[str]) -> Arrays:
  """Reads all arrays of a file, each under its path in the file.

  Args:
    source: As for `locate`.

  Returns:
    NumPy arrays; bfloat16 becomes float32, which holds it exactly.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is damaged, of another kind, or holds what is not finite.
  """
  path = locate(source)
  file = _opened(path)
  return _checked(path, file.read(file.contents.shapes))


def read_fitting(
  source: str | os.PathLike[str], table: Sequence[Entry], unused: Container[str]
) -> tuple[Arrays, Choice]:
  """Reads a network's arrays from wherever they are in a file, and nothing else.

  Args:
    source: As for `locate`; a `#` and the name of an entry choose one of several.
    table: What the network needs.
    unused: Keys that may be there beside them.

  Returns:
    The arrays by the network's keys, and where they were.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is damaged, of another kind, or holds what is not finite;
      or naming keys that do not fit, and a file of all of them.
  """
  path, entry = locate(source), _split(source)[1]
  file = _opened(path)
  try:
    choice = state_dicts.choose(file.contents, table, unused, entry)
  except MisfitError as error:
    raise ValueError(f"{source}: {error}{_listed(error)}") from error
  stored = file.read(choice.paths.values())
  arrays = {key: stored[path] for key, path in choice.paths.items()}
  return _checked(path, arrays), choice


def load(
  source: str | os.PathLike[str],
  table: Sequence[Entry],
  unused: Container[str],
  variables: torch_metro.Variables,
) -> Loaded:
  """Loads a network's weights as our variables, all or nothing.

  Args:
    source: As for `read_fitting`.
    table: What the network needs.
    unused: Keys that may be there beside them.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Raises:
    FileNotFoundError, OSError, ValueError: As `read_fitting`.
  """
  arrays, choice = read_fitting(source, table, unused)
  filled = torch_metro.converted(arrays, table, variables)
  return Loaded(filled, choice.ignored, f"{source}{_chosen(choice)}")


def _listed(error: MisfitError) -> str:
  """Where all keys that do not fit can be read, as far as they were not said."""
  if error.listing.count("\n") <= torch_metro.MOST_SAID:
    return ""
  try:
    with tempfile.NamedTemporaryFile(
      "w", prefix="metro_keys_", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
      file.write(error.listing)
  except OSError:  # the short message matters more
    return ""
  return f"; all in {file.name}"


def _chosen(choice: Choice) -> str:
  """Where in a file the weights were, unless they were all that it has."""
  said = [f"prefix {choice.prefix}"] if choice.prefix else []
  said += [f"#{prefix.rstrip('.')} fits, too" for prefix in choice.others]
  return f" ({', '.join(said)})" if said else ""


def load_metro(
  source: str | os.PathLike[str], variables: torch_metro.Variables
) -> Loaded:
  """Loads a METRO state dict as our variables, all or nothing.

  Args:
    source: As for `load`.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Raises:
    FileNotFoundError, OSError, ValueError: As `load`.
  """
  table = torch_metro.entries(variables)
  return load(source, table, torch_metro.ignored_shapes(variables), variables)


def _opened(path: pathlib.Path) -> SafetensorsFile | NpzFile | TorchFile:
  if path.suffix == ".safetensors":
    return SafetensorsFile(path)
  return NpzFile(path) if path.suffix == ".npz" else TorchFile(path)


def _checked(path: pathlib.Path, arrays: Arrays) -> Arrays:
  """Arrays of finite numbers, at least one, bfloat16 as float32."""
  if not arrays:
    raise ValueError(f"{path}: expected weights, found none")
  arrays = {key: _widened(value) for key, value in arrays.items()}
  _expect_finite(path, arrays)
  return arrays


def _widened(value: np.ndarray) -> np.ndarray:
  return value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value


def _expect_finite(path: pathlib.Path, arrays: Arrays) -> None:
  bad = [
    key
    for key, value in arrays.items()
    if value.dtype.kind == "f" and not np.isfinite(value).all()
  ]
  if bad:
    raise ValueError(f"{path}: expected finite weights, got NaN or inf in {_some(bad)}")


def _some(keys: list[str], most: int = 10) -> str:
  more = len(keys) - most
  return ", ".join(keys[:most]) + (f" and {more} more" if more > 0 else "")


def expect_writable(path: pathlib.Path) -> None:
  """Refuses a path that `write` could not serve, before the work is done.

  Raises:
    ValueError: If the ending is another.
  """
  if path.suffix not in SUFFIXES:
    endings = ", ".join(SUFFIXES)
    raise ValueError(f"{path}: expected an ending of {endings}, got {path.suffix!r}")


def write(path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict as a whole file of the kind that the path's ending names.

  PyTorch's files come in its older serialisation, which every version reads, also the
  one that METRO's code was made for.

  Args:
    path: Ends in .safetensors, .npz, or .bin, .pth or .pt.
    state_dict: Arrays by key.

  Raises:
    ValueError: If the ending is another, or the kind has no such numbers.
    OSError: If the file cannot be written.
  """
  path = pathlib.Path(path)
  expect_writable(path)
  arrays = {key: np.asarray(value, order="C") for key, value in state_dict.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as partial:
    if path.suffix == ".safetensors":
      safetensors.numpy.save_file(arrays, partial)
    elif path.suffix == ".npz":
      with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    else:
      torch_files.write(partial, arrays)
