"""Flips of bodies built as SMPL's are: 6890 vertices in pairs, 24 joints in pairs.

SMPL's own file is licensed; what stands in for it here is a made body of the same
counts, joint tree and blend shapes that is symmetric to the bit.
"""

import numpy as np
import pytest

from metro_jax.body import body_model, joints
from metro_jax.data import augment
from metro_jax.evaluation import mirror, tta
from metro_jax.models.setup import Geometry

ROWS, COLUMNS = 65, 53  # of each side: 2 * 65 * 53 = 6890
VERTICES = 2 * ROWS * COLUMNS
FLIP_M = np.array([-1.0, 1.0, 1.0])
FLIP = augment.Augmentation(1.0, 0.0, True, np.ones(3, np.float32))
RNG = np.random.default_rng(5)
# Which vertex lies across: those of the two sides, in an order without a pattern.
ORDER = RNG.permutation(VERTICES)
ACROSS = np.empty(VERTICES, np.int64)
ACROSS[ORDER] = ORDER[(np.arange(VERTICES) + VERTICES // 2) % VERTICES]


def surface() -> tuple[np.ndarray, np.ndarray]:
  """A spindle in two halves that do not touch: vertices and triangles."""
  turn, height = np.meshgrid(
    np.linspace(0.1, np.pi - 0.1, COLUMNS), np.linspace(-1.2, 0.5, ROWS)
  )
  wide = 0.35 * np.cos(0.9 * (height + 0.35))
  left = np.stack([wide * np.sin(turn), height, 0.5 * wide * np.cos(turn)], -1)
  left = left.reshape(-1, 3) + 0.004 * RNG.random((ROWS * COLUMNS, 3))
  first = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
  a, b = first[:-1, :-1].ravel(), first[:-1, 1:].ravel()
  c, d = first[1:, :-1].ravel(), first[1:, 1:].ravel()
  faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
  right = faces[:, ::-1] + ROWS * COLUMNS
  vertices = np.empty((VERTICES, 3))
  vertices[ORDER] = np.concatenate([left, left * FLIP_M])
  return vertices, ORDER[np.concatenate([faces, right])].astype(np.int32)


def regressor(names: tuple[str, ...]) -> np.ndarray:
  """Joints from twenty vertices each, with the same weights on both sides."""
  rows = np.zeros((len(names), VERTICES))
  for row in rows:
    row[RNG.choice(VERTICES, 20, replace=False)] = RNG.random(20)
  rows += rows[joints.flip_permutation(names)][:, ACROSS]
  return rows / rows.sum(1, keepdims=True)


def symmetric_body() -> body_model.BodyModel:
  template, faces = surface()
  swap = joints.flip_permutation(joints.SMPL24)
  weights = RNG.random((VERTICES, 24)) ** 8
  weights += weights[ACROSS][:, swap]
  shapes = 0.02 * RNG.normal(size=(VERTICES, 3, 10))
  shapes += shapes[ACROSS] * FLIP_M[:, None]
  # An entry (a, b) of a mirrored rotation F R F changes sign if one of them is x.
  poses = 0.002 * RNG.normal(size=(VERTICES, 3, 23, 3, 3))
  mirrored = poses[ACROSS][:, :, swap[1:] - 1] * np.outer(FLIP_M, FLIP_M)
  poses += mirrored * FLIP_M[:, None, None, None]
  return body_model.BodyModel(
    template=template.astype(np.float32),
    shape_directions=shapes.astype(np.float32),
    pose_directions=poses.reshape(VERTICES, 3, 207).astype(np.float32),
    joint_regressor=regressor(joints.SMPL24).astype(np.float32),
    skin_weights=(weights / weights.sum(1, keepdims=True)).astype(np.float32),
    regressors={
      "h36m": regressor(joints.H36M17).astype(np.float32),
      "j24": regressor(joints.J24).astype(np.float32),
    },
    faces=faces,
    parents=joints.SMPL24_PARENTS,
    name="smpl",
  )


@pytest.fixture(scope="module")
def body():
  return symmetric_body()


@pytest.fixture(scope="module")
def found(body):
  return mirror.find(body)


@pytest.fixture(scope="module")
def posed(body):
  """A body in a lopsided pose, and the same one in a mirror."""
  pose = (0.3 * RNG.normal(size=72)).astype(np.float32)
  shape = RNG.normal(size=(1, 10)).astype(np.float32)

  def vertices(one: np.ndarray) -> np.ndarray:
    return body_model.pose_body(body, one[None].astype(np.float32), shape).vertices

  return vertices(pose), vertices(augment.augment_pose(pose, FLIP))


def test_every_vertex_finds_its_partner_and_its_partner_finds_it(found):
  best = found.weights.argmax(1)
  pairs = np.take_along_axis(found.corners, best[:, None], 1)[:, 0]
  np.testing.assert_array_equal(pairs, ACROSS)
  np.testing.assert_array_equal(pairs[pairs], np.arange(VERTICES))
  np.testing.assert_allclose(found.weights.max(1), 1, atol=1e-4)


def test_mirroring_back_twice_changes_nothing(found, posed):
  once = mirror.unmirrored(found, posed[0])
  assert np.linalg.norm(once - posed[0], axis=-1).mean() > 0.05
  np.testing.assert_allclose(mirror.unmirrored(found, once), posed[0], atol=2e-5)


def test_the_mesh_of_a_mirrored_pose_is_the_mirrored_mesh(found, posed):
  original, mirrored = posed
  expected = original[:, ACROSS] * FLIP_M.astype(np.float32)
  np.testing.assert_allclose(mirrored, expected, atol=1e-5)
  np.testing.assert_allclose(mirror.unmirrored(found, mirrored), original, atol=2e-5)


@pytest.mark.parametrize("names", [joints.J24, joints.H36M17, joints.SMPL24])
def test_pairs_of_joints_are_an_involution_that_keeps_the_middle(names):
  swap = joints.flip_permutation(names)
  np.testing.assert_array_equal(swap[swap], np.arange(len(names)))
  other = str.maketrans("LR", "RL")
  for here, there in zip(names, np.array(names)[swap], strict=True):
    sided = here[:2] in ("L_", "R_")
    assert there == (here[:1].translate(other) + here[1:] if sided else here)


@pytest.mark.parametrize(
  ("kind", "names"), [("j24", joints.J24), ("h36m", joints.H36M17)]
)
def test_joints_of_the_mirrored_mesh_are_the_other_sides(body, posed, kind, names):
  ours, theirs = (
    body_model.regress_joints(body.regressors[kind], mesh) for mesh in posed
  )
  swap = joints.flip_permutation(names)
  np.testing.assert_allclose(theirs, ours[:, swap] * FLIP_M, atol=1e-5)


def test_a_mirrored_view_that_is_right_changes_neither_mesh_nor_joints(
  body, found, posed
):
  views = tta.Views((augment.identity(), FLIP), found, first_twice=False)
  regress = body.regressors["h36m"][joints.J14_FROM_H36M]
  geometry = Geometry(body, None, ())
  seen = np.stack(posed, axis=1)  # (1, 2, v, 3)
  vertices_m, joints_m = tta.average(seen, views, geometry)
  np.testing.assert_allclose(vertices_m, posed[0], atol=2e-5)
  expected = body_model.regress_joints(regress, posed[0])
  np.testing.assert_allclose(joints_m, expected, atol=2e-5)
