"""Joint sets by name, and everything derived from the names.

A joint set is a tuple of names in order. Maps between sets, left-right swaps and
the lines of a stick figure are looked up by name, never written as numbers.

Source: names and orders of the original code (metro/modeling/_smpl.py, _mano.py).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int


def _names(text: str) -> tuple[str, ...]:
  return tuple(text.split())


SMPL24 = _names("""
  Pelvis L_Hip R_Hip Spine1 L_Knee R_Knee Spine2 L_Ankle R_Ankle Spine3 L_Foot R_Foot
  Neck L_Collar R_Collar Head L_Shoulder R_Shoulder L_Elbow R_Elbow L_Wrist R_Wrist
  L_Hand R_Hand""")
SMPL24_PARENTS = (
  *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8),
  *(9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
)
J24 = _names("""
  R_Ankle R_Knee R_Hip L_Hip L_Knee L_Ankle R_Wrist R_Elbow R_Shoulder L_Shoulder
  L_Elbow L_Wrist Neck Top_of_Head Pelvis Thorax Spine Jaw Head Nose L_Eye R_Eye
  L_Ear R_Ear""")
# Rows of J_regressor_extra.npy. A name that is also SMPL's means this row in J24.
EXTRA14 = (
  *("Nose", "R_Eye", "L_Eye", "R_Ear", "L_Ear", "R_Hip", "L_Hip", "Neck"),
  *("Top_of_Head", "Pelvis", "Thorax", "Spine", "Jaw", "Head"),
)
H36M17 = _names("""
  Pelvis R_Hip R_Knee R_Ankle L_Hip L_Knee L_Ankle Torso Neck Nose Head L_Shoulder
  L_Elbow L_Wrist R_Shoulder R_Elbow R_Wrist""")
J14 = _names("""
  R_Ankle R_Knee R_Hip L_Hip L_Knee L_Ankle R_Wrist R_Elbow R_Shoulder L_Shoulder
  L_Elbow L_Wrist Neck Head""")
HAND21 = _names("""
  Wrist Thumb_1 Thumb_2 Thumb_3 Thumb_4 Index_1 Index_2 Index_3 Index_4 Middle_1
  Middle_2 Middle_3 Middle_4 Ring_1 Ring_2 Ring_3 Ring_4 Pinky_1 Pinky_2 Pinky_3
  Pinky_4""")

MANO16 = _names("""
  Wrist Index_1 Index_2 Index_3 Middle_1 Middle_2 Middle_3 Pinky_1 Pinky_2 Pinky_3
  Ring_1 Ring_2 Ring_3 Thumb_1 Thumb_2 Thumb_3""")
MANO16_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# The lines of a stick figure. A set draws those whose two ends it has.
BONES = (
  *(("Head", "Neck"), ("Neck", "R_Shoulder"), ("Neck", "L_Shoulder")),
  *(("R_Shoulder", "R_Elbow"), ("R_Elbow", "R_Wrist")),
  *(("L_Shoulder", "L_Elbow"), ("L_Elbow", "L_Wrist")),
  *(("R_Shoulder", "R_Hip"), ("L_Shoulder", "L_Hip"), ("R_Hip", "L_Hip")),
  *(("R_Hip", "R_Knee"), ("R_Knee", "R_Ankle")),
  *(("L_Hip", "L_Knee"), ("L_Knee", "L_Ankle")),
  *(
    (f"{finger}_{i}" if i else "Wrist", f"{finger}_{i + 1}")
    for finger in ("Thumb", "Index", "Middle", "Ring", "Pinky")
    for i in range(4)
  ),
)


def index(
  names_from: Sequence[str], names_wanted: Iterable[str]
) -> Int[np.ndarray, " j"]:
  """Where each wanted joint stands in another set.

  joints_wanted = joints_from[..., index(names_from, names_wanted), :]

  Args:
    names_from: The joint set to read from.
    names_wanted: The joints to find, in the order wanted.

  Returns:
    One index into `names_from` per wanted name.

  Raises:
    ValueError: If a wanted name is not in the set.
  """
  position = {name: i for i, name in enumerate(names_from)}
  wanted = list(names_wanted)
  missing = [name for name in wanted if name not in position]
  if missing:
    raise ValueError(
      f"joints.index: expected names among {' '.join(names_from)}, "
      f"got {' '.join(missing)}"
    )
  return np.array([position[name] for name in wanted], np.int32).reshape(-1)


def flip_permutation(names: Sequence[str]) -> Int[np.ndarray, " j"]:
  """The order of the joints after a left-right mirror: L_ and R_ names swapped.

  Args:
    names: A joint set; each L_ name needs its R_ partner and the reverse.

  Returns:
    Indices p with mirrored = joints[..., p, :]; p is its own inverse.

  Raises:
    ValueError: If a left or right joint has no partner in the set.
  """
  other = {"L_": "R_", "R_": "L_"}
  return index(names, (other.get(n[:2], n[:2]) + n[2:] for n in names))


def bones(names: Sequence[str]) -> Int[np.ndarray, "e 2"]:
  """The lines of `BONES` that a joint set can draw, as pairs of its indices."""
  here = set(names)
  edges = [index(names, pair) for pair in BONES if here.issuperset(pair)]
  return np.array(edges, np.int32).reshape(-1, 2)


J14_FROM_J24 = index(J24, J14)
J14_FROM_H36M = index(H36M17, J14)
PELVIS = H36M17.index("Pelvis")  # what meshes and templates are centred on
WRIST = HAND21.index("Wrist")  # and those of a hand
