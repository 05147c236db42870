"""What one stored example holds, and how it is made and checked.

Every dataset builder writes `Example`s; labels that a source lacks are zeros and
their flag is False. The pipeline turns them into batches (batch.py). Bodies and hands
differ only in their `LabelSet`. Nothing here loads JAX, so that the processes that read
datasets start fast and stay small.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from metro_jax.body import joints

SHAPES = 10  # shape components
_WITH_CONFIDENCE = ("joints_2d_px", "joints_3d_m")
# Finite numbers that no label holds are beyond; joints beyond 100 m are millimetres.
_LARGEST = {"joints_2d_px": 1e5, "joints_3d_m": 100.0, "pose": 100.0, "shape": 100.0}
_FLAGGED = {
  "has_joints_2d": ("joints_2d_px",),
  "has_joints_3d": ("joints_3d_m",),
  "has_mesh": ("pose", "shape"),
}
FLAGS = tuple(_FLAGGED)
GENDERS = ("neutral", "male", "female")  # an example's `gender` is an index


class LabelSet(NamedTuple):
  """What a kind of dataset labels: which joints, and which tree of rotations."""

  name: str
  joints: tuple[str, ...]
  tree: tuple[str, ...]  # three numbers of a pose each


BODY = LabelSet("body", joints.J24, joints.SMPL24)
HAND = LabelSet("hand", joints.HAND21, joints.MANO16)


def labels_of(body_model: str) -> LabelSet:
  """The labels that the body of `config.body.model` is trained on."""
  return HAND if body_model == "mano" else BODY


class Example(TypedDict):
  """One person or hand in one picture, as stored.

  The camera frame is x right, y down, z away from the camera. Joints j and the pose's
  3 t numbers are those of a `LabelSet`: 24 and 72 of a body, 21 and 48 of a hand.
  """

  key: str  # names the record: "<split>/<number>" or the source's own name
  image: bytes  # JPEG, RGB
  center_px: np.ndarray  # (2,) float32, middle of the person's box; x, y
  box_px: np.float32  # side of the person's square box
  joints_2d_px: np.ndarray  # (j, 3) float32, x, y in image pixels, confidence 0..1
  joints_3d_m: np.ndarray  # (j, 4) float32, metres, confidence 0..1
  pose: (
    np.ndarray
  )  # (3 t,) float32, axis-angle, radians; the root turns into the camera
  shape: np.ndarray  # (10,) float32, in standard deviations
  camera: np.ndarray  # (3,) float32, s, tx, ty in the box's [-1, 1]; NaN if unknown
  has_joints_2d: np.bool_
  has_joints_3d: np.bool_
  has_mesh: np.bool_  # pose and shape are known
  gender: NotRequired[np.int32]  # of the SMPL that pose and shape are for; neutral
  group: NotRequired[str]  # action, sequence or subject, for tables of errors; ""


def make_example(
  labels: LabelSet,
  key: str,
  image: bytes,
  center_px: Any,
  box_px: float | int | np.number,
  *,
  joints_2d_px: Any = None,
  joints_3d_m: Any = None,
  pose: Any = None,
  shape: Any = None,
  camera: Any = None,
  gender: str = "neutral",
  group: str = "",
) -> Example:
  """An example from the labels that a source has; the others are zeros, flags False.

  The numbers have the right shapes; `check_example` tells whether they can be.

  Args:
    labels: Of a body or a hand.
    key: Names the record.
    image: A JPEG file's bytes, as they are.
    center_px: (2,) middle of the box, x, y.
    box_px: Side of the box.
    joints_2d_px: (j, 3) pixels and confidence, or None.
    joints_3d_m: (j, 4) metres, camera frame, and confidence, or None.
    pose: (3 t,) axis-angle; has_mesh needs it and the shape.
    shape: (10,) components.
    camera: (3,) or None.
    gender: Of the body that pose and shape are for.
    group: Action, sequence or subject.

  Raises:
    ValueError: Naming the field, what was expected and what came.
  """
  count, rotations = len(labels.joints), 3 * len(labels.tree)
  if gender not in GENDERS:
    raise ValueError(f"gender: expected one of {', '.join(GENDERS)}, got {gender!r}")
  if (pose is None) != (shape is None):
    missing = "pose" if pose is None else "shape"
    raise ValueError(f"{missing}: expected pose and shape together, got one of them")
  with np.errstate(over="ignore"):  # a number too large becomes infinite: refused
    return Example(
      key=key,
      image=image,
      center_px=_floats("center_px", center_px, (2,)),
      box_px=np.float32(_floats("box_px", box_px, ())),
      joints_2d_px=_floats("joints_2d_px", joints_2d_px, (count, 3)),
      joints_3d_m=_floats("joints_3d_m", joints_3d_m, (count, 4)),
      pose=_floats("pose", pose, (rotations,)),
      shape=_floats("shape", shape, (SHAPES,)),
      camera=_floats("camera", [np.nan] * 3 if camera is None else camera, (3,)),
      has_joints_2d=np.bool_(joints_2d_px is not None),
      has_joints_3d=np.bool_(joints_3d_m is not None),
      has_mesh=np.bool_(pose is not None),
      gender=np.int32(GENDERS.index(gender)),
      group=group,
    )


def _floats(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
  if values is None:
    return np.zeros(shape, np.float32)
  try:
    found = np.asarray(values, np.float32)
  except (TypeError, ValueError, OverflowError) as error:
    raise ValueError(f"{name}: expected numbers {shape}, got others") from error
  if found.shape != shape:
    raise ValueError(f"{name}: expected shape {shape}, got {found.shape}")
  return found


def flags(example: Mapping[str, Any]) -> dict[str, bool]:
  """Returns which labels an example has, by flag."""
  return {name: bool(example[name]) for name in FLAGS}


def check_example(example: Mapping[str, Any], labels: LabelSet = BODY) -> None:
  """Checks that an example holds what `Example` says, except for its pixels.

  A joint without confidence may be anywhere. A build checks all that it stores, and
  what is stored is trusted.

  Args:
    example: As a reader made it.
    labels: Of a body or a hand.

  Raises:
    ValueError: Naming the field, what was expected and what came.
  """
  shapes = example_shapes(labels)
  missing = [name for name in ("key", "image", *shapes) if name not in example]
  if missing:
    raise ValueError(f"expected the field {missing[0]}, got {sorted(example)}")
  for name, shape in shapes.items():
    _expect_numbers(name, np.asarray(example[name]), shape)
  for name in _WITH_CONFIDENCE:
    confidence = np.asarray(example[name])[:, -1]
    if confidence.min() < 0 or confidence.max() > 1:
      worst = confidence[np.argmax(np.abs(confidence - 0.5))]
      raise ValueError(f"{name}: expected confidences 0 to 1, got {worst}")
  if example["box_px"] <= 0:
    raise ValueError(f"box_px: expected a positive side, got {example['box_px']}")
  for flag, names in _FLAGGED.items():
    for name in names if example[flag] else ():
      _expect_small(name, np.asarray(example[name]))


def _expect_numbers(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
  if value.shape != shape:
    raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
  if value.dtype.kind not in "fiub":
    raise ValueError(f"{name}: expected numbers, got {value.dtype}")
  if name != "camera" and not np.isfinite(value).all():
    place = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
    bad = f"{value[place]} at {list(place)}"
    raise ValueError(f"{name}: expected finite numbers, got {bad}")


def _expect_small(name: str, values: np.ndarray) -> None:
  if name in _WITH_CONFIDENCE:
    values = values[values[:, -1] > 0, :-1]
  largest = np.abs(values).max(initial=0)
  if not largest <= _LARGEST[name]:
    limit = _LARGEST[name]
    raise ValueError(f"{name}: expected numbers up to {limit:g}, got {largest:g}")


def example_shapes(labels: LabelSet) -> dict[str, tuple[int, ...]]:
  """Shapes of the numbers that every example has."""
  count = len(labels.joints)
  return {
    "center_px": (2,),
    "box_px": (),
    "joints_2d_px": (count, 3),
    "joints_3d_m": (count, 4),
    "pose": (3 * len(labels.tree),),
    "shape": (SHAPES,),
    "camera": (3,),
    "has_joints_2d": (),
    "has_joints_3d": (),
    "has_mesh": (),
  }
