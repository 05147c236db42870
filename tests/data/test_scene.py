"""One synthetic example: its labels fit its picture, and it depends on its row only."""

import cv2
import numpy as np
import pytest

from metro_jax.body import body_model, camera, humanoid, joints, rotations
from metro_jax.data.builders.synthetic import appearance, backdrop, scene

PX = 96
SETTINGS = scene.Settings(
  seed=3, image_px=PX, share_2d_only=0.0, occluder_probability=0.0, clutter=1.0
)
LIMBS = joints.index(joints.J24, ("R_Knee", "L_Knee", "R_Elbow", "L_Elbow", "Spine"))


@pytest.fixture(scope="module")
def stage():
  return scene.make_stage(humanoid.load())


@pytest.fixture(scope="module")
def examples(stage):
  return [scene.draw_example(stage, SETTINGS, "train", i) for i in range(12)]


def alone(stage, index):
  """A person on nothing, with the view; coverage is the picture's last channel."""
  rng = scene.example_rng(7, "test", index)
  person = scene.sample_person(rng, stage)
  view = scene.sample_view(rng, person.vertices_m, PX)
  outfit, light = appearance.sample_outfit(rng), appearance.sample_light(rng)
  return person, view, scene.draw_body(stage, person, view, outfit, light, PX)


def test_an_example_is_a_function_of_seed_split_and_row(stage, examples):
  again = scene.draw_example(stage, SETTINGS, "train", 5)
  for name, value in examples[5].items():
    np.testing.assert_array_equal(again[name], value)
  assert again["key"] == "train/5"
  others = [
    scene.draw_example(stage, SETTINGS, "test", 5),
    scene.draw_example(stage, SETTINGS, "train", 6),
    scene.draw_example(stage, SETTINGS._replace(seed=4), "train", 5),
  ]
  for other in others:
    assert not np.allclose(other["shape"], again["shape"])
    assert other["image"] != again["image"]


@pytest.mark.parametrize(
  ("row", "root", "left_knee", "camera_seen", "brightness"),
  [
    (0, (-1.83097, 0.74879, -2.03234), 0.0, (1.10747, -0.15831, -0.08589), 151.09),
    (5, (-2.81611, -0.00493, -1.20455), 0.47343, (1.02365, -0.0351, -0.03537), 75.21),
    (9, (-2.23413, -0.0976, -1.78673), 0.72211, (1.31636, 0.01037, -0.01657), 107.66),
  ],
)
def test_pictures_of_stances_stay_what_they_were(
  examples, row, root, left_knee, camera_seen, brightness
):
  """Values of version 1.0.0 of the dataset."""
  example = examples[row]
  np.testing.assert_allclose(example["pose"][:3], root, atol=2e-5)
  np.testing.assert_allclose(example["pose"][12], left_knee, atol=2e-5)
  np.testing.assert_allclose(example["camera"], camera_seen, atol=2e-5)
  picture = cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_COLOR)
  assert picture.mean() == pytest.approx(brightness, abs=0.2)


def test_pose_and_shape_pose_the_body_to_the_joints_and_the_camera_projects_them(
  stage, examples
):
  for example in examples:
    posed = body_model.pose_body(
      stage.body, example["pose"][None], example["shape"][None]
    )
    places = stage.body.regressors["j24"] @ posed.vertices[0]
    np.testing.assert_allclose(example["joints_3d_m"][:, :3], places, atol=1e-5)
    s, tx, ty = example["camera"]
    crop = s * (places[:, :2] + np.array([tx, ty]))
    seen = example["center_px"] + crop * example["box_px"] / 2
    np.testing.assert_allclose(example["joints_2d_px"][:, :2], seen, atol=1e-3)
    assert (example["joints_2d_px"][:, 2] == 1).all()
    assert (example["joints_3d_m"][:, 3] == 1).all()


def test_the_box_holds_the_body_and_the_picture_holds_the_box(stage, examples):
  for example in examples:
    posed = body_model.pose_body(
      stage.body, example["pose"][None], example["shape"][None]
    )
    crop = camera.weak_perspective(posed.vertices[0], example["camera"])
    extent = np.ptp(crop, axis=0).max() / 2
    assert 1 / 1.25 - 1e-4 <= extent <= 1 / 1.1 + 1e-4
    assert np.abs(crop).max() < 1.02
    assert 0.74 * PX <= example["box_px"] <= 0.86 * PX
    corner = example["center_px"] - example["box_px"] / 2
    assert corner.min() > 0 and (corner + example["box_px"]).max() < PX


def test_the_body_is_drawn_where_its_vertices_project(stage):
  for index in range(4):
    person, view, drawn = alone(stage, index)
    covered = drawn[..., 3] > 0.5
    points = scene.project_px(person.vertices_m, view)
    # Clothes and hair add a few millimetres to a few centimetres to every side.
    px_per_m = view.camera[0] * view.box_px / 2
    low, high = points.min(axis=0), points.max(axis=0)
    rows, columns = np.nonzero(covered)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(edges - [*low, *high]).max() < 1.0 + 0.05 * px_per_m
    inside = scene.project_px(person.joints_m, view)[LIMBS].astype(int)
    assert covered[inside[:, 1], inside[:, 0]].all()


def test_turning_the_body_half_way_about_the_line_of_sight_turns_its_picture(stage):
  person, view, drawn = alone(stage, 1)
  half = rotations.axis_angle_to_matrix(np.array([0.0, 0.0, np.pi])).astype(np.float32)
  turned = person._replace(
    vertices_m=person.vertices_m @ half.T, joints_m=person.joints_m @ half.T
  )
  center = np.full(2, PX / 2, np.float32)
  view = view._replace(center_px=center)
  opposite = view._replace(camera=view.camera * [1, -1, -1])
  outfit = appearance.sample_outfit(np.random.default_rng(0))
  # Light from the camera falls alike on both.
  light = appearance.Light(
    np.array([0, 0, -1], np.float32), 0.5, np.ones(3, np.float32)
  )
  first = scene.draw_body(stage, person, view, outfit, light, PX)[..., 3]
  second = scene.draw_body(stage, turned, opposite, outfit, light, PX)[..., 3]
  # Exact but for rounding where an edge meets a sample.
  assert np.abs(second[::-1, ::-1] - first).mean() < 1e-3
  assert drawn.shape == (PX, PX, 4)


def test_the_stored_picture_is_a_jpeg_of_the_right_size_and_shows_the_person(
  stage, examples
):
  for example in examples[:3]:
    picture = cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (PX, PX, 3)
    assert picture.std() > 5


def test_colours_are_stored_as_rgb(stage):
  picture = np.zeros((16, 16, 3), np.uint8)
  picture[..., 0] = 200  # red
  data = np.frombuffer(scene._encode(picture, 95), np.uint8)
  assert cv2.imdecode(data, cv2.IMREAD_COLOR)[8, 8, 2] > 180  # OpenCV reads BGR


def test_a_share_of_the_training_examples_keeps_only_2d_labels(stage):
  settings = SETTINGS._replace(image_px=32, share_2d_only=0.5)
  drawn = [scene.draw_example(stage, settings, "train", i) for i in range(40)]
  only_2d = [e for e in drawn if not e["has_mesh"]]
  assert 10 <= len(only_2d) <= 30
  for example in only_2d:
    assert example["has_joints_2d"] and not example["has_joints_3d"]
    for name in ("pose", "shape", "joints_3d_m"):
      assert not example[name].any(), name
    assert np.isnan(example["camera"]).all()
    assert (example["joints_2d_px"][:, 2] == 1).all()
  for split in ("validation", "test"):
    assert scene.draw_example(stage, settings, split, 0)["has_mesh"]
    assert scene.draw_example(stage, settings, split, 1)["has_mesh"]


def test_shapes_are_standard_normal_and_clipped(stage):
  shapes = np.array(
    [
      scene.sample_person(scene.example_rng(0, "train", i), stage).shape
      for i in range(60)
    ]
  )
  assert np.abs(shapes).max() <= scene.MAX_SHAPE
  assert abs(shapes.mean()) < 0.15 and 0.85 < shapes.std() < 1.1


def test_an_unknown_split_is_named(stage):
  with pytest.raises(ValueError, match=r"expected a split of .*, got 'dev'"):
    scene.draw_example(stage, SETTINGS, "dev", 0)


def test_hems_cut_through_triangles(stage):
  """A sleeve ends where the rest pose says, whatever the vertices are labelled."""
  outfit = appearance.sample_outfit(np.random.default_rng(0))
  outfit = outfit._replace(top=True, sleeve=0.5, open_front=0.0)
  marks = stage.marks
  hem = marks.shoulder_x + 0.5 * (marks.wrist_x - marks.shoulder_x)
  along = np.array([hem - 1e-4, hem + 1e-4, -hem + 1e-4, -hem - 1e-4], np.float32)
  rest = np.stack([along, np.full(4, marks.shoulder_y), np.zeros(4)], axis=1)
  worn = appearance.regions(outfit, marks, rest.astype(np.float32))
  expected = [appearance.TOP, appearance.SKIN, appearance.TOP, appearance.SKIN]
  assert worn.tolist() == expected


def test_every_part_of_the_wardrobe_is_worn_by_someone(stage):
  rng = np.random.default_rng(0)
  worn = set()
  for _ in range(30):
    outfit = appearance.sample_outfit(rng)
    worn |= set(appearance.regions(outfit, stage.marks, stage.body.template).tolist())
  assert worn == set(range(appearance.NUM_REGIONS))


def test_occluders_change_the_picture_and_hide_at_most_a_third_of_the_joints():
  rng = np.random.default_rng(0)
  places = rng.uniform(20, 44, (24, 2))
  changed = 0
  for _ in range(20):
    picture = np.zeros((64, 64, 3), np.uint8)
    before = picture.copy()
    backdrop.draw_occluders(rng, picture, places, count=1)
    rows = places.astype(int)
    hidden = (picture != before).any(axis=-1)[rows[:, 1], rows[:, 0]]
    assert hidden.mean() <= 0.34
    changed += (picture != before).any()
  assert changed > 8


def test_clutter_puts_more_and_sharper_things_behind_people():
  def edges(clutter: float) -> float:
    pictures = [
      backdrop.draw_background(np.random.default_rng(seed), 80, clutter)
      for seed in range(40)
    ]
    return np.mean([np.abs(np.diff(p.astype(float), axis=1)).mean() for p in pictures])

  assert edges(0.0) < 0.7 * edges(1.0)
