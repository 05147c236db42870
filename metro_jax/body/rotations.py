"""Rotations: axis-angle to matrix and back, on NumPy and JAX arrays alike."""

from typing import Any

from jaxtyping import Float

Array = Any  # np.ndarray or jax.Array; the result is of the same kind


def axis_angle_to_matrix(axis_angle: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
  """Rotation matrices of axis-angle vectors.

  The angle is the norm of the vector shifted by 1e-8 a component, which keeps the
  gradient finite at zero; the way leads through a unit quaternion.

  Args:
    axis_angle: Axis times angle, radians.

  Returns:
    Matrices that rotate column vectors.

  Source: original code, metro/modeling/_smpl.py rodrigues.
  """
  xp = axis_angle.__array_namespace__()
  angle = xp.linalg.norm(axis_angle + 1e-8, axis=-1, keepdims=True)
  axis = axis_angle / angle
  quaternion = xp.concatenate([xp.cos(angle / 2), xp.sin(angle / 2) * axis], axis=-1)
  return quaternion_to_matrix(quaternion)


def quaternion_to_matrix(quaternion: Float[Array, "*n 4"]) -> Float[Array, "*n 3 3"]:
  """Rotation matrices of quaternions (w, x, y, z), which need not have norm 1."""
  xp = quaternion.__array_namespace__()
  quaternion = quaternion / xp.linalg.norm(quaternion, axis=-1, keepdims=True)
  w, x, y, z = (quaternion[..., i] for i in range(4))
  ww, xx, yy, zz = w * w, x * x, y * y, z * z
  rows = [
    [ww + xx - yy - zz, 2 * (x * y - w * z), 2 * (w * y + x * z)],
    [2 * (w * z + x * y), ww - xx + yy - zz, 2 * (y * z - w * x)],
    [2 * (x * z - w * y), 2 * (w * x + y * z), ww - xx - yy + zz],
  ]
  return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_axis_angle(matrix: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3"]:
  """Axis-angle vectors of rotation matrices, with angles in [0, pi].

  The quaternion is read from the row of q qᵀ that holds its largest component, so
  that no angle, pi included, divides by a small number.

  Args:
    matrix: Rotation matrices.

  Returns:
    Axis times angle, radians.

  Source: Shepperd, "Quaternion from rotation matrix", Journal of Guidance and
    Control, 1978.
  """
  xp = matrix.__array_namespace__()
  quaternion = matrix_to_quaternion(matrix)
  w, vector = quaternion[..., :1], quaternion[..., 1:]
  vector = xp.where(w < 0, -vector, vector)
  sine = xp.linalg.norm(vector, axis=-1, keepdims=True)
  angle = 2 * xp.arctan2(sine, xp.abs(w))
  small = sine < 1e-8
  return vector * xp.where(small, 2.0, angle / xp.where(small, 1.0, sine))


def matrix_to_quaternion(matrix: Float[Array, "*n 3 3"]) -> Float[Array, "*n 4"]:
  """Unit quaternions (w, x, y, z) of rotation matrices; of q and -q either."""
  xp = matrix.__array_namespace__()
  m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
  trace = m[0][0] + m[1][1] + m[2][2]
  antisymmetric = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]]
  rows = [[1 + trace, *antisymmetric]]
  for i in range(3):
    row = [m[i][j] + m[j][i] for j in range(3)]
    row[i] = 1 - trace + 2 * m[i][i]
    rows.append([antisymmetric[i], *row])
  products = xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
  diagonal = xp.stack([rows[i][i] for i in range(4)], axis=-1)
  largest = xp.argmax(diagonal, axis=-1)[..., None, None]
  row = xp.take_along_axis(products, largest, axis=-2)[..., 0, :]
  return row / xp.linalg.norm(row, axis=-1, keepdims=True)


def nearest_rotation(
  matrix: Float[Array, "*n 3 3"], proper: bool = True
) -> Float[Array, "*n 3 3"]:
  """Finds the rotations R that maximise tr(Rᵀ M).

  M = U S Vᵀ, Z = diag(1, 1, det(U Vᵀ)): R = U Z Vᵀ. With M = Σ_i q_i p_iᵀ of centred
  points, R is the best turn of the p_i to the q_i.

  Args:
    matrix: M.
    proper: Whether mirror images are refused; Z is the identity otherwise.

  Returns:
    Matrices that turn column vectors.

  Source: Kabsch, "A solution for the best rotation to relate two sets of vectors",
    Acta Crystallographica, 1976.
  """
  xp = matrix.__array_namespace__()
  u, _, vt = xp.linalg.svd(matrix)
  if proper:
    hand = xp.sign(_determinant(u) * _determinant(vt))
    u = xp.concatenate([u[..., :2], u[..., 2:] * hand[..., None, None]], axis=-1)
  return xp.einsum("...ij,...jk->...ik", u, vt)


def _determinant(m: Float[Array, "*n 3 3"]) -> Float[Array, "*n"]:
  """By the rule of Sarrus; needs no matrix decomposition on the device."""
  xp = m.__array_namespace__()
  return (m[..., 0, :] * xp.cross(m[..., 1, :], m[..., 2, :])).sum(-1)
