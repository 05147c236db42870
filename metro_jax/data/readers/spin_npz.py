"""The npz label files that SPIN-style projects share, and BEDLAM's.

Source: label files of SPIN (https://github.com/nkolot/SPIN, fetch_data.sh) and of
        projects that follow it, such as h36m_train.npz, mpi_inf_3dhp_train.npz and
        3dpw_test.npz; of BEDLAM (https://bedlam.is.tue.mpg.de, after registering), the
        files of bedlam-labels-smpl.zip. The pictures come from each dataset's owner:
        Human3.6M (http://vision.imar.ro/human3.6m), MPI-INF-3DHP and MuCo-3DHP
        (https://vcai.mpi-inf.mpg.de), 3DPW, COCO, MPII, UP-3D, BEDLAM.
Run:    python -m metro_jax.prepare --format=spin_npz --source=h36m_train.npz
          --images=Human3.6M/images --name=h36m --split=train
Licence: each dataset's own; Human3.6M, 3DPW, BEDLAM: research only.

One row is one person. Keys, an array with a row for each person:

  imgname         path of the picture in --images (else in the npz file's folder)
  center, scale   middle of the box, its side / 200 pixels
  pose, shape     SMPL's 72 angles, the root turned into the camera, 10 components
  has_smpl        which rows' pose and shape are real; absent: all
  S               (24, 4) metres and confidence, (24, 3) without, in J24's order
  part            (24, 3) pixels and confidence, in J24's order
  gender          m, f, male, female, neutral; absent: neutral

BEDLAM's differ: pose_cam in place of pose, and gtkps, whose first joints are SMPL's: of
these the limbs are 2D labels. Where shape has eleven components they are the neutral
body's. Poses of SMPL-X (of all_npz_12_training.zip; more than 72 angles) are left out
and counted, as they turn another body. Pictures of its scenes named closeup lie on
their side, and are turned as its own code does.

JPEG files are stored as they are, BEDLAM's PNG as JPEG of quality 95.
Nothing in the npz file is executed. Other keys (openpose, maskname, ...) are not read.
Groups are Human3.6M's action, else the picture's folder.
"""

import pathlib

import numpy as np

from metro_jax.body import joints
from metro_jax.data import schema
from metro_jax.data.readers import fields, geometry, groups, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.readers.npz_columns import NpzColumns
from metro_jax.data.schema import Example
from metro_jax.text_files import short

_GENDERS = {
  **dict.fromkeys(("m", "male"), "male"),
  **dict.fromkeys(("f", "female"), "female"),
  **dict.fromkeys(("n", "neutral", ""), "neutral"),
}
# What each column's row must be: one of these shapes.
_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
  "center": ((2,),),
  "scale": ((), (1,)),
  "pose": ((72,), (24, 3)),
  "pose_cam": (),
  "shape": ((10,), (11,), (16,), (300,)),
  "has_smpl": ((), (1,)),
  "S": ((24, 4), (24, 3)),
  "part": ((24, 3),),
  "gtkps": (),
}
_SMPL_JOINTS_OF_GTKPS = 22  # SMPL's and SMPL-X's first joints are the same so far
_NEUTRAL_SHAPES = 11  # components that BEDLAM gives for the neutral body only


def open_reader(source: Source) -> "SpinNpzReader":
  """Opens an npz label file.

  Args:
    source: Uses `source` and `images`.

  Raises:
    ValueError: If it lacks a key or a column has another shape, naming it.
  """
  return SpinNpzReader(source.source, source.images or source.source.parent)


class SpinNpzReader:
  """The rows of an npz label file."""

  def __init__(self, path: pathlib.Path, images: pathlib.Path):
    self.name = f"spin_npz {path}"
    self.labels = schema.BODY
    self.left_out: dict[str, int] = {}
    self._images = images
    columns = self._columns = NpzColumns(path, _SHAPES)
    names = self._names = columns.texts("imgname")
    if not names:
      raise ValueError(f"{path}: expected rows, got none")
    self._genders = self._read_genders(len(names))
    for name in ("center", "scale"):
      if name not in columns:
        raise ValueError(f"{path}: {name}: expected it, got {' '.join(columns.names)}")
    for name, shapes in _SHAPES.items():
      if name in columns:
        _expect(path, name, columns.shape(name), len(names), shapes)
    self._pose = self._find_pose(path)
    self._turns = int("gtkps" in columns and "closeup" in path.stem)

  def __len__(self) -> int:
    return len(self._names)

  def where(self, row: int) -> str:
    """The file and its row, from 0."""
    return f"{self._columns.path.name} row {row}"

  def read(self, row: int) -> Example:
    """Reads a row and its picture.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    name = self._names[row]
    columns = self._columns
    has_mesh = self._has_mesh(row)
    return schema.make_example(
      schema.BODY,
      name,
      pictures.read_named(name, self._images, quarter_turns=self._turns),
      columns.row("center", row),
      columns.row("scale", row).item() * fields.BOX_PX_PER_SCALE,
      joints_2d_px=self._joints_2d(row),
      joints_3d_m=self._joints_3d(row),
      pose=columns.row(self._pose, row).ravel() if has_mesh else None,
      shape=columns.row("shape", row)[: schema.SHAPES] if has_mesh else None,
      gender=self._gender(row),
      group=groups.group_of(name),
    )

  def _has_mesh(self, row: int) -> bool:
    if not self._pose:
      return False
    columns = self._columns
    if "has_smpl" not in columns:
      return True
    return bool((columns.row("has_smpl", row) > 0).any())  # NaN is not known

  def _gender(self, row: int) -> str:
    found = self._genders[row] if self._genders else ""
    if found not in _GENDERS:
      raise ValueError(f"gender: expected m, f or none, got {short(found)}")
    return _GENDERS[found]

  def _joints_2d(self, row: int) -> np.ndarray | None:
    columns = self._columns
    if "part" in columns:
      return _labelled("part", columns.row("part", row))
    if "gtkps" not in columns:
      return None
    limbs = geometry.SMPL_IN_J24
    points = columns.row("gtkps", row)[joints.index(joints.SMPL24, limbs), :2]
    return geometry.place(schema.BODY, limbs, geometry.with_confidence(points))

  def _joints_3d(self, row: int) -> np.ndarray | None:
    if "S" not in self._columns:
      return None
    found = self._columns.row("S", row)
    if found.shape[1] == 3:
      found = geometry.with_confidence(found)
    return _labelled("S", found)

  def _read_genders(self, rows: int) -> list[str]:
    """As they stand, one a row; none where all are neutral."""
    columns = self._columns
    shapes = columns.shape("shape") if "shape" in columns else ()
    if "gender" not in columns.names or shapes[1:] == (_NEUTRAL_SHAPES,):
      return []
    where, found = f"{columns.path}: gender", columns.texts("gender")
    unknown = [name for name in found if name not in _GENDERS]
    # A few are bad rows; half of them are another way to write it.
    if len(found) != rows or 2 * len(unknown) >= rows:
      raise ValueError(
        f"{where}: expected {rows} of m and f, got {sorted(set(unknown))[:3]}"
      )
    return found

  def _find_pose(self, path: pathlib.Path) -> str:
    """The column of the poses, or "" if there are none of SMPL."""
    columns = self._columns
    name = "pose" if "pose" in columns else "pose_cam" if "pose_cam" in columns else ""
    if name and "shape" not in columns:
      raise ValueError(f"{path}: shape: expected it, as there is {name}")
    if name and int(np.prod(columns.shape(name)[1:])) != 3 * len(joints.SMPL24):
      self.left_out = {"poses of another body than SMPL": len(self)}
      return ""
    return name


def _labelled(name: str, points: np.ndarray) -> np.ndarray | None:
  """Joints with confidences up to 1, or None if none is known."""
  points = fields.known(name, points, schema.BODY.joints)
  points[:, -1] = points[:, -1].clip(0, 1)
  return points if (points[:, -1] > 0).any() else None


def _expect(
  path: pathlib.Path,
  name: str,
  found: tuple[int, ...],
  rows: int,
  shapes: tuple[tuple[int, ...], ...],
) -> None:
  """Checks a column's shape; of gtkps and pose_cam, what all of them have."""
  if name == "gtkps":
    fits = len(found) == 3 and found[1] >= _SMPL_JOINTS_OF_GTKPS and found[2] in (2, 3)
    expected = f"at least {_SMPL_JOINTS_OF_GTKPS} joints, x and y"
  else:
    fits = not shapes or found[1:] in shapes
    expected = " or ".join(str((rows, *shape)) for shape in shapes)
  if found[0] != rows or not fits:
    raise ValueError(f"{path}: {name}: expected {expected or rows}, got {found}")
