"""METRO's own layout: TSV files of pictures and labels, named by a yaml file.

  x.img.tsv       key, JPEG in base64 (the last column)
  x.label.tsv     key, JSON: a list with one object
  x.linelist.tsv  optional: the rows to use; of a composite, source and row
  x.yaml          img, label, linelist, composite: true if img and label are lists

Bodies and hands are told apart by the number of joints. x.hw.tsv is not needed.

Source: the released code's metro/datasets/human_mesh_tsv.py and hand_mesh_tsv.py.
  Other than there, rows of pictures and labels must have the same key, and files are
  looked for below the yaml file's folder (and --images) only, links resolved.
"""

import binascii
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pybase64
import yaml

from metro_jax import text_files
from metro_jax.data import names, schema
from metro_jax.data.readers import fields, groups
from metro_jax.data.readers.formats import Source
from metro_jax.data.readers.tsv_file import (
  NOWHERE,
  TsvFile,
  read_integers,
  read_lines_alone,
)
from metro_jax.data.schema import Example, LabelSet
from metro_jax.text_files import one_line, short

_IMAGE_ENDING = ".img.tsv"
_TRIED_ROWS = 1000  # to learn whether bodies or hands are labelled
_GENDERS = {
  "m": "male",
  "f": "female",
  "n": "neutral",
  "none": "neutral",
  "": "neutral",
}


class Files(NamedTuple):
  """The files of a dataset."""

  images: Sequence[pathlib.Path]
  labels: Sequence[pathlib.Path]  # one for each of `images`
  line_list: pathlib.Path | None
  composite: bool


def open_reader(source: Source) -> "TsvReader":
  """Opens a yaml file, or an .img.tsv file with its .label.tsv beside it.

  Args:
    source: Uses `source`, `images` as a further folder of its files, `index_folder`.

  Raises:
    FileNotFoundError: Naming the file that is missing.
    ValueError: If a file is not what it should be.
  """
  path = source.source
  if path.name.endswith(_IMAGE_ENDING):
    found = _beside(path)
  elif path.suffix in (".yaml", ".yml"):
    found = read_yaml(path, [source.images] if source.images else [])
  else:
    raise ValueError(f"{path}: expected FILE.yaml or FILE{_IMAGE_ENDING}")
  for file in (*found.images, *found.labels, found.line_list):
    if file is not None and not file.is_file():
      raise FileNotFoundError(f"{file} is not there, which {path} needs")
  return TsvReader(path, found, source.index_folder)


def _beside(path: pathlib.Path) -> Files:
  stem = path.name.removesuffix(_IMAGE_ENDING)
  line_list = path.with_name(f"{stem}.linelist.tsv")
  return Files(
    [path],
    [path.with_name(f"{stem}.label.tsv")],
    line_list if line_list.exists() else None,
    composite=False,
  )


def read_yaml(path: pathlib.Path, others: Sequence[pathlib.Path] = ()) -> Files:
  """Reads which files a dataset has; paths are relative to the yaml file.

  Args:
    path: Of the yaml file, below whose folder the others lie.
    others: Further folders that they may lie in.

  Raises:
    FileNotFoundError: If one is not there, with the nearest that is.
    ValueError: If it is not YAML, lacks a key or names a file elsewhere, naming it.
  """
  text = text_files.read_text(path)
  try:
    found = yaml.safe_load(text)
  except (yaml.YAMLError, RecursionError) as error:
    raise ValueError(f"{path}: not YAML: {one_line(error)}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path}: expected keys and values, got {type(found).__name__}")
  composite = bool(found.get("composite", False))
  images = _named_files(path, others, found, "img", composite)
  labels = _named_files(path, others, found, "label", composite)
  if len(images) != len(labels):
    raise ValueError(
      f"{path}: expected as many files in img as in label, got {len(images)} and "
      f"{len(labels)}"
    )
  line_list = found.get("linelist")
  if composite and not line_list:
    raise ValueError(
      f"{path}: expected a linelist of (source, row), as composite: true"
    )
  return Files(
    [_find(path, others, "img", name) for name in images],
    [_find(path, others, "label", name) for name in labels],
    _find(path, others, "linelist", line_list) if line_list else None,
    composite,
  )


def _named_files(
  path: pathlib.Path,
  others: Sequence[pathlib.Path],
  found: Mapping[str, Any],
  key: str,
  composite: bool,
) -> list[Any]:
  named = found.get(key)
  if composite and isinstance(named, str):  # a file that lists them
    listed = text_files.read_text(_find(path, others, key, named))
    named = [line.strip() for line in listed.splitlines() if line.strip()]
  elif isinstance(named, str):
    named = [named]
  if not isinstance(named, list) or not named or (len(named) > 1 and not composite):
    expected = "a list of files" if composite else "one file"
    raise ValueError(f"{path}: {key}: expected {expected}, got {named!r}")
  return named


def _find(
  path: pathlib.Path, others: Sequence[pathlib.Path], key: str, name: Any
) -> pathlib.Path:
  """A file that the yaml file, or a list that it names, needs."""
  try:
    return names.find_file(str(name), path.parent, others)
  except FileNotFoundError as error:
    raise FileNotFoundError(f"{error}, which {path} needs") from None
  except ValueError as error:
    raise ValueError(f"{path}: {key}: {error}") from None


class TsvReader:
  """The rows of a TSV dataset, those of its line list only."""

  def __init__(
    self, path: pathlib.Path, files: Files, index_folder: pathlib.Path | None = None
  ):
    """Opens the files and reads their indices.

    Args:
      path: Of the yaml file, or of the pictures; for messages.
      files: The dataset's.
      index_folder: For indices that cannot stand beside the files.

    Raises:
      ValueError: If files do not fit each other, or no row has labels.
    """
    self.name = f"tsv {path}"
    self._folder = path.parent
    self._images = [TsvFile(file, index_folder) for file in files.images]
    self._label_files = [TsvFile(file, index_folder) for file in files.labels]
    self._composite = files.composite
    self._order = _read_order(files)
    if self._order is None:
      _expect_same_rows(self._images[0], self._label_files[0])
    self.labels = self._find_labels(path)

  def __len__(self) -> int:
    return len(self._images[0]) if self._order is None else len(self._order)

  def where(self, row: int) -> str:
    """The label file and its row; the picture stands in the same row of its file."""
    source, line = self._place(row)
    if line == NOWHERE or not 0 <= source < len(self._label_files):
      return f"line list row {row}"
    return f"{self._file_name(source)} row {line}"

  def read(self, row: int) -> Example:
    """Reads a row, its picture as it is.

    Raises:
      ValueError: If it is bad, saying why.
    """
    source, line = self._place(row)
    key, label = self._label(source, line)
    image_key, columns = self._images[source].row(line)
    if image_key != key:
      raise ValueError(
        f"key: expected {_text(key)} as of the label, got {_text(image_key)}"
      )
    if columns is None:
      raise ValueError("image: expected a column with a picture, got none")
    try:
      picture = columns.rpartition(b"\t")[2].strip()
      image = pybase64.b64decode(picture, validate=True)
    except binascii.Error as error:
      raise ValueError(f"image: bad base64 ({error})") from error
    name = _text(key)
    group = self._file_name(source) if self._composite else groups.group_of(name)
    return to_example(self.labels, name, image, label, group)

  def _place(self, row: int) -> tuple[int, int]:
    if self._order is None:
      return 0, row
    source, line = self._order[row].tolist()
    return source, line

  def _file_name(self, source: int) -> str:
    path = self._label_files[source].path
    return str(path.relative_to(self._folder) if self._inside(path) else path)

  def _inside(self, path: pathlib.Path) -> bool:
    return path.is_relative_to(self._folder)

  def _label(self, source: int, line: int) -> tuple[bytes, dict[str, Any]]:
    if line == NOWHERE:
      raise ValueError("expected whole numbers in the line list, got others")
    if not 0 <= source < len(self._label_files):
      raise ValueError(
        f"expected a source below {len(self._label_files)}, got {source}"
      )
    key, columns = self._label_files[source].row(line)
    if columns is None:
      raise ValueError("label: expected a key and JSON, got one column")
    label = text_files.parse_json(columns.partition(b"\t")[0], "label")
    if isinstance(label, list) and label:
      label = label[0]
    if not isinstance(label, dict):
      raise ValueError("label: expected a list with one object")
    return key, label

  def _find_labels(self, path: pathlib.Path) -> LabelSet:
    problem: Exception | str = "no row"
    for row in range(min(len(self), _TRIED_ROWS)):
      try:
        return labels_of(self._label(*self._place(row))[1])
      except ValueError as error:
        problem = f"{self.where(row)}: {error}"
    raise ValueError(
      f"{path}: expected labels of bodies or hands in the first {_TRIED_ROWS} rows, "
      f"got none; {problem}"
    )


def labels_of(label: Mapping[str, Any]) -> LabelSet:
  """Whether a label is a body's or a hand's, by its shapes.

  Raises:
    ValueError: If it is of neither.
  """
  for name, depth in (("2d_joints", 1), ("3d_joints", 1), ("pose", 0)):
    values = label.get(name)
    if depth and isinstance(values, list) and len(values) == 1:
      values = values[0]
    if not isinstance(values, list):
      continue
    for labels in (schema.BODY, schema.HAND):
      if len(values) == (len(labels.joints) if depth else 3 * len(labels.tree)):
        return labels
  raise ValueError("label: expected 24 joints of a body or 21 of a hand")


def to_example(
  labels: LabelSet, key: str, image: bytes, label: Mapping[str, Any], group: str = ""
) -> Example:
  """An example from the JSON of a row.

  Args:
    labels: Of bodies or hands.
    key: Names the record.
    image: A JPEG file's bytes.
    label: center, scale (box side / 200 px), has_2d_joints, has_3d_joints, has_smpl,
      and what these say is there: 2d_joints, 3d_joints, pose and betas; gender.
    group: For tables of errors.

  Raises:
    ValueError: If something is missing or wrong, naming it.
  """
  try:
    has_mesh = _flag(label, "has_smpl")
    has_2d, has_3d = _flag(label, "has_2d_joints"), _flag(label, "has_3d_joints")
    return schema.make_example(
      labels,
      key,
      image,
      _numbers("center", label["center"]),
      float(_numbers("scale", label["scale"], depth=0)) * fields.BOX_PX_PER_SCALE,
      joints_2d_px=_joints(label, "2d_joints", labels) if has_2d else None,
      joints_3d_m=_joints(label, "3d_joints", labels) if has_3d else None,
      pose=_numbers("pose", label["pose"]) if has_mesh else None,
      shape=_numbers("betas", label["betas"]) if has_mesh else None,
      gender=_gender(label),
      group=group,
    )
  except KeyError as error:
    raise ValueError(f"label: expected the field {error.args[0]}, got none") from None


def _flag(label: Mapping[str, Any], name: str) -> bool:
  value = label[name]
  if isinstance(value, list) and len(value) == 1:
    value = value[0]
  if not isinstance(value, int | float) or value not in (0, 1):
    raise ValueError(f"{name}: expected 0 or 1, got {short(value)}")
  return bool(value)


def _numbers(name: str, value: Any, depth: int = 1) -> np.ndarray:
  found = fields.numbers(name, value)
  if found.ndim != depth:
    raise ValueError(f"{name}: expected {depth} dimensions, got {found.ndim}")
  return found


def _joints(label: Mapping[str, Any], name: str, labels: LabelSet) -> np.ndarray:
  found = label[name]
  if isinstance(found, list) and len(found) == 1:  # of one person
    found = found[0]
  try:
    flat = list(itertools.chain.from_iterable(found))  # NumPy reads nested lists slowly
    (columns,) = set(map(len, found))
  except (TypeError, ValueError):  # not rows, or of different lengths
    points = _numbers(name, found, depth=2)
  else:
    points = _numbers(name, flat).reshape(len(found), columns)
  return fields.known(
    name, points, labels.joints if len(points) == len(labels.joints) else ()
  )


def _gender(label: Mapping[str, Any]) -> str:
  gender = label.get("gender", "")
  if not isinstance(gender, str):
    raise ValueError(f"gender: expected m, f or none, got {short(gender)}")
  return _GENDERS.get(gender.lower(), gender.lower())


def _text(key: bytes) -> str:
  try:
    return key.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"key: expected UTF-8, got {short(key)}") from error


def _read_order(files: Files) -> np.ndarray | None:
  """(n, 2) sources and rows, or None for every row of the one source."""
  if files.line_list is None:
    return None
  columns = 2 if files.composite else 1
  try:
    found = read_integers(files.line_list, columns)
  except ValueError:
    found = read_lines_alone(files.line_list, columns)
    if (found == NOWHERE).all():
      raise
  if not files.composite:
    found = np.concatenate([np.zeros_like(found), found], axis=1)
  if len(found) == 0:
    raise ValueError(f"{files.line_list}: expected rows, got an empty file")
  return found


def _expect_same_rows(images: TsvFile, labels: TsvFile) -> None:
  """Without a line list, row i of both files must be of one picture."""
  if len(images) == len(labels):
    return
  raise ValueError(
    f"expected as many rows in {images.path} as in {labels.path}, got {len(images)} "
    f"and {len(labels)}{_first_difference(images, labels)}"
  )


def _first_difference(images: TsvFile, labels: TsvFile) -> str:
  for row in range(min(len(images), len(labels))):
    keys = images.row(row)[0], labels.row(row)[0]
    if keys[0] != keys[1]:
      return (
        f"; the first that differs is row {row}: {short(keys[0])}, {short(keys[1])}"
      )
  return ""
