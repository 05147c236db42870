"""From files as their owners give them out to a trained and measured network."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from metro_jax import config as base
from metro_jax import prepare
from metro_jax import train as command
from metro_jax.checkpoints import runs
from metro_jax.cluster import parallel
from metro_jax.data import datasets, pipeline
from metro_jax.data.readers import formats
from metro_jax.evaluation import evaluator

TESTS = pathlib.Path(__file__).parent
CONFIGS = TESTS.parent / "configs"
written = runpy.run_path(str(TESTS / "fixtures" / "written.py"))
standins = runpy.run_path(str(TESTS / "body" / "standin_files.py"))
BODIES = {  # name of the dataset: format, writer, folder of pictures
  "tsv": ("tsv", "write_tsv", None),
  "jsonl": ("jsonl", "write_jsonl", None),
  "spin": ("spin_npz", "write_spin_npz", "images"),
  "bedlam": ("spin_npz", "write_bedlam_npz", "png"),
  "coco": ("coco", "write_coco", None),
  "mpii": ("mpii", "write_mpii_json", None),
}
ALL = {"mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"}
MEASURED = {"bedlam": {"mpvpe_mm"}, "coco": set(), "mpii": set()}  # what labels allow


def prepare_all(folder: pathlib.Path, chosen: dict, made: list) -> pathlib.Path:
  """Writes each format and prepares it as NAME/train; returns the data folder."""
  for name, (form, writer, images) in chosen.items():
    own = folder / "owners" / name
    own.mkdir(parents=True)
    path = written[writer](own, made)
    pictures = None if images is None else path.parent / images
    source = formats.Source(path, "train", pictures)
    summary = prepare.prepare(form, source, folder / "data", name, workers=1)
    assert summary.kept > 0 and summary.refused == 0
  return folder / "data"


def shrink(config, data_dir: pathlib.Path, names: list[str]) -> None:
  """A network of seconds, on these datasets."""
  config.data.data_dir = str(data_dir)
  config.data.train = tuple(f"{name}/train" for name in names)
  config.data.validation = config.data.test = config.data.train[0]
  config.data.image_px = 32
  config.data.prefetch = 8
  config.model.backbone = "resnet18"
  config.model.backbone_width = 8
  config.model.hidden_widths = (16,)
  config.model.output_widths = (3,)
  config.model.feedforward_widths = (16,)
  config.model.num_layers = 1
  config.train.batch_size = config.eval.batch_size = 8
  config.train.num_steps = 3
  config.train.log_every = config.train.validate_every = 3
  config.train.checkpoint_every = 3
  config.train.pictures = 1
  base.validate(config)


def errors_by_dataset(config, workdir: pathlib.Path) -> dict[str, dict[str, float]]:
  run = runs.load(workdir)
  network = run.network
  geometry = network.geometry
  eval_step = evaluator.map_eval_step(network.model, geometry)
  state = parallel.replicate(run.variables)
  found = {}
  for dataset in config.data.train:
    batches = pipeline.eval_batches(datasets.open_split(config, dataset), config)
    found[dataset] = evaluator.evaluate(eval_step, state, batches).means_mm
  return found


def train_losses(workdir: pathlib.Path) -> dict[str, float]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return next(
    line for line in map(json.loads, reversed(lines)) if line["group"] == "train"
  )


@pytest.mark.slow
def test_bodies_of_every_format_train_together_and_are_measured_apart(tmp_path):
  data_dir = prepare_all(tmp_path, BODIES, written["bodies"](2))
  config = base.get_config()
  config.body.levels = (6890, 108)
  config.loss.vertex_levels = (1.0, 1.0)
  config.model.upsampling_init = "barycentric"
  shrink(config, data_dir, list(BODIES))
  config.data.weights = (1.0,) * len(BODIES)
  command.train(config, tmp_path / "run")
  logged = train_losses(tmp_path / "run")
  errors = errors_by_dataset(config, tmp_path / "run")
  for name in BODIES:
    assert np.isfinite(logged[f"{name}/train/loss"])
    measured = {k for k, v in errors[f"{name}/train"].items() if np.isfinite(v)}
    assert measured == MEASURED.get(name, ALL)
  written_errors = json.loads((tmp_path / "run" / "eval" / "test.json").read_text())
  assert written_errors["mpjpe_mm"] == pytest.approx(
    errors["tsv/train"]["mpjpe_mm"], rel=1e-4
  )


@pytest.mark.slow
def test_hands_of_freihand_train_and_are_measured(tmp_path):
  chosen = {"freihand": ("freihand", "write_freihand", None)}
  data_dir = prepare_all(tmp_path, chosen, written["hands"](2))
  assets = tmp_path / "assets"
  assets.mkdir()
  hand = standins["as_distributed"](standins["mano"]())
  (assets / "MANO_RIGHT.pkl").write_bytes(standins["python3"](hand))
  standins["write_npz"](
    assets / "mano_downsampling.npz", **standins["sampling"]((778, 195, 49))
  )
  config = runpy.run_path(str(CONFIGS / "freihand.py"))["get_config"]("released")
  config.body.assets_dir = str(assets)
  shrink(config, data_dir, ["freihand"])
  command.train(config, tmp_path / "run")
  errors = errors_by_dataset(config, tmp_path / "run")["freihand/train"]
  assert all(0 < value < 5_000 for value in errors.values())
  assert (tmp_path / "run" / "report.html").exists()
