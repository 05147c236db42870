"""The rows of the synthetic dataset, drawn instead of read, for a build like any other.

What draws is in the folder synthetic/. Nothing here does, so that a change here leaves
the datasets that are there as they are.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

from metro_jax.body import body_model, camera, humanoid, joints, rotations
from metro_jax.data import schema
from metro_jax.data.builders.synthetic import scene
from metro_jax.rendering import rasterizer

# The code that an example follows from, beside that of the folder synthetic/.
_DRAWING = (rasterizer, body_model, rotations, camera, joints)


@dataclasses.dataclass(frozen=True)
class SyntheticReader:
  """The rows of one split, each drawn by the process that asks for it.

  Attributes:
    settings: What the pictures look like.
    split: One of `scene.SPLITS`.
    rows: How many there are.
  """

  settings: scene.Settings
  split: str
  rows: int
  name = "drawn people"
  labels = schema.BODY

  def __len__(self) -> int:
    return self.rows

  def where(self, row: int) -> str:
    """Names a row."""
    return f"synthetic/{self.split} row {row}"

  def read(self, row: int) -> schema.Example:
    """Draws a row."""
    return scene.draw_example(_stage(), self.settings, self.split, row)

  def dataset(self) -> str:
    """Names the dataset by all that its rows follow from: what changes is another."""
    text = json.dumps([self.settings, self.rows], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    body = humanoid.load()
    for array in (body.template, body.shape_directions, body.skin_weights):
      digest.update(np.ascontiguousarray(array).tobytes())
    for path in drawing_files():
      digest.update(path.read_bytes())
    told = f"{self.settings.image_px}px_seed{self.settings.seed}"
    return f"synthetic_{told}_{digest.hexdigest()[:10]}"

  def estimated_bytes(self) -> int:
    """Says about how large the files will be."""
    return int(self.rows * (2_500 + 0.22 * self.settings.image_px**2))


def open_reader(config: ConfigDict, split: str) -> SyntheticReader:
  """Makes the reader of a split that `config.data.synthetic` describes.

  Raises:
    ValueError: If there is no such split.
  """
  if split not in scene.SPLITS:
    raise ValueError(
      f"synthetic data: expected a split of {scene.SPLITS}, got {split!r}"
    )
  chosen = config.data.synthetic
  settings = scene.Settings(**{name: chosen[name] for name in scene.Settings._fields})
  return SyntheticReader(settings, split, chosen[f"{split}_examples"])


def drawing_files() -> list[pathlib.Path]:
  """Lists the code and assets that a dataset's name tells apart."""
  folder = pathlib.Path(scene.__file__).parent
  own = sorted(folder.glob("[!_]*.py"))
  shared = [pathlib.Path(str(module.__file__)) for module in _DRAWING]
  return own + sorted(folder.glob("assets/*.npz")) + shared


@functools.cache
def _stage() -> scene.Stage:
  return scene.make_stage(humanoid.load())
