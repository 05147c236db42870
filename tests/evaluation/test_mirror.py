import numpy as np
import pytest

from metro_jax.body import body_model, humanoid
from metro_jax.data import augment
from metro_jax.evaluation import mirror
from tests.fixtures.augmented import augment_pose

# A roof: two vertices on the plane of symmetry, two pairs across.
ROOF_M = np.array(
  [[0, 1, 0], [0, 1, 1], [-1, 0, 0], [1, 0, 0], [-1, 0, 1], [1, 0, 1]], np.float32
)
ROOF_FACES = np.array([[0, 2, 4], [0, 4, 1], [0, 1, 5], [0, 5, 3]], np.int32)
FLIP = augment.Augmentation(1.0, 0.0, True, np.ones(3, np.float32))


def roof(template_m=ROOF_M):
  one = np.ones((1, len(template_m)), np.float32)
  return body_model.BodyModel(
    template=template_m,
    shape_directions=np.zeros((len(template_m), 3, 1), np.float32),
    pose_directions=None,
    joint_regressor=one / len(template_m),
    skin_weights=one.T,
    regressors={},
    faces=ROOF_FACES,
    parents=(-1,),
    name="roof",
  )


def test_symmetric_vertices_change_places():
  found = mirror.find(roof())
  rng = np.random.default_rng(0)
  mirrored = rng.normal(size=(2, 6, 3)).astype(np.float32)
  expected = mirrored[:, [0, 1, 3, 2, 5, 4]] * [-1, 1, 1]
  np.testing.assert_allclose(mirror.unmirrored(found, mirrored), expected, atol=1e-6)


def test_a_body_that_is_not_symmetric_is_refused():
  crooked = ROOF_M + np.float32([[0, 0, 0]] * 5 + [[0, 0.1, 0]])
  with pytest.raises(ValueError, match=r"tta_flip: .* within 1.0 mm, got roof, .* mm"):
    mirror.find(roof(crooked))


@pytest.mark.slow
def test_the_embedded_bodys_mirrored_pose_comes_back_within_a_millimetre():
  body = humanoid.load()
  rng = np.random.default_rng(1)
  pose = (0.25 * rng.normal(size=72)).astype(np.float32)
  shape = rng.normal(size=(1, 10)).astype(np.float32)

  def posed(one):
    return body_model.pose_body(body, one[None].astype(np.float32), shape).vertices

  mirrored = posed(augment_pose(pose, FLIP))
  gap = mirror.unmirrored(mirror.find(body), mirrored) - posed(pose)
  gap_mm = 1000 * np.linalg.norm(gap, axis=-1)
  assert gap_mm.mean() < 0.5 and gap_mm.max() < 10
  assert np.linalg.norm(mirrored - posed(pose), axis=-1).mean() > 0.05
