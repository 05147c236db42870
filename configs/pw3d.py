"""METRO on 3DPW: fine-tunes a network that Human3.6M has trained.

Run:    python -m metro_jax.train --config=configs/pw3d.py --workdir=RUN
          --config.train.init_from=H36M_RUN       or METRO's state-dict file
        --config=configs/pw3d.py:gendered  errors against male and female SMPL
        --config=configs/pw3d.py:hrnet_w64, :released  as in h36m.py
        --config.loss.true_joints=labels --config.eval.true_joints=labels
                                       on METRO's own files, as its numbers were had
        Variants join with commas.
Needs:  SMPL (of all genders for :gendered) and METRO's regressors; the dataset 3dpw,
        made by metro_jax.prepare.
Source: METRO, section 4; released code, docs/EXP.md.
Result: published, HRNet-W64: MPVPE 88.2, MPJPE 77.1, PA-MPJPE 47.9 mm on the test
        split; not run here, since the data are licensed.
Cost:   5 epochs of 22,735 examples: minutes on 8 GPUs.
"""

from ml_collections import ConfigDict

from metro_jax import config as base


def get_config(variants: str = "") -> ConfigDict:
  """The config with its variants, joined by commas: gendered, hrnet_w64, released."""
  config = base.get_config()
  config.body.model = "smpl"
  config.data.train = ("3dpw/train",)
  config.data.validation = "3dpw/validation"
  config.data.test = "3dpw/test"
  # Its owners' files label neither hips nor head, and SMPL's limbs are not where the
  # regressor of the network's joints has them: compare with the joints of meshes.
  config.loss.true_joints = config.eval.true_joints = "mesh"
  config.train.num_steps = 475
  config.train.validate_every = 95
  config.train.checkpoint_every = 95
  where = "configs/pw3d.py"
  return base.apply_variants(config, variants, where, {"gendered": _gendered})


def _gendered(config: ConfigDict) -> None:
  config.eval.ground_truth = "gendered"
