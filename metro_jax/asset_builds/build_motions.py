"""Builds assets/motions.npz, poses of real motion, from the clips in pybullet's wheel.

  python -m metro_jax.asset_builds.build_motions --pybullet WHEEL

The wheel comes from PyPI (`pip download --no-deps pybullet==3.2.7`); only its motion
clips are read. Steps: turn the clips' joints into the anatomical angles that stances
are made of, keep these to the limits of joints, drop frames that repeat others, weigh
rare ones higher.
"""

import argparse
import json
import pathlib
import zipfile
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import humanoid, rotations
from metro_jax.data.builders.synthetic import anatomy, motions

FOLDER = "pybullet_data/data/motions/"
REPEAT_M = 0.02  # frames of a clip that are nearer to each other count as one
NEIGHBOURS = 8  # whose distance says how rare a frame is
MOST_WEIGHT = 3.0  # of a frame, times the median
UP_M = 0.3  # length of the root's upright in the distance of two frames

# Rows of a frame that hold a joint: a quaternion w, x, y, z or a hinge's angle.
_TRUNK_ROWS = {"root": slice(4, 8), "chest": slice(8, 12), "neck": slice(12, 16)}
_LIMB_ROWS: dict[str, tuple[Any, Any]] = {  # left, right
  "hip": (slice(30, 34), slice(16, 20)),
  "knee": (34, 20),
  "ankle": (slice(35, 39), slice(21, 25)),
  "shoulder": (slice(39, 43), slice(25, 29)),
  "elbow": (43, 29),
}
# The clips' axes point forward, up and right; SMPL's left, up and forward.
_AXES = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
# The clips' arms hang at rest, SMPL's left arm points along x.
_HANG = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_MIRROR = np.diag([-1.0, 1.0, 1.0])


def read_clips(wheel: pathlib.Path) -> dict[str, Float[np.ndarray, "n 44"]]:
  """The humans' clips in a wheel, by name.

  Raises:
    OSError, ValueError: If the file is no wheel, or not this one.
  """
  clips = {}
  try:
    with zipfile.ZipFile(wheel) as archive:
      for entry in sorted(archive.namelist()):
        human = entry.startswith((FOLDER + "humanoid3d_", FOLDER + "walker/"))
        if human and entry.endswith(".txt"):
          name = entry.removeprefix(FOLDER).removesuffix(".txt")
          clips[name] = np.array(json.loads(archive.read(entry))["Frames"], np.float64)
  except zipfile.BadZipFile as error:
    raise ValueError(f"{wheel}: expected a wheel, got {error}") from error
  shapes = {clip.shape[1:] for clip in clips.values()}
  if shapes != {(44,)}:
    raise ValueError(f"{wheel}: expected clips of 44 numbers a frame, got {shapes}")
  return clips


def retarget(
  frames: Float[np.ndarray, "n 44"],
) -> tuple[Float[np.ndarray, "n a 2"], Float[np.ndarray, "n 3"]]:
  """Anatomical angles and the root's turn of a clip's frames.

  The chest's turn is spread over the spine, part of the arm's over the collar. What
  the clips do not know (toes, wrists, hands, turning the forearm) is zero.

  Args:
    frames: Rows of a clip.

  Returns:
    Degrees in the order of `anatomy.ANGLES`, left and right; axis-angle of the root
    in a frame with y up, radians.
  """
  root, chest, neck = (
    rotations.matrix_to_axis_angle(_matrix(frames[:, rows]))
    for rows in _TRUNK_ROWS.values()
  )
  angles = dict.fromkeys(anatomy.ANGLES, np.zeros((len(frames), 2)))
  for part, vector in {"spine": chest, "neck": neck}.items():
    for axis, kind in enumerate(("flexion", "twist", "bend")):
      angles[f"{part}_{kind}"] = np.degrees(vector[:, [axis, axis]])
  knee, elbow = (
    np.stack([frames[:, row] for row in _LIMB_ROWS[hinge]], axis=1)
    for hinge in ("knee", "elbow")
  )
  angles["knee_flexion"], angles["elbow_flexion"] = np.degrees(-knee), np.degrees(elbow)
  ankle = np.degrees(rotations.matrix_to_axis_angle(_both("ankle", frames)))
  angles["ankle_flexion"], angles["ankle_inversion"] = -ankle[..., 0], -ankle[..., 2]
  angles |= _hip_angles(_both("hip", frames))
  angles |= _arm_angles(_both("shoulder", frames) @ _HANG)
  return np.stack([angles[name] for name in anatomy.ANGLES], axis=1), root


def _matrix(quaternion: np.ndarray) -> np.ndarray:
  return _AXES @ rotations.quaternion_to_matrix(quaternion) @ _AXES.T


def _both(joint: str, frames: np.ndarray) -> np.ndarray:
  """Turns of left and right as if both were the left: (n, 2, 3, 3)."""
  left, right = (_matrix(frames[:, rows]) for rows in _LIMB_ROWS[joint])
  return np.stack([left, _MIRROR @ right @ _MIRROR], axis=1)


def _hip_angles(turn: np.ndarray) -> dict[str, np.ndarray]:
  thigh = -turn[..., 1]
  return {
    "hip_flexion": np.degrees(np.arctan2(thigh[..., 2], -thigh[..., 1])),
    "hip_abduction": np.degrees(np.arcsin(thigh[..., 0].clip(-1, 1))),
    "hip_twist": _twist_deg(turn, np.array([0.0, -1.0, 0.0])),
  }


def _arm_angles(turn: np.ndarray) -> dict[str, np.ndarray]:
  """Collar and shoulder. The collar follows a third of the arm's rise, as it does."""
  up, ahead = _arm_direction_deg(turn)
  low = np.cos(np.radians(up))
  collar = {
    "collar_elevation": (up / 3).clip(0, anatomy.LIMITS_DEG["collar_elevation"][1]),
    "collar_azimuth": low * (0.2 * (ahead - 30)).clip(-10, 15),
  }
  vector = np.stack(
    [np.zeros_like(up), -collar["collar_azimuth"], collar["collar_elevation"]], axis=-1
  )
  base = rotations.axis_angle_to_matrix(np.radians(vector))
  shoulder = base.swapaxes(-1, -2) @ turn
  up, ahead = _arm_direction_deg(shoulder)
  return collar | {
    "shoulder_elevation": up,
    "shoulder_azimuth": ahead,
    "shoulder_twist": _twist_deg(shoulder, np.array([1.0, 0.0, 0.0])),
  }


def _arm_direction_deg(turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  x, y, z = np.moveaxis(turn[..., 0], -1, 0)
  return np.degrees(np.arcsin(y.clip(-1, 1))), np.degrees(np.arctan2(z, x))


def _twist_deg(turn: np.ndarray, bone: np.ndarray) -> np.ndarray:
  """The turn about a bone that comes before the shortest swing."""
  vector = rotations.matrix_to_axis_angle(turn)
  angle = np.linalg.norm(vector, axis=-1)
  # The quaternion's part along the bone against its real part.
  along = np.sinc(angle / 2 / np.pi) / 2 * (vector @ bone)
  return np.degrees(2 * np.arctan2(along, np.cos(angle / 2)))


def build(clips: dict[str, np.ndarray]) -> motions.Library:
  """The library of all clips, without repetitions."""
  turned_by_clip, roots_by_clip, clip = [], [], []
  for number, frames in enumerate(clips.values()):
    turned, root = retarget(frames)
    turned = anatomy.inside_limits(turned)
    kept = _distinct(features_m(turned, root))
    turned_by_clip.append(turned[kept])
    roots_by_clip.append(root[kept])
    clip.append(np.full(len(kept), number))
  angles, roots = np.concatenate(turned_by_clip), np.concatenate(roots_by_clip)
  return motions.Library(
    angles_deg=angles,
    roots=roots,
    weights=_rarity(features_m(angles, roots)),
    clips=np.concatenate(clip),
    names=tuple(clips),
  )


def features_m(
  angles_deg: Float[np.ndarray, "n a 2"], roots: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 25 3"]:
  """Joints about the pelvis, and which way is up: what makes two frames alike."""
  body = humanoid.load()
  rest = body.joint_regressor @ body.template
  places = anatomy.forward_kinematics(anatomy.angles_to_pose(angles_deg), rest)
  up = UP_M * rotations.axis_angle_to_matrix(roots)[:, 1]
  return np.concatenate([places - places[:, :1], up[:, None]], axis=1)


def _distinct(features: np.ndarray) -> Int[np.ndarray, " k"]:
  """Rows that are not near an earlier one that was kept."""
  kept: list[int] = []
  for row, feature in enumerate(features):
    if not kept or _distance_m(feature, features[kept]).min() > REPEAT_M:
      kept.append(row)
  return np.array(kept)


def _distance_m(one: np.ndarray, others: np.ndarray) -> np.ndarray:
  return np.linalg.norm(others - one, axis=-1).mean(axis=-1)


def _rarity(features: np.ndarray) -> Float[np.ndarray, " n"]:
  """How far a frame's neighbours are, of all clips; the weights sum to one."""
  far = [
    np.partition(_distance_m(f, features), NEIGHBOURS)[NEIGHBOURS] for f in features
  ]
  weight = np.minimum(far, MOST_WEIGHT * np.median(far))
  return weight / weight.sum()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--pybullet", required=True, type=pathlib.Path, help="the wheel")
  parser.add_argument("--output", default=motions.ASSET, type=pathlib.Path)
  arguments = parser.parse_args()
  try:
    clips = read_clips(arguments.pybullet)
  except (OSError, ValueError) as error:
    parser.error(str(error))
  library = build(clips)
  motions.save(library, arguments.output)
  for number, name in enumerate(library.names):
    print(f"{name}: {len(clips[name])} frames, {np.sum(library.clips == number)} kept")
  print(f"{len(library.clips)} frames, {arguments.output.stat().st_size} B")


if __name__ == "__main__":
  main()
