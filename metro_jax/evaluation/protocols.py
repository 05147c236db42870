"""How errors are measured: the choices that make numbers comparable, in words.

MPJPE of two papers can differ by a centimetre through the joints, the regressor or
the origin alone, so every number that this project prints comes with its protocol.
"""

from typing import NamedTuple

from metro_jax.body import joints


class Protocol(NamedTuple):
  """What is compared with what."""

  name: str
  joints: tuple[str, ...]  # over which MPJPE and PA-MPJPE are means
  regressor: str  # of `BodyModel.regressors`: from the predicted mesh to its joints
  joint_root: tuple[str, ...]  # the mean of these joints is MPJPE's origin
  mesh_root: str  # the regressed joint that is MPVPE's origin
  truth: str  # where the compared joints and meshes come from
  training: str  # whether the network has trained on this dataset


SYNTHETIC = Protocol(
  name="synthetic",
  joints=joints.J14,
  regressor="h36m",
  joint_root=("R_Hip", "L_Hip"),
  mesh_root="Pelvis",
  truth="the rendered body: its 3D joint labels, and the mesh of its pose and shape",
  training="trained on this dataset's training split, which shares no body with "
  "the other splits",
)

METRICS = {
  "mpvpe_mm": ("MPVPE", "mean distance of all vertices, pelvis at the origin"),
  "mpjpe_mm": ("MPJPE", "mean distance of 14 joints, mid-hip at the origin"),
  "pa_mpjpe_mm": ("PA-MPJPE", "the same joints after the best similarity alignment"),
}
BASELINE = (
  "The mean mesh of the training split's labelled examples (camera frame, pelvis at "
  "the origin), predicted for every example."
)


def for_dataset(dataset: str) -> Protocol:
  """Returns the protocol that a dataset is evaluated by.

  Raises:
    ValueError: If the dataset has none.
  """
  protocols = {SYNTHETIC.name: SYNTHETIC}
  if dataset not in protocols:
    raise ValueError(
      f"protocol: expected one of {', '.join(protocols)}, got {dataset!r}"
    )
  return protocols[dataset]


def describe(protocol: Protocol) -> str:
  """Says a protocol in words, as it stands beside every table of errors."""
  root = " and ".join(protocol.joint_root)
  return (
    f"{len(protocol.joints)} joints ({', '.join(protocol.joints)}) regressed from the "
    f"predicted full mesh by the {protocol.regressor} regressor. MPJPE after placing "
    f"the middle of {root} at the origin on both sides; PA-MPJPE after aligning each "
    "example by its best rotation, scale and shift; MPVPE over every vertex with the "
    f"regressed {protocol.mesh_root} at the origin on both sides. Millimetres, the "
    "mean over examples, each counted once, without test-time augmentation. "
    f"Truth: {protocol.truth}. The network was {protocol.training}."
  )
