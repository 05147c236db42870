"""The formats that datasets come in, by name."""

import importlib
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from metro_jax.data.readers.reader import Reader

_ROOM = "metro_jax.data.readers"


class Source(NamedTuple):
  """What the user names: the files of one split of a dataset."""

  source: pathlib.Path  # the file or folder that the format starts from
  split: str  # train, test or what the dataset calls it
  images: pathlib.Path | None = None  # folder of the pictures, where that is apart
  options: Mapping[str, str] = {}  # what only this format knows
  index_folder: pathlib.Path | None = None  # for indices that fit not beside the files


class Format(NamedTuple):
  """A format: where its reader is opened and what the user must name."""

  module: str  # of the readers; its `open_reader(source: Source) -> Reader` opens
  expects: str  # what `Source.source`, and if needed the rest, must be
  options: tuple[str, ...] = ()  # names of options that it knows


FORMATS: Mapping[str, Format] = MappingProxyType(
  {
    "tsv": Format("tsv", "METRO's FILE.yaml, or FILE.img.tsv with FILE.label.tsv"),
    "jsonl": Format("jsonl", "your own FILE.jsonl, one person or hand a line"),
    "spin_npz": Format("spin_npz", "the FILE.npz of SPIN-style projects, or BEDLAM's"),
    "3dpw": Format("threedpw", "3DPW's folder with sequenceFiles and imageFiles"),
    "coco": Format(
      "coco", "COCO's person_keypoints_SPLIT.json", ("min_keypoints", "min_limbs")
    ),
    "mpii": Format("mpii", "MPII's .mat file, or the train.json of pose projects"),
    "freihand": Format(
      "freihand", "FreiHAND's folder with training_K.json", ("versions", "box")
    ),
  }
)


def open_reader(name: str, source: Source) -> Reader:
  """Opens a dataset.

  Args:
    name: Of the format.
    source: Its files.

  Raises:
    ValueError: If there is no such format or option, or the files are of another.
    FileNotFoundError: If a file is missing, naming it.
  """
  if name not in FORMATS:
    raise ValueError(f"--format: expected one of {', '.join(FORMATS)}, got {name!r}")
  chosen = FORMATS[name]
  for option in source.options:
    if option not in chosen.options:
      known = ", ".join(chosen.options) or "none"
      raise ValueError(f"--option of {name}: expected one of {known}, got {option!r}")
  for path in (source.source, source.images):
    if path is not None:
      expect_local(path)
      if not path.exists():
        raise FileNotFoundError(f"{path} is not there; {name}: {chosen.expects}")
  return importlib.import_module(f"{_ROOM}.{chosen.module}").open_reader(source)


def expect_local(path: pathlib.Path) -> None:
  """Refuses addresses of buckets.

  Raises:
    ValueError: If the path is one, with what to do instead.
  """
  text = str(path)
  head = text.split(":", 1)[0]
  if text.startswith(f"{head}:/") and head.isalnum() and len(head) > 1:
    raise ValueError(
      f"{text}: expected a local folder; rows are read in any order, which needs "
      "files, not objects of a bucket: copy it to a local disk or mount the bucket"
    )
