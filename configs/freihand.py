"""METRO's hand on FreiHAND: 21 joints and 778 vertices of MANO's right hand.

Run:    python -m metro_jax.train --config=configs/freihand.py --workdir=RUN
        --config=configs/freihand.py:hrnet_w64, :released  as in h36m.py
        Variants join with commas.
Needs:  MANO_RIGHT.pkl and mano_downsampling.npz (README, "Files of others"); the
        dataset freihand, made by metro_jax.prepare.
Source: METRO, section 4.4; released code, docs/EXP.md.
Result: published, HRNet-W64: PA-MPVPE 6.7 mm, PA-MPJPE 6.6 mm, with test-time
        augmentation 6.3 and 6.2; not run here, since MANO is licensed.
Cost:   200 epochs of 130,240 examples.
"""

from ml_collections import ConfigDict

from metro_jax import config as base


def get_config(variants: str = "") -> ConfigDict:
  """The config with its variants, joined by commas: hrnet_w64, released."""
  config = base.get_config()
  config.body.model = "mano"
  config.body.levels = (778, 195)
  config.data.train = ("freihand/train",)
  config.data.validation = config.data.test = "freihand/test"
  config.data.augment.rotation_std_deg = 90.0
  config.data.augment.flip_probability = 0.0  # a mirrored right hand is a left one
  config.model.hidden_widths = (1024, 256, 64)
  config.model.feedforward_widths = (4096, 1024, 256)
  config.model.token_source = "pooled"
  config.model.camera_tokens = "all"
  config.model.camera_hidden_width = 150
  config.model.mask_fraction = 0.0  # the coarse hand mesh is sparse already
  config.loss.vertex_levels = (1.0, 1.0)
  config.eval.tta_scales = (0.7, 0.8, 0.9, 1.0, 1.1)  # of evaluate --tta
  config.eval.tta_rotations_deg = tuple(float(d) for d in range(-90, 91, 10))
  config.train.num_steps = 108_600
  config.train.validate_every = 543
  config.train.checkpoint_every = 543
  where = "configs/freihand.py"
  return base.apply_variants(config, variants, where)
