"""Every format from its owner's files to batches: labels lie where they are drawn.

Shards are written by this process; that others write the same is tested elsewhere.
"""

import pathlib
import pickle
import runpy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from metro_jax import config as base
from metro_jax import prepare
from metro_jax.data import pipeline
from metro_jax.data.builders import prepared, shards
from metro_jax.data.readers import formats

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
scenes = runpy.run_path(str(FIXTURES / "scenes.py"))


class Case(NamedTuple):
  """A format: who writes its files, of what, and where pictures are."""

  format: str
  write: Callable
  kind: str = "bodies"
  images: str | None = None
  split: str = "train"
  rows: tuple[int, ...] = (0, 1)  # which scene each row is of


CASES = {
  "tsv": Case("tsv", written["write_tsv"]),
  "composite tsv": Case(
    "tsv",
    lambda folder, made: written["write_composite_tsv"](folder, [made[:1], made[1:]]),
    rows=(1, 0),
  ),
  "tsv of hands": Case("tsv", written["write_tsv"], "hands"),
  "jsonl": Case("jsonl", written["write_jsonl"]),
  "jsonl of hands": Case("jsonl", written["write_jsonl"], "hands"),
  "spin_npz": Case("spin_npz", written["write_spin_npz"], images="images"),
  "bedlam": Case("spin_npz", written["write_bedlam_npz"], images="png"),
  "3dpw": Case(
    "3dpw", lambda folder, made: written["write_threedpw"](folder, made, "train")
  ),
  "freihand": Case("freihand", written["write_freihand"], "hands", rows=(0, 1) * 4),
  "coco": Case("coco", written["write_coco"]),
  "mpii json": Case("mpii", written["write_mpii_json"]),
  "mpii mat": Case("mpii", written["write_mpii_mat"]),
}


@pytest.fixture(scope="module")
def made() -> dict[str, list]:
  return {"bodies": written["bodies"](2), "hands": written["hands"](2)}


def config_for(kind: str):
  config = base.get_config()
  config.body.model = "mano" if kind == "hands" else "humanoid"
  config.data.image_px = 224
  config.eval.batch_size = 8
  config.train.batch_size = 4
  return config


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
  def write_all(reader, folder, missing, workers, most_refused, done, rows_read):
    copy = pickle.loads(pickle.dumps(reader))
    for shard in missing:
      shards.write_shard(copy, folder, shard, most_refused, {}, lambda row: None)
      done(shard, shards.read_report(folder, shard))

  monkeypatch.setattr(shards, "write_all", write_all)


@pytest.mark.parametrize("name", CASES)
def test_labels_of_batches_lie_where_they_are_drawn(tmp_path, made, name):
  case, drawn = CASES[name], made[CASES[name].kind]
  if name == "mpii mat":
    pytest.importorskip("scipy.io", reason="MPII's .mat file needs SciPy")
  (tmp_path / "owner").mkdir()
  path = case.write(tmp_path / "owner", drawn)
  images = None if case.images is None else path.parent / case.images
  source = formats.Source(path, case.split, images)
  summary = prepare.prepare(case.format, source, tmp_path / "data", "some", workers=1)
  assert (summary.kept, summary.refused) == (len(case.rows), 0)

  rows = prepared.open_split(tmp_path / "data", "some", case.split)
  (batch,) = pipeline.eval_batches(rows, config_for(case.kind))
  for place in np.flatnonzero(batch.valid):
    scene = drawn[case.rows[batch.index[place]]]
    assert (errors_px(batch, place, scene, flip=False) < 1).all()
  assert batch.valid.sum() == len(case.rows)

  trained = next(pipeline.train_batches(rows, config_for(case.kind)))
  for place in range(4):  # scaled, turned and half of them mirrored, at random
    scene = drawn[case.rows[trained.index[place]]]
    ways = [errors_px(trained, place, scene, flip) for flip in (False, True)]
    assert any((errors < 1).all() for errors in ways)  # NaN: no such sphere


def errors_px(batch, place: int, scene, flip: bool) -> np.ndarray:
  item = {"image": batch.image[place], "joints_2d": batch.joints_2d[place]}
  return scenes["errors_px"](item, scene, flip)
