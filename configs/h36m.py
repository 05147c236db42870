"""METRO on Human3.6M and its companions.

Run:    python -m metro_jax.train --config=configs/h36m.py --workdir=RUN
        --config=configs/h36m.py:hrnet_w64  the paper's best backbone
        --config=configs/h36m.py:released   losses and crops of the released code
        --config=configs/h36m.py:eval       needs the test data alone; for weights that
                                            somebody else trained (metro_jax.convert)
        Variants join with commas: h36m.py:hrnet_w64,released
Needs:  SMPL and METRO's regressors (README, "Files of others"), and the datasets of
        data.train, data.validation and data.test, made by metro_jax.prepare. Whatever
        is missing is said at once. Take away what you do not have:
        --config.data.train="('h36m/train','coco/train')".
Source: METRO, section 4; released code, docs/EXP.md.
Result: published, HRNet-W64: MPJPE 54.0 mm, PA-MPJPE 36.7 mm on protocol 2; not run
        here, since the data are licensed.
Cost:   published: 5 days on 8 V100, 200 epochs of 312,188 examples.
"""

from ml_collections import ConfigDict

from metro_jax import config as base

TEST = "h36m/valid_protocol2"


def get_config(variants: str = "") -> ConfigDict:
  """The config with its variants, joined by commas: hrnet_w64, released, eval."""
  config = base.get_config()
  config.body.model = "smpl"
  config.data.train = (
    *("h36m/train", "coco/train", "muco/train", "up3d/train", "mpii/train"),
  )
  config.data.validation = config.data.test = TEST
  config.eval.max_examples = 2_000
  where = "configs/h36m.py"
  return base.apply_variants(config, variants, where, {"eval": _eval})


def _eval(config: ConfigDict) -> None:
  config.data.train = (TEST,)  # for the baseline's mean mesh alone
  config.data.crop = "released"
