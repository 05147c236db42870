"""Pictures through lenses, in places, with others: labels and pictures agree."""

import cv2
import numpy as np
import pytest

from metro_jax.body import body_model, humanoid
from metro_jax.data.builders.synthetic import appearance, lenses, scene

PX = 128
SETTINGS = scene.Settings(
  seed=5,
  image_px=PX,
  share_2d_only=0.0,
  occluder_probability=0.0,
  clutter=1.0,
  camera="perspective",
  scenery="panoramas",
  wardrobe="sport",
  bystanders=0.5,
  poses="motions",
)


@pytest.fixture(scope="module")
def stage():
  return scene.make_stage(humanoid.load())


def seen_by_hand(points_m, view):
  """Pixels, by the pinhole's definition."""
  s, tx, ty = view.pinhole.weak.astype(float)
  d = view.pinhole.depth_m
  crop = s * (points_m[:, :2] + [tx, ty]) * d / (points_m[:, 2:] + d)
  return view.center_px + crop * view.box_px / 2


@pytest.mark.parametrize("index", range(6))
def test_a_body_is_drawn_where_the_pinhole_sees_it(stage, index):
  rng = scene.example_rng(5, "test", index)
  person = scene.sample_person(rng, stage, SETTINGS)
  lens = lenses.sample_lens(rng)
  view = scene.sample_view(rng, person.vertices_m, PX, lens)
  light = appearance.sample_light(rng)
  # Bare and bald: what is drawn is the skin itself.
  outfit = appearance.sample_outfit(rng)._replace(
    top=False, leg_hem=-1.0, waist=-9.0, belt=False, bald=True, barefoot=True, beard=0.0
  )
  drawn = scene.draw_body(stage, person, view, outfit, light, PX)
  points = seen_by_hand(person.vertices_m, view)
  rows, columns = np.nonzero(drawn[..., 3] > 0.2)
  edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
  wanted = np.clip([*points.min(axis=0), *points.max(axis=0)], 0, PX)
  np.testing.assert_allclose(edges, wanted, atol=1.0)


def test_labels_are_those_of_the_perspective_picture_and_the_camera_its_fit(stage):
  for index in range(4):
    example = scene.draw_example(stage, SETTINGS, "test", index)
    rng = scene.example_rng(5, "test", index)
    rng.random()
    person = scene.sample_person(rng, stage, SETTINGS)
    view = scene.sample_view(rng, person.vertices_m, PX, lenses.sample_lens(rng))
    posed = body_model.pose_body(
      stage.body, example["pose"][None], example["shape"][None]
    )
    places = stage.body.regressors["j24"] @ posed.vertices[0]
    np.testing.assert_allclose(example["joints_3d_m"][:, :3], places, atol=1e-5)
    np.testing.assert_allclose(
      example["joints_2d_px"][:, :2], seen_by_hand(places, view), atol=1e-2
    )
    # No other weak camera is closer to what is seen of the whole body.
    vertices = posed.vertices[0].astype(float)
    seen = (seen_by_hand(vertices, view) - view.center_px) * (2 / view.box_px)

    def gap(weak, vertices=vertices, seen=seen):
      return ((weak[0] * (vertices[:, :2] + weak[1:]) - seen) ** 2).sum()

    fitted = example["camera"].astype(float)
    for n in range(3):
      for step in (-1e-2, 1e-2):
        assert gap(fitted) < gap(fitted + step * np.eye(3)[n])


def test_a_picture_follows_from_its_row_and_every_setting_changes_it(stage):
  def drawn(**changed):
    return scene.draw_example(stage, SETTINGS._replace(**changed), "train", 3)["image"]

  assert drawn() == drawn()
  for changed in (
    {"camera": "weak"},
    {"scenery": "drawn"},
    {"wardrobe": "plain"},
    {"bystanders": 0.0},
    {"poses": "stances"},
  ):
    assert drawn(**changed) != drawn(), changed


def test_what_stands_in_front_hides_no_more_than_a_third_of_the_joints(stage):
  settings = SETTINGS._replace(bystanders=1.0)
  fronts = 0
  for index in range(30):
    rng = scene.example_rng(9, "train", index)
    person = scene.sample_person(rng, stage, settings)
    view = scene.sample_view(rng, person.vertices_m, PX, lenses.sample_lens(rng))
    others = scene._bystanders(rng, stage, person, view, settings)
    assert 1 <= len(others) <= 2
    fronts += sum(other.in_front for other in others)
    for other in others:
      np.testing.assert_allclose(other.person.to_camera, person.to_camera, atol=1e-6)
  assert 3 < fronts < 25


def test_places_light_people_in_their_own_colours(stage):
  """A red sky makes what faces it redder than a blue one does."""
  from metro_jax.data.builders.synthetic import lighting, panoramas

  outfit = appearance.sample_outfit(np.random.default_rng(0))
  normals = np.array([[0, -1.0, 0]], np.float32)  # up, in a level camera
  rest = np.array([[0.0, 1.0, 0.0]], np.float32)
  region = np.array([appearance.SKIN])
  shades = []
  for color in ([2.0, 0.5, 0.5], [0.5, 0.5, 2.0]):
    irradiance = np.zeros((9, 3), np.float32)
    irradiance[0] = np.array(color) / 0.282095
    place = panoramas.Place(np.zeros((2, 4, 3), np.uint8), irradiance)
    level = lenses.Tilt(0.0, 0.0).to_camera().astype(np.float32)
    sky = lighting.Sky(place, level, 1.0, 0.0)
    shades.append(
      lighting.shade(sky, outfit, region, rest, normals, np.zeros(1, np.float32))[0]
    )
  red, blue = shades
  np.testing.assert_allclose(red, np.array([2.0, 0.5, 0.5]) ** (1 / 2.2), rtol=1e-3)
  assert red[0] > blue[0] and red[2] < blue[2]


def test_the_ground_is_darker_under_the_feet_than_beside_them(stage):
  rng = scene.example_rng(5, "test", 2)
  settings = SETTINGS._replace(poses="stances", camera="weak")
  person = scene.sample_person(rng, stage, settings)
  view = scene.sample_view(rng, person.vertices_m, PX)
  picture = np.full((PX, PX, 3), 200, np.uint8)
  scene._shadow_ground(picture, person, view)
  lowest = int(np.argmax(person.vertices_m @ -person.to_camera[:, 1]))
  column, row = scene.project_px(person.vertices_m, view)[lowest].astype(int)
  assert picture[row, column, 0] < 180
  assert picture[: PX // 4].min() == 200
  assert cv2.mean(picture)[0] > 180
