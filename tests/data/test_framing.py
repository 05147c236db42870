"""The turned square: worked out by hand, and back again."""

import numpy as np
import pytest

from metro_jax.body import camera, joints
from metro_jax.data import augment, framing
from metro_jax.data.exact_crop import Crop
from metro_jax.data.framing import Frame

# Standing: shoulders at y = 20, hips at 50, head at 5, ankles at 100.
STANDING_PX = np.array(
  [
    [44, 100],  # ankle, knee, hip of the right; hip, knee, ankle of the left
    [45, 75],
    [46, 50],
    [54, 50],
    [55, 75],
    [56, 100],
    [30, 60],  # wrist, elbow, shoulder of the right; shoulder, elbow, wrist
    [34, 40],
    [42, 20],
    [58, 20],
    [66, 40],
    [70, 60],
    [50, 15],  # neck, top of the head
    [50, 5],
  ],
  float,
)


def turned(points, degrees, about=(50.0, 50.0)):
  """By complex numbers: positive turns from right towards down."""
  z = (points - about) @ [1, 1j] * np.exp(1j * np.radians(degrees))
  return np.stack([z.real, z.imag], axis=1) + about


def test_an_upright_person_is_not_turned_and_lies_in_the_middle():
  frame = framing.upright(STANDING_PX)
  assert frame.rotation_rad == pytest.approx(0, abs=1e-12)
  np.testing.assert_allclose(frame.center_px, [50, 52.5])
  assert frame.side_px == pytest.approx(1.25 * 95)


@pytest.mark.parametrize("degrees", [-170, -90, -35, 20, 120])
def test_a_person_that_is_turned_is_turned_back(degrees):
  frame = framing.upright(turned(STANDING_PX, degrees))
  assert np.degrees(frame.rotation_rad) == pytest.approx(-degrees)
  assert frame.side_px == pytest.approx(1.25 * 95)
  middle = turned(np.array([[50, 52.5]]), degrees)[0]
  np.testing.assert_allclose(frame.center_px, middle, atol=1e-9)


def test_somebody_curled_up_is_not_seen_from_too_near():
  curled = STANDING_PX.copy()
  curled[:2], curled[4:8], curled[10:] = [50, 40], [50, 40], [50, 40]
  assert framing.upright(curled).side_px == pytest.approx(1.6 * 30)


def test_one_point_for_all_joints_still_makes_a_square():
  frame = framing.upright(np.full((14, 2), 7.0))
  assert frame.side_px == 1.0 and np.isfinite(frame.rotation_rad)


def test_what_is_turned_back_lands_on_the_same_pixels():
  rng = np.random.default_rng(0)
  points_m = rng.normal(size=(9, 3))
  weak = np.array([0.8, 0.1, -0.2])
  frame = Frame(np.array([300.0, 220.0]), 180.0, 0.7)
  box = Frame(np.array([310.0, 240.0]), 260.0, 0.0)
  crop = weak[0] * (points_m[:, :2] + weak[1:])
  # Crop to picture by the inverse of the very map that cuts the picture out.
  affine = Crop(frame.center_px, frame.side_px, 64, rotation_rad=0.7).affine()
  px = np.linalg.solve(affine[:, :2], ((crop + 1) * 32 - affine[:, 2]).T).T
  back_m, told = framing.turn_back(points_m, weak, frame, box)
  seen = camera.weak_perspective(back_m, told)
  np.testing.assert_allclose(
    camera.crop_to_pixels(seen, box.center_px, np.array(box.side_px)), px, atol=1e-9
  )
  np.testing.assert_allclose(
    np.linalg.norm(back_m, axis=1), np.linalg.norm(points_m, axis=1)
  )
  np.testing.assert_array_equal(back_m[:, 2], points_m[:, 2])


def example(points_px):
  placed = np.zeros((24, 3), np.float32)
  placed[joints.J14_FROM_J24, :2], placed[joints.J14_FROM_J24, 2] = points_px, 1
  return {
    "joints_2d_px": placed,
    "has_joints_2d": True,
    "center_px": np.array([50, 50], np.float32),
    "box_px": np.float32(110),
  }


@pytest.mark.parametrize("flip", [False, True])
def test_second_views_stand_upright_whatever_the_picture_and_the_mirror(
  flip, monkeypatch
):
  monkeypatch.setattr(framing, "ANY_TURN", 0.0)
  person = example(turned(STANDING_PX, 70))
  seconds = 0
  for n in range(200):
    rng = np.random.default_rng(n)
    given = augment.identity()._replace(flip=flip)
    changed, augmentation = framing.train_view(rng, person, given)
    affine = augment.crop_of(changed, augmentation, 64).affine()
    seen = person["joints_2d_px"][joints.J14_FROM_J24, :2] @ affine[:, :2].T
    up = seen[[8, 9]].mean(0) - seen[[2, 3]].mean(0)
    lean = np.degrees(np.arctan2(up[0], -up[1]))
    if abs(abs(lean) - 70) > 40:
      seconds += 1
      assert abs(lean) < 45
  assert 95 < seconds < 145  # 0.6 of 200


def test_a_first_view_may_show_people_at_any_angle(monkeypatch):
  monkeypatch.setattr(framing, "FIRST_PASSES", 1.0)
  person = example(STANDING_PX)
  leans = []
  for n in range(1_000):
    rng, given = np.random.default_rng(n), augment.identity()
    changed, augmentation = framing.train_view(rng, person, given)
    affine = augment.crop_of(changed, augmentation, 64).affine()
    seen = person["joints_2d_px"][joints.J14_FROM_J24, :2] @ affine[:, :2].T
    up = seen[[8, 9]].mean(0) - seen[[2, 3]].mean(0)
    leans.append(np.degrees(np.arctan2(up[0], -up[1])))
  quarters = np.histogram(leans, [-180, -135, -45, 45, 135, 180])[0] / 1_000
  # 0.4 turn by any angle, 0.6 lean a little: 0.1 in each quarter that is not up.
  assert 0.06 < quarters[1] < 0.14 and 0.06 < quarters[3] < 0.14
  assert 0.06 < quarters[0] + quarters[4] < 0.14


def test_views_of_an_example_whose_joints_are_not_all_known_keep_its_box():
  person = example(STANDING_PX)
  person["joints_2d_px"][joints.J14_FROM_J24[3], 2] = 0
  given = augment.identity()._replace(scale=1.3)
  changed, augmentation = framing.train_view(np.random.default_rng(0), person, given)
  assert changed is person and augmentation is given
