"""State dicts on disk: `.safetensors`, `.npz`, PyTorch's files, Hugging Face.

Weight files come from strangers, so nothing in one is executed, and what it claims of
its size is checked before memory is taken. None of them needs PyTorch.
"""

import math
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from metro_jax import files
from metro_jax.weights import torch_files, torch_metro

SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt")
MOST_BYTES = 8 * 2**30  # in an .npz; the largest METRO has an eighth of it
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(:[\w./-]+)?")
_REPOSITORY_FILES = ("model.safetensors", "pytorch_model.bin")
_PREFIXES = ("state_dict.", "module.", "model.")
_NOT_AN_NPZ = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)

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
      model.safetensors or else pytorch_model.bin is taken, or "org/name:file".

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If the repository or its file cannot be had, as without a network.
    ValueError: If the file is of a kind that holds no weights.
  """
  path = pathlib.Path(source).expanduser()
  if not path.exists() and _is_repository(str(source)):
    path = _download(str(source))
  if not path.is_file():
    raise FileNotFoundError(f"{source}: expected a file of weights, found none")
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f"{source}: expected a file of weights ({', '.join(SUFFIXES)}), "
      f"got {path.suffix or 'no ending'!r}"
    )
  return path


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
        f"{source}: expected a file or a Hugging Face repository, got {_line(error)}"
      ) from error
  raise FileNotFoundError(
    f"{source}: expected the repository to have {' or '.join(tried)}"
  )


def read(source: str | os.PathLike[str]) -> Arrays:
  """A state dict's arrays by key, without wrappers and common prefixes.

  Args:
    source: As for `locate`.

  Returns:
    NumPy arrays; bfloat16 becomes float32, which holds it exactly.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If the file is damaged, of another kind, wants to run code, or holds
      what is not finite.
  """
  path = locate(source)
  if path.suffix == ".safetensors":
    arrays = _read_safetensors(path)
  elif path.suffix == ".npz":
    arrays = _read_npz(path)
  else:
    arrays = torch_files.read(path)
  if not arrays:
    raise ValueError(f"{path}: expected weights, found none")
  arrays = {key: _widened(value) for key, value in _without_prefix(arrays).items()}
  _expect_finite(path, arrays)
  return arrays


def load_metro(
  source: str | os.PathLike[str], variables: torch_metro.Variables
) -> Loaded:
  """A METRO state dict as our variables, all or nothing.

  Args:
    source: As for `locate`.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Raises:
    FileNotFoundError: If there is no such file.
    OSError: If a repository cannot be reached.
    ValueError: If `read` refuses the file, or naming every key that does not fit.
  """
  arrays = read(source)
  try:
    filled = torch_metro.from_state_dict(arrays, variables)
  except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
  ignored = len(arrays) - len(torch_metro.entries(variables))
  return Loaded(filled, ignored, str(source))


def _widened(value: np.ndarray) -> np.ndarray:
  return value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value


def _without_prefix(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Without what wrapping a module puts before every key."""
  for prefix in _PREFIXES:
    if all(key.startswith(prefix) for key in arrays):
      arrays = {key.removeprefix(prefix): value for key, value in arrays.items()}
  return dict(arrays)


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


def _line(error: BaseException) -> str:
  """An error's text in one line."""
  return " ".join(str(error).split())[:200] or type(error).__name__


def _read_safetensors(path: pathlib.Path) -> Arrays:
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path}: expected a whole safetensors file, got {_line(error)}"
    ) from error


def _read_npz(path: pathlib.Path) -> Arrays:
  try:
    with zipfile.ZipFile(path) as archive:
      members = archive.infolist()
      size = sum(member.file_size for member in members)
      if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, at most {MOST_BYTES:,} are read")
      return {
        member.filename.removesuffix(".npy"): _read_member(archive, member)
        for member in members
      }
  except (*_NOT_AN_NPZ, ValueError) as error:
    raise ValueError(f"{path}: expected a whole .npz, got {_line(error)}") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
  """One array; its header must claim what the archive holds."""
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
      raise ValueError(f"{member.filename} of npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    claimed = math.prod(shape) * dtype.itemsize
    if file.tell() + claimed != member.file_size:
      raise ValueError(
        f"{member.filename} whose header claims {claimed:,} bytes "
        f"in a member of {member.file_size:,}"
      )
  with archive.open(member) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


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
        np.savez(file, **arrays)
    else:
      torch_files.write(partial, arrays)
