"""How errors are measured: the choices that make numbers comparable, in words.

MPJPE of two papers can differ by a centimetre through the joints, the regressor or
the origin alone, so every number that this project prints comes with its protocol.
"""

import math
import re
from typing import NamedTuple

from ml_collections import ConfigDict

from metro_jax.body import joints
from metro_jax.checkpoints import origin
from metro_jax.checkpoints.origin import Training
from metro_jax.evaluation import averaging


class Protocol(NamedTuple):
  """What is compared with what."""

  name: str
  about: str  # which examples these are
  family: str  # of datasets: "synthetic", "h36m", "3dpw", "freihand", or "" of others
  kind: str  # "body" or "hand"
  joints: tuple[str, ...]  # over which MPJPE and PA-MPJPE are means
  regressor: str  # of `BodyModel.regressors`: from the predicted mesh to its joints
  joint_root: tuple[str, ...]  # the mean of these joints is MPJPE's origin
  mesh_root: str  # the regressed joint that is MPVPE's origin
  metrics: tuple[str, ...]  # keys of `METRICS`
  group: str  # what an example's group is: an action, a sequence
  truth: str  # where the compared joints and meshes come from
  training: str  # whether the network has trained on this dataset
  averaging: str = "exact"
  views: str = ""  # of test-time augmentation; empty without


class Metric(NamedTuple):
  """A number's title, unit ("mm", or "" for a share of 1), label and meaning."""

  title: str
  unit: str
  label: str  # "joints" or "mesh": which label an example needs to count
  meaning: str

  def format(self, value: float) -> str:
    """Shows the value as tables do; a dash where nothing was measured."""
    if not math.isfinite(value):
      return "–"
    return f"{value:.1f} mm" if self.unit else f"{value:.3f}"


METRICS = {
  "mpvpe_mm": Metric("MPVPE", "mm", "mesh", "mean distance of all vertices, from root"),
  "mpjpe_mm": Metric("MPJPE", "mm", "joints", "mean distance of the joints, from root"),
  "pa_mpjpe_mm": Metric(
    "PA-MPJPE", "mm", "joints", "the same joints after the best similarity alignment"
  ),
  "pa_mpvpe_mm": Metric(
    "PA-MPVPE", "mm", "mesh", "all vertices after an alignment of their own"
  ),
  "pck_150mm": Metric("3D PCK", "", "joints", "share of joints closer than 150 mm"),
  "auc_150mm": Metric("3D AUC", "", "joints", "mean of that for 0, 5, ..., 150 mm"),
  "pa_pck_150mm": Metric("PA 3D PCK", "", "joints", "3D PCK after alignment"),
  "pa_auc_150mm": Metric("PA 3D AUC", "", "joints", "3D AUC after alignment"),
  "pa_auc_50mm": Metric(
    "PA AUC", "", "joints", "share of joints within t, mean over t of 0 to 50 mm"
  ),
  "pa_mesh_auc_50mm": Metric("PA mesh AUC", "", "mesh", "the same of vertices"),
  "pa_f_5mm": Metric("F@5 mm", "", "mesh", "F-score of aligned vertices within 5 mm"),
  "pa_f_15mm": Metric("F@15 mm", "", "mesh", "the same within 15 mm"),
}
BODY_METRICS = (
  *("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm", "pa_mpvpe_mm"),
  *("pck_150mm", "auc_150mm", "pa_pck_150mm", "pa_auc_150mm"),
)
HAND_METRICS = (
  *("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm", "pa_mpvpe_mm"),
  *("pa_f_5mm", "pa_f_15mm", "pa_auc_50mm", "pa_mesh_auc_50mm"),
)
BASELINE = (
  "The mean mesh of config.data.train's labelled examples (camera frame, its root at "
  "the origin; the upright mean body where none is labelled), predicted for every "
  "example, without test-time augmentation."
)

_BODY = Protocol(
  name="",
  about="",
  family="",
  kind="body",
  joints=joints.J14,
  regressor="h36m",
  joint_root=("R_Hip", "L_Hip"),
  mesh_root="Pelvis",
  metrics=BODY_METRICS,
  group="group",
  truth="the mesh of the example's pose and shape",
  training="",
)
_HAND = _BODY._replace(
  kind="hand",
  joints=joints.HAND21,
  regressor="hand21",
  joint_root=("Wrist",),
  mesh_root="Wrist",
  metrics=HAND_METRICS,
)
SYNTHETIC = _BODY._replace(
  name="synthetic",
  about="bodies that this project renders",
  family="synthetic",
  truth="the mesh of the rendered body's pose and shape",
  training="trained on this dataset's training split, which shares no body with its "
  "other splits",
)
_KINDS = {"synthetic": "body", "h36m": "body", "3dpw": "body", "freihand": "hand"}
_JOINTS = {  # config.eval.true_joints
  "labels": "its 3D joint labels",
  "mesh": "the joints regressed from that mesh by the same regressor",
}
_MIXED = " + "  # in the name of several datasets as one
_HUMAN36M = "Human3.6M, subjects S9 and S11"
_H36M_CAMERAS = {
  "1": ("protocol 1", "all four cameras"),
  "2": ("protocol 2", "the frontal camera only"),
}


def for_dataset(
  dataset: str, config: ConfigDict, training: Training | None = None
) -> Protocol:
  """Chooses the protocol that a dataset is evaluated by.

  Args:
    dataset: "name/split". The name tells the family: "synthetic", "h36m", "3dpw" or
      "freihand", alone or before "_" or "-"; any other, or one of these with labels
      of the other kind than the network's, is a dataset of one's own. A split of
      Human3.6M whose name has "p1" or "protocol1" in it is protocol 1's, and
      likewise 2.
    config: Uses `body` and `eval`.
    training: Of the network; None if it is being trained with this config.
  """
  training = training or origin.training_of(config, config.train.num_steps)
  name, _, split = dataset.partition("/")
  family = "" if _MIXED in dataset else re.split("[_-]", name)[0]
  hand = config.body.model == "mano"
  if family not in _KINDS or (_KINDS[family] == "hand") != hand:
    family = ""
  makers = {
    "synthetic": _synthetic,
    "h36m": _h36m,
    "3dpw": _pw3d,
    "freihand": _freihand,
  }
  protocol = makers.get(family, _own)(name, split, config)
  return protocol._replace(
    family=family,
    training=_training(name, protocol.training, training),
    averaging=config.eval.averaging,
    truth=f"{protocol.truth}, and {_JOINTS[config.eval.true_joints]}",
  )


def describe(protocol: Protocol) -> str:
  """Says a protocol in words, as it stands beside every table of errors."""
  roots = " and ".join(protocol.joint_root)
  root = f"the middle of {roots}" if len(protocol.joint_root) > 1 else f"the {roots}"
  about = f"{protocol.name}: {protocol.about}. " if protocol.about else ""
  return (
    f"{about}{len(protocol.joints)} joints ({', '.join(protocol.joints)}) regressed "
    f"from the predicted full mesh by the {protocol.regressor} regressor. MPJPE after "
    f"placing {root} at the origin on both sides; PA-MPJPE after aligning each example "
    "by its best rotation, scale and shift; MPVPE over every vertex with the "
    f"regressed {protocol.mesh_root} at the origin on both sides; PA-MPVPE after "
    f"aligning the vertices likewise. {_thresholds(protocol)}{_average(protocol)} "
    f"{_views(protocol)} Truth: {protocol.truth}. The network was {protocol.training}."
  )


def _thresholds(protocol: Protocol) -> str:
  if protocol.kind == "hand":
    return (
      "F-scores and AUC (0 to 50 mm) of aligned points, by the formulae of FreiHAND's "
      "leaderboard. "
    )
  return (
    "3D PCK (150 mm) and its AUC by the formulae of MPI-INF-3DHP, over the joints "
    "named here. "
  )


def _average(protocol: Protocol) -> str:
  if protocol.averaging == "released":
    batch = averaging.BATCH_SIZES[protocol.kind]
    return (
      "The mean as the released code takes it, not exact: "
      f"{averaging.RANKS} ranks with batches of {batch}, filled up with repeated "
      "examples and averaged without weights, PA-MPJPE with zeros for examples "
      "without 3D labels."
    )
  return "The mean over labelled examples, each counted once."


def _views(protocol: Protocol) -> str:
  if not protocol.views:
    return "Without test-time augmentation."
  return (
    f"With test-time augmentation: {protocol.views}, each undone, aligned by its best "
    "similarity to the unchanged view, meshes and joints apart, and averaged."
  )


def _synthetic(name: str, split: str, config: ConfigDict) -> Protocol:
  del name, split, config
  return SYNTHETIC


def _h36m(name: str, split: str, config: ConfigDict) -> Protocol:
  del config
  number = re.search(r"p(?:rotocol)?[._-]?([12])(?!\d)", f"{name}/{split}")
  if number is None:
    return _BODY._replace(name=f"{name}/{split}", about="Human3.6M", group="action")
  title, cameras = _H36M_CAMERAS[number[1]]
  return _BODY._replace(
    name=f"{name}/{split}", about=f"{_HUMAN36M}, {title}: {cameras}", group="action"
  )


def _pw3d(name: str, split: str, config: ConfigDict) -> Protocol:
  bodies = f"of the {config.body.gender} SMPL, whatever the person's gender"
  if config.eval.ground_truth == "gendered":
    bodies = "of the male or female SMPL that it was labelled with"
  return _BODY._replace(
    name=f"{name}/{split}",
    about="3D Poses in the Wild",
    group="sequence",
    truth=f"{_BODY.truth}, {bodies}",
  )


def _freihand(name: str, split: str, config: ConfigDict) -> Protocol:
  del config
  return _HAND._replace(
    name=f"{name}/{split}",
    about="FreiHAND. Predictions are relative to the wrist, so that only aligned "
    "numbers compare with the leaderboard's",
  )


def _own(name: str, split: str, config: ConfigDict) -> Protocol:
  kind = _HAND if config.body.model == "mano" else _BODY
  return kind._replace(name=f"{name}/{split}", about="labels as they were prepared")


def _training(name: str, alone: str, training: Training) -> str:
  """Says what the weights have seen; `alone` if only this dataset's training split."""
  start = training.init_from
  if not training.steps:
    source = f"those of {start}" if start else "somebody else's"
    return f"not trained here: its weights are {source}, which may have seen any data"
  started = f", from the weights {start}, which may have seen others" if start else ""
  if alone and set(training.datasets) == {f"{name}/train"}:
    return f"{alone}{started}"
  names = [dataset.partition("/")[0] for dataset in training.datasets]
  own = "this dataset among them" if name in names else "not on this dataset"
  return f"trained on {', '.join(training.datasets)}, {own}{started}"
