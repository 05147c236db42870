"""The network that comes with the package: a small METRO for photographs, from nothing.

Run:    python -m metro_jax.train --config=configs/embedded.py --workdir=runs/embedded
        --config=configs/embedded.py:tuned  goes on from that run, backbone and all
Source: our own renderings, in photographed places (CC0), of poses of real motion
  (zlib); the backbone starts from BlazePose's weights (Apache-2.0), see NOTICE.
"""

from ml_collections import ConfigDict

from metro_jax import config as base


def get_config(variant: str = "frozen") -> ConfigDict:
  """The config of a variant: "frozen" (the backbone as it comes) or "tuned" (all)."""
  variants = {"frozen": _frozen, "tuned": _tuned}
  if variant not in variants:
    raise ValueError(
      f"configs/embedded.py: expected one of {', '.join(variants)}, got {variant!r}"
    )
  config = base.get_config()
  _pictures(config.data)
  _network(config)
  config.optimizer.schedule = "cosine"
  config.optimizer.clip_norm = 1.0
  config.optimizer.ema_decay = 0.999
  config.eval.batch_size = 64
  variants[variant](config)
  return config


def _pictures(data: ConfigDict) -> None:
  data.image_px = 192
  data.passes = 2
  data.augment.degradation = 1.0
  data.augment.rotation_probability = 0.0  # framing turns them
  data.augment.color_gain = 0.0  # degradation tints them
  data.synthetic.image_px = 256
  data.synthetic.train_examples = 20_000
  data.synthetic.validation_examples = 400
  data.synthetic.test_examples = 1_000
  data.synthetic.share_2d_only = 0.0
  data.synthetic.occluder_probability = 0.2
  data.synthetic.poses = "motions"
  data.synthetic.camera = "perspective"
  data.synthetic.scenery = "panoramas"
  data.synthetic.wardrobe = "sport"
  data.synthetic.bystanders = 0.2


def _network(config: ConfigDict) -> None:
  config.body.levels = (6890, 431, 108)
  model = config.model
  model.backbone = "blazepose"
  model.backbone_weights = "embedded"
  model.hidden_widths = (128,)
  model.output_widths = (3,)
  model.feedforward_widths = (512,)
  model.num_layers = 4
  model.max_positions = 128
  model.dropout = 0.0
  model.mask_fraction = 0.1
  model.init_std = 0.05
  model.position_std = 0.3
  model.output_std = 0.005
  model.camera_init = "unit"
  model.upsampling_init = "barycentric"


def _frozen(config: ConfigDict) -> None:
  config.data.map_views = 3
  config.optimizer.frozen = ("backbone", "upsampling1")
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 200
  config.train.batch_size = 64
  config.train.num_steps = 6_000
  config.train.validate_every = 1_000
  config.train.checkpoint_every = 1_000


def _tuned(config: ConfigDict) -> None:
  config.train.init_from = "runs/embedded"
  # What sees edges stays; what knows people learns slowly.
  early = ("stem", *(f"block{n}" for n in range(5)))
  config.optimizer.frozen = ("upsampling1", *(f"backbone/{name}" for name in early))
  config.optimizer.backbone_rate = 0.2
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 100
  config.train.batch_size = 32
  config.train.num_steps = 4_000
  config.train.validate_every = 1_000
  config.train.checkpoint_every = 500
