"""METRO on the embedded human: no download, no licence, a few minutes on two cores.

Run:    python -m metro_jax.train --config=configs/synthetic.py --workdir=runs/synthetic
        goes on from the package's network on new pictures
        --config=configs/synthetic.py:scratch  a small ResNet, from nothing
        --config=configs/synthetic.py:full  the paper's network, for a GPU
        --config=configs/synthetic.py:tiny  seconds; for tests
Source: our own renderings of the embedded body (metro_jax/body/assets).
"""

import pathlib
import runpy

from ml_collections import ConfigDict

from metro_jax import config as base

HERE = pathlib.Path(__file__).parent


def get_config(variant: str = "further") -> ConfigDict:
  """Makes the config of a variant: "further", "scratch", "full" or "tiny"."""
  if variant == "further":
    return _further()
  variants = {"scratch": _scratch, "full": _full, "tiny": _tiny}
  if variant not in variants:
    names = ", ".join(("further", *variants))
    raise ValueError(f"configs/synthetic.py: expected one of {names}, got {variant!r}")
  config = base.get_config()
  config.model.upsampling_init = "barycentric"
  variants[variant](config)
  return config


def _further() -> ConfigDict:
  """The package's network a little longer, on pictures that it has not seen."""
  config = runpy.run_path(str(HERE / "embedded.py"))["get_config"]("tuned")
  config.data.synthetic.seed = 1
  config.data.synthetic.train_examples = 4_000
  config.data.synthetic.validation_examples = 200
  config.data.synthetic.test_examples = 400
  config.train.init_from = "embedded"
  config.train.photographs = str(HERE / "photographs")
  config.train.num_steps = 240
  config.train.log_every = 20
  config.train.validate_every = 120
  config.train.checkpoint_every = 120
  config.optimizer.warmup_steps = 40
  return config


def _full(config: ConfigDict) -> None:
  config.train.batch_size = 64
  config.eval.batch_size = 64
  config.train.num_steps = 100_000


def _scratch(config: ConfigDict) -> None:
  config.body.levels = (6890, 431, 108)
  config.loss.vertex_levels = (1.0, 1.0, 1.0)
  config.data.image_px = 64
  config.data.synthetic.image_px = 80
  config.data.synthetic.train_examples = 10_000
  config.data.synthetic.validation_examples = 300
  config.data.synthetic.test_examples = 1_000
  # Little in front of and behind people: minutes cannot teach to see through all.
  config.data.synthetic.share_2d_only = 0.1
  config.data.synthetic.occluder_probability = 0.1
  config.data.synthetic.clutter = 0.0
  # A short run learns more from people as the test split shows them.
  config.data.augment.scale_std = 0.1
  config.data.augment.rotation_probability = 0.0
  config.data.augment.color_gain = 0.1
  config.model.backbone = "resnet18"
  config.model.backbone_width = 32
  config.model.hidden_widths = (64,)
  config.model.output_widths = (3,)
  config.model.feedforward_widths = (128,)
  config.model.num_layers = 1
  config.model.max_positions = 128
  config.model.dropout = 0.0
  config.model.mask_fraction = 0.0
  # First weights for a short run: queries that differ, coordinates near 0.
  config.model.init_std = 0.1
  config.model.position_std = 0.5
  config.model.output_std = 0.005
  config.model.camera_init = "unit"
  config.optimizer.learning_rate = 1.5e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 100
  config.optimizer.frozen = ("upsampling1",)  # 431 to 6890: the mesh's geometry
  config.train.batch_size = 16
  config.train.num_steps = 4_400
  config.train.validate_every = 500
  config.train.checkpoint_every = 500
  config.eval.batch_size = 64


def _tiny(config: ConfigDict) -> None:
  _scratch(config)
  config.data.image_px = 32
  config.data.synthetic.image_px = 40
  config.data.synthetic.train_examples = 24
  config.data.synthetic.validation_examples = 6
  config.data.synthetic.test_examples = 10
  config.model.backbone_width = 8
  config.model.hidden_widths = (16, 16)
  config.model.output_widths = (16, 3)
  config.model.feedforward_widths = (32, 32)
  config.model.num_layers = 1
  config.train.batch_size = 8
  config.train.num_steps = 6
  config.optimizer.warmup_steps = 1
  config.train.log_every = 2
  config.train.validate_every = 3
  config.train.checkpoint_every = 3
  config.eval.batch_size = 8
