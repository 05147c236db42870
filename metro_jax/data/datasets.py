"""Datasets by the names that a config uses: "name/split", alone or mixed.

A split of "synthetic" is drawn when it is first opened. All others are prepared once,
by `python -m metro_jax.prepare`, and lie under `config.data.data_dir`; what is missing
is said all at once, with how to get it, before any device starts.
"""

import pathlib

from ml_collections import ConfigDict

from metro_jax.body import smpl_files
from metro_jax.data import mixture, schema
from metro_jax.data.builders import prepared, synthetic_reader
from metro_jax.data.builders.split_source import SplitSource
from metro_jax.data.pipeline import Source

SYNTHETIC = "synthetic"
_DRAWN_ROWS = 128  # of a file; a few seconds' work of one process
_PREPARE = "python -m metro_jax.prepare --name={name} --split={split}"
# How each dataset of METRO's is had: where from, and the format to prepare it with.
KNOWN = {
  "h36m": ("Human3.6M, http://vision.imar.ro/human3.6m", "tsv or spin_npz"),
  "coco": ("COCO 2014, https://cocodataset.org", "tsv or coco"),
  "muco": ("MuCo-3DHP, https://vcai.mpi-inf.mpg.de/3dhp-dataset", "tsv or spin_npz"),
  "up3d": ("UP-3D, https://files.is.tuebingen.mpg.de/classner/up", "tsv or spin_npz"),
  "mpii": ("MPII, http://human-pose.mpi-inf.mpg.de", "tsv, mpii or spin_npz"),
  "bedlam": ("BEDLAM, https://bedlam.is.tue.mpg.de", "spin_npz"),
  "3dpw": ("3DPW, https://virtualhumans.mpi-inf.mpg.de/3DPW", "3dpw or tsv"),
  "freihand": ("FreiHAND, https://lmb.informatik.uni-freiburg.de", "freihand or tsv"),
}


def open_split(config: ConfigDict, dataset: str) -> Source:
  """Opens one split of one dataset.

  Args:
    config: Uses `data` and `body.model`.
    dataset: "name/split".

  Returns:
    Its examples by row.

  Raises:
    FileNotFoundError: If it was not prepared, with how to.
    ValueError: If it is damaged, or labels hands where the config has a body.
  """
  name, split = dataset.split("/")
  wanted = schema.labels_of(config.body.model)
  if name == SYNTHETIC:
    source = _open_synthetic(config, split)
  elif not _is_there(config, dataset):
    raise FileNotFoundError(_how_to_get(config, dataset))
  else:
    source = prepared.open_split(_folder(config), name, split)
  if (found := source.labels) != wanted:
    raise ValueError(
      f"dataset {dataset}: expected labels of a {wanted.name} for config.body.model "
      f"{config.body.model}, got those of a {found.name}"
    )
  return source


def _open_synthetic(config: ConfigDict, split: str) -> SplitSource:
  """Opens a split of drawn people, and draws it before, if it is not there."""
  reader = synthetic_reader.open_reader(config, split)
  folder, name, title = _folder(config), reader.dataset(), f"{SYNTHETIC}/{split}"
  if not prepared.is_built(folder, name, split):
    where = prepared.folder_of(folder, name, split)
    print(f"Drawing {len(reader):,} examples of {title} into {where}", flush=True)
    prepared.build(
      reader,
      folder,
      name,
      split,
      workers=config.data.synthetic.workers,
      max_refused=0.0,
      shard_rows=_DRAWN_ROWS,
      title=title,
      needed_bytes=reader.estimated_bytes(),
    )
  return prepared.open_split(folder, name, split, title)


def open_training(config: ConfigDict) -> Source:
  """Opens what `config.data.train` and `config.data.weights` say, as one split.

  Raises:
    FileNotFoundError, ValueError: As `open_split`.
  """
  sources = [open_split(config, dataset) for dataset in config.data.train]
  if len(sources) == 1:
    return sources[0]
  return mixture.Mixture(sources, tuple(config.data.weights))


def expect_everything(config: ConfigDict) -> None:
  """Checks that all files that a run will need are there; opens none.

  Raises:
    FileNotFoundError: Naming every missing dataset and file, and how to get each.
  """
  wanted = dict.fromkeys([*config.data.train, config.data.validation, config.data.test])
  missing = [
    _how_to_get(config, name) for name in wanted if not _is_there(config, name)
  ]
  gendered = config.eval.ground_truth == "gendered"
  files = smpl_files.needed(config.body.model, config.body.gender, gendered)
  missing += smpl_files.missing(files, config.body.assets_dir)
  if missing:
    raise FileNotFoundError("missing " + "; ".join(missing))


def _folder(config: ConfigDict) -> pathlib.Path:
  return pathlib.Path(config.data.data_dir).expanduser()


def _is_there(config: ConfigDict, dataset: str) -> bool:
  name, split = dataset.split("/")
  return name == SYNTHETIC or prepared.is_built(_folder(config), name, split)


def _how_to_get(config: ConfigDict, dataset: str) -> str:
  name, split = dataset.split("/")
  source, formats = KNOWN.get(name, ("your own data", "jsonl, or another"))
  command = _PREPARE.format(name=name, split=split)
  return (
    f"dataset {dataset} in {_folder(config)} ({source}): {command} "
    f"--format=FORMAT --source=PATH, format {formats}"
  )
