"""How near drawn poses come to poses that they were not made from.

  python tests/data/pose_coverage.py [LABELS.json] [--clips]

LABELS.json names the joints (`joints`, as left_shoulder) and holds people whose
`joints_m` are known or null. Prints the mean over poses of the smallest PA-MPJPE, mm,
of 12 limb joints to 6,000 drawn poses: for the labelled people, and with --clips for
each clip of real motion, drawn from the library without it.
"""

import argparse
import json
import pathlib

import numpy as np

from metro_jax.body import humanoid, joints
from metro_jax.data.builders.synthetic import anatomy, motions, scene, stances

PARTS = ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")
LIMBS = tuple(f"{side}_{part}" for part in PARTS for side in "LR")
ROWS = joints.index(joints.SMPL24, LIMBS)
DRAWN, CLIP_STEP = 6000, 4


def nearest_mm(poses: np.ndarray, drawn: np.ndarray) -> np.ndarray:
  """The smallest PA-MPJPE of each pose (n, j, 3) to any of those drawn (m, j, 3)."""
  poses, drawn = (x - x.mean(axis=1, keepdims=True) for x in (poses, drawn))
  power = (drawn**2).sum(axis=(1, 2))
  nearest = []
  for pose in poses:
    u, s, vt = np.linalg.svd(np.einsum("ja,mjb->mab", pose, drawn))
    sign = np.sign(np.linalg.det(u @ vt))
    s[:, 2] *= sign
    u[:, :, 2] *= sign[:, None]
    turned = drawn @ (u @ vt).swapaxes(1, 2) * (s.sum(axis=1) / power)[:, None, None]
    nearest.append(np.linalg.norm(turned - pose, axis=2).mean(axis=1).min())
  return 1e3 * np.array(nearest)


def places(poses: np.ndarray, rest: np.ndarray) -> np.ndarray:
  """Limb joints of SMPL poses (n, 24, 3)."""
  return anatomy.forward_kinematics(poses, rest)[:, ROWS]


def draw(sample, rest, **options) -> np.ndarray:
  rows = range(DRAWN)
  drawn = [sample(scene.example_rng(0, "train", i), rest, **options) for i in rows]
  return places(np.array(drawn, np.float64).reshape(-1, 24, 3), rest)


def read_labels(path: pathlib.Path) -> np.ndarray:
  labels = json.loads(path.read_text())
  names = [
    f"{side[0].upper()}_{part.title()}"
    for side, part in (name.split("_") for name in labels["joints"])
  ]
  order = [names.index(name) for name in LIMBS]
  known = [p["joints_m"] for p in labels["people"] if p["joints_m"]]
  return np.array(known)[:, order]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("labels", nargs="?", type=pathlib.Path)
  parser.add_argument("--clips", action="store_true", help="each clip left out in turn")
  arguments = parser.parse_args()
  body = humanoid.load()
  rest = np.asarray(body.joint_regressor @ body.template, np.float64)
  before = draw(stances.sample_pose, rest)
  if arguments.labels:
    real = read_labels(arguments.labels)
    after = draw(motions.sample_pose, rest)
    for name, drawn in (("stances", before), ("motions", after)):
      near = nearest_mm(real, drawn)
      worst = np.percentile(near, 90)
      print(
        f"{len(real)} labelled: {name} {near.mean():.1f} mm, 90 % below {worst:.1f}"
      )
  if arguments.clips:
    report_clips(rest, before)


def report_clips(rest: np.ndarray, before: np.ndarray) -> None:
  """Prints each clip's distance from poses that were drawn without it."""
  library, rows = motions.load(), []
  for number, name in enumerate(library.names):
    angles = library.angles_deg[library.clips == number][::CLIP_STEP]
    real = places(anatomy.angles_to_pose(angles), rest)
    drawn = draw(motions.sample_pose, rest, library=library.without(name))
    rows.append((nearest_mm(real, before).mean(), nearest_mm(real, drawn).mean()))
    print(f"{name}: stances {rows[-1][0]:.1f} mm, motions without it {rows[-1][1]:.1f}")
  print("mean: stances {:.1f} mm, motions {:.1f}".format(*np.mean(rows, axis=0)))


if __name__ == "__main__":
  main()
