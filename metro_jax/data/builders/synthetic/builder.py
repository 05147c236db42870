"""The synthetic dataset for tensorflow-datasets, built when it is first opened.

`open_split(config, "train")` is all that others need. A build draws chunks in parallel
(chunks.py) into a folder beside the dataset, then writes array_record files from them
and takes the chunks away. Changed settings or drawing code are another dataset.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from metro_jax import files
from metro_jax.body import body_model, camera, humanoid, joints, rotations
from metro_jax.data import schema
from metro_jax.data.builders.split_source import REMEDY, SplitSource, first_line
from metro_jax.data.builders.synthetic import chunks, scene
from metro_jax.rendering import rasterizer

# The code and assets that an example follows from, beside this folder's.
_DRAWING = (rasterizer, body_model, rotations, camera, joints)
_NOT_DRAWING = ("build", "chunks")  # how names of files begin that draw nothing


@dataclasses.dataclass(kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):
  """What the dataset depends on; its name is made from all of it."""

  settings: scene.Settings | None = None
  counts: dict[str, int] = dataclasses.field(default_factory=dict)


class SyntheticHumans(tfds.core.GeneratorBasedBuilder):
  """Dressed humans in everyday poses, with exact labels."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First drawing."}  # noqa: RUF012

  def __init__(self, **options):
    super().__init__(**options)
    # While it writes, `data_path` is elsewhere; remember where the dataset will be.
    self.final_path = pathlib.Path(self.data_path)
    config_folder = self.final_path.parent
    self.chunk_folder = config_folder.with_name(
      f"{config_folder.name}-{self.final_path.name}.partial"
    )

  def _create_builder_config(self, builder_config, version):
    # The base class warns of configs that are not listed; none of ours is.
    del version
    return builder_config

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=_features(self.builder_config.settings.image_px),
      disable_shuffling=True,  # row i is example i
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {s: self._generate_examples(s) for s in self.builder_config.counts}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, schema.Example]]:
    for chunk in chunks.plan({split: self.builder_config.counts[split]}):
      examples = chunks.read_chunk(self.chunk_folder, chunk)
      yield from enumerate(examples, chunk.first)


def _features(image_px: int) -> tfds.features.FeaturesDict:
  vector = tfds.features.Tensor
  picture = tfds.features.Image(shape=(image_px, image_px, 3), encoding_format="jpeg")
  return tfds.features.FeaturesDict(
    {
      "key": tfds.features.Text(),
      "image": picture,
      "center_px": vector(shape=(2,), dtype=np.float32),
      "box_px": np.float32,
      "joints_2d_px": vector(shape=(len(joints.J24), 3), dtype=np.float32),
      "joints_3d_m": vector(shape=(len(joints.J24), 4), dtype=np.float32),
      "pose": vector(shape=(3 * len(joints.SMPL24),), dtype=np.float32),
      "shape": vector(shape=(10,), dtype=np.float32),
      "camera": vector(shape=(3,), dtype=np.float32),
      "has_joints_2d": np.bool_,
      "has_joints_3d": np.bool_,
      "has_mesh": np.bool_,
    }
  )


def open_split(config: ml_collections.ConfigDict, split: str) -> SplitSource:
  """Opens a split, building the dataset if it is not there.

  Args:
    config: The whole config; `data.data_dir` and `data.synthetic` matter.
    split: "train", "validation" or "test".

  Returns:
    Examples by row.

  Raises:
    ValueError: If the split does not exist or the dataset is damaged.
    OSError: If the disk is full, naming the folder and the space needed.
  """
  if split not in scene.SPLITS:
    raise ValueError(
      f"synthetic data: expected a split of {scene.SPLITS}, got {split!r}"
    )
  builder = make_builder(config)
  if not _is_built(builder):
    build(builder, config.data.synthetic.workers)
    builder = make_builder(config)  # a builder reads what is there when it is made
  return SplitSource(
    builder,
    split,
    rows=builder.builder_config.counts[split],
    labels=schema.BODY,
    name=f"synthetic/{split}",
    where=f"synthetic data in {builder.final_path}, split {split}",
  )


def make_builder(config: ml_collections.ConfigDict) -> SyntheticHumans:
  """The builder of the dataset that a config describes; builds nothing yet."""
  chosen = config.data.synthetic
  settings = scene.Settings(**{name: chosen[name] for name in scene.Settings._fields})
  counts = {split: chosen[f"{split}_examples"] for split in scene.SPLITS}
  text = json.dumps([settings, counts, chunks.CHUNK_EXAMPLES], sort_keys=True)
  digest = hashlib.sha256(text.encode())
  body = humanoid.load()
  for array in (body.template, body.shape_directions, body.skin_weights):
    digest.update(np.ascontiguousarray(array).tobytes())
  for path in _drawing_files():
    digest.update(path.read_bytes())
  name = f"{settings.image_px}px-seed{settings.seed}-{digest.hexdigest()[:10]}"
  data_dir = pathlib.Path(config.data.data_dir).expanduser()
  try:
    return SyntheticHumans(
      data_dir=data_dir,
      config=SyntheticConfig(name=name, settings=settings, counts=counts),
      file_format="array_record",
    )
  except Exception as error:  # a damaged description of a dataset that is there
    where = data_dir / SyntheticHumans.name / name
    raise ValueError(
      f"synthetic data in {where}: {first_line(error)}; {REMEDY}"
    ) from error


def _drawing_files() -> list[pathlib.Path]:
  """What a dataset's name says of code and assets: changed ones are another dataset."""
  here = pathlib.Path(__file__).parent
  own = [p for p in sorted(here.glob("*.py")) if not p.name.startswith(_NOT_DRAWING)]
  shared = [pathlib.Path(module.__file__) for module in _DRAWING]
  return own + sorted(here.glob("assets/*.npz")) + shared


def build(builder: SyntheticHumans, workers: int = 0) -> None:
  """Builds a dataset, or goes on with an interrupted build.

  Args:
    builder: Made by `make_builder`.
    workers: Drawing processes; 0 means one a core.

  Raises:
    OSError: If the disk is full, naming the folder and the space needed.
    RuntimeError: If drawing fails.
  """
  folder = builder.chunk_folder
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.alone(folder.with_suffix(".lock"), f"builds {builder.final_path}"):
      if _is_built(builder):
        return
      _expect_space(builder)
      folder.mkdir(exist_ok=True)
      _draw_missing(builder, workers or len(os.sched_getaffinity(0)))
      _write_records(builder)
      shutil.rmtree(folder, ignore_errors=True)
  except Exception as error:
    if not files.means_full_disk(error):
      raise
    raise _full_disk(builder) from error


def _is_built(builder: SyntheticHumans) -> bool:
  # tensorflow-datasets writes elsewhere and renames, so a folder is a dataset.
  return (builder.final_path / "dataset_info.json").exists()


def _draw_missing(builder: SyntheticHumans, workers: int) -> None:
  config, folder = builder.builder_config, builder.chunk_folder
  planned = chunks.plan(config.counts)
  missing = [c for c in planned if not chunks.is_finished(folder, c)]
  if not missing:
    return
  total = sum(config.counts.values())
  left = sum(c.end - c.first for c in missing)
  print(f"Drawing {left:,} of {total:,} synthetic examples into {builder.final_path}")
  with tqdm.tqdm(
    total=total,
    initial=total - left,
    unit=" images",
    desc="synthetic data",
    disable=None,
  ) as bar:
    start = time.monotonic()
    chunks.render(folder, config.settings, missing, workers, bar.update)
  rate = left / max(time.monotonic() - start, 1e-9)
  print(f"Drew {left:,} examples, {rate:.0f} a second")


def _write_records(builder: SyntheticHumans) -> None:
  """Turns the chunks into array_record files; they appear all at once."""
  folder = builder.final_path.parent
  for left_over in folder.glob("*incomplete*"):
    shutil.rmtree(left_over)
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloading
    builder.download_and_prepare(download_dir=builder.chunk_folder / "downloads")


def _needed_bytes(builder: SyntheticHumans) -> int:
  """Chunks and records are on disk together for a while."""
  config = builder.builder_config
  one = 2_500 + 0.22 * config.settings.image_px**2
  return int(2 * one * sum(config.counts.values()))


def _expect_space(builder: SyntheticHumans) -> None:
  folder = builder.chunk_folder
  drawn = sum(f.stat().st_size for f in folder.glob("*")) if folder.exists() else 0
  if shutil.disk_usage(folder.parent).free + drawn < _needed_bytes(builder):
    raise _full_disk(builder)


def _full_disk(builder: SyntheticHumans) -> OSError:
  folder = builder.chunk_folder.parent
  needed, free = _needed_bytes(builder), shutil.disk_usage(folder).free
  return OSError(
    errno.ENOSPC,
    f"synthetic data: about {needed / 1e6:,.1f} MB are needed in {folder}, "
    f"{free / 1e6:,.1f} MB are free; make room or set config.data.data_dir",
  )
