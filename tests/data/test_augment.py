"""Crops, scales, turns and mirrors, and the labels that go with them."""

import pathlib
import runpy

import cv2
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body import camera, humanoid, joints
from metro_jax.body.body_model import pose_body, regress_joints
from metro_jax.data import augment, exact_crop, jpegs
from metro_jax.data.exact_crop import Crop
from tests.fixtures.augmented import apply, augment_pose

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
rasterize = runpy.run_path(str(FIXTURES / "rasterized.py"))["rasterize"]

MIRROR = np.diag([-1.0, 1.0, 1.0])
QUARTER = np.pi / 2


def augmentation(scale=1.0, rotation_rad=0.0, flip=False):
  return augment.Augmentation(scale, rotation_rad, flip, np.ones(3, np.float32))


def jpeg(image):
  encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
  return encoded[1].tobytes()


def example(**changes):
  rng = np.random.default_rng(0)
  made = {
    "key": "train/0",
    "image": jpeg(np.full((100, 100, 3), 90, np.uint8)),
    "center_px": np.array([50.0, 40.0], np.float32),
    "box_px": np.float32(80.0),
    "joints_2d_px": np.concatenate(
      [rng.uniform(0, 100, (24, 2)), np.ones((24, 1))], axis=1
    ).astype(np.float32),
    "joints_3d_m": np.concatenate(
      [rng.normal(size=(24, 3)), np.full((24, 1), 0.5)], axis=1
    ).astype(np.float32),
    "pose": rng.normal(0, 0.4, 72).astype(np.float32),
    "shape": rng.normal(size=10).astype(np.float32),
    "camera": np.full(3, np.nan, np.float32),
    "has_joints_2d": np.bool_(True),
    "has_joints_3d": np.bool_(True),
    "has_mesh": np.bool_(True),
  }
  return made | changes


def matrix(axis_angle):
  """Rodrigues' formula, R = I + sin t K + (1 - cos t) K²."""
  angle = np.linalg.norm(axis_angle)
  if angle == 0:
    return np.eye(3)
  x, y, z = axis_angle / angle
  K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def draws(count=4000, **changes):
  config = base.get_config().data.augment
  with config.unlocked():
    config.update(changes)
  return augment.sample(augment.numbers(1, 0, count), config)


def test_samples_follow_the_published_distributions():
  many = draws()
  scale = np.array([a.scale for a in many])
  degrees = np.rad2deg([a.rotation_rad for a in many])
  gain = np.stack([a.color_gain for a in many])
  assert scale.min() == 0.75 and scale.max() == 1.25
  # 32 % of a normal lie beyond one standard deviation and are clipped onto it.
  assert np.isin(scale, [0.75, 1.25]).mean() == pytest.approx(0.317, abs=0.03)
  assert (degrees != 0).mean() == pytest.approx(0.4, abs=0.03)
  assert np.abs(degrees).max() == pytest.approx(60.0)
  # A normal clipped at 2 sigma has standard deviation 0.959 sigma.
  assert degrees[degrees != 0].std() == pytest.approx(28.8, abs=1.2)
  assert np.mean([a.flip for a in many]) == pytest.approx(0.5, abs=0.03)
  assert gain.shape == (4000, 3) and gain.min() < 0.61 and gain.max() > 1.39
  assert gain.min() >= 0.6 and gain.max() <= 1.4
  assert gain.mean() == pytest.approx(1.0, abs=0.01)


def test_changes_are_drawn_independently():
  many = draws(rotation_probability=1.0)
  columns = [(a.scale, a.rotation_rad, a.flip, *a.color_gain) for a in many]
  correlations = np.corrcoef(np.array(columns, float).T) - np.eye(6)
  assert np.abs(correlations).max() < 0.06  # 4000 draws; chance gives about 0.016
  # Nor does the size of one go with another's, as it would by a common radius.
  sizes = np.abs(np.array(columns, float) - np.mean(columns, axis=0))[:, :2]
  assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.06


@pytest.mark.parametrize("first", [0, 5, 2**40])
def test_rows_of_random_numbers_are_the_same_however_they_are_asked_for(first):
  whole = augment.numbers(3, first, 12)
  assert whole.shape == (12, augment.NUMBERS) and len(np.unique(whole)) == whole.size
  parts = [augment.numbers(3, first + n, 4) for n in (0, 4, 8)]
  np.testing.assert_array_equal(np.concatenate(parts), whole)
  assert (augment.numbers(4, first, 12) != whole).all()


def test_switching_one_change_off_leaves_the_others_as_they_were():
  with_flips, without = draws(50), draws(50, flip_probability=0.0)
  assert not any(a.flip for a in without)
  assert [a.scale for a in with_flips] == [a.scale for a in without]
  assert [a.rotation_rad for a in with_flips] == [a.rotation_rad for a in without]
  np.testing.assert_array_equal(with_flips[7].color_gain, without[7].color_gain)


@pytest.mark.parametrize(
  ("change", "from_px", "to_px"),
  [
    (augmentation(), (60, 20), (0, 0)),  # the box's top left corner
    (augmentation(), (140, 100), (40, 40)),
    (augmentation(), (100, 60), (20, 20)),  # the centre stays
    (augmentation(scale=1.25), (50, 10), (0, 0)),  # the box is 100 px wide now
    (augmentation(rotation_rad=QUARTER), (140, 60), (20, 40)),  # right goes down
    (augmentation(flip=True), (140, 20), (0, 0)),
    (augmentation(flip=True, rotation_rad=QUARTER), (60, 60), (20, 40)),
  ],
)
def test_crop_affine_by_hand(change, from_px, to_px):
  center = np.array([100.0, 60.0], np.float32)
  crop = augment.crop_of(example(center_px=center, box_px=np.float32(80)), change, 40)
  np.testing.assert_allclose(crop.affine() @ [*from_px, 1.0], to_px, atol=1e-12)


def test_crop_of_the_whole_picture_is_the_picture():
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  np.testing.assert_array_equal(exact_crop.warp(image, Crop([32, 32], 64, 64)), image)


def bilinear(image, affine, crop_px):
  """Bilinear samples at pixel centres, zero outside; written out in NumPy."""
  row, column = np.mgrid[:crop_px, :crop_px]
  centres = np.stack([column + 0.5, row + 0.5], axis=-1)
  points = (centres - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T - 0.5
  corner = np.floor(points).astype(int)
  result = np.zeros((crop_px, crop_px, 3))
  for right in (0, 1):
    for down in (0, 1):
      x, y = corner[..., 0] + right, corner[..., 1] + down
      inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
      weight = 1 - np.abs(points - np.stack([x, y], axis=-1))
      value = image[y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)]
      result += value * (weight.prod(-1) * inside)[..., None]
  return result


@pytest.mark.parametrize("flip", [False, True])
def test_crop_samples_bilinearly_at_pixel_centres(flip):
  image = np.random.default_rng(0).integers(0, 256, (90, 110, 3), dtype=np.uint8)
  crop = Crop([71.3, 33.8], 83.7, 64, 1.1, 0.4, flip)
  ours = exact_crop.warp(image, crop).astype(float)
  # Half a grey level is rounding; OpenCV 4 also rounds places to 1/32 pixel.
  allowed = 0.51 if int(cv2.__version__[0]) >= 5 else 16
  assert np.abs(ours - bilinear(image, crop.affine(), 64)).max() < allowed


@pytest.mark.parametrize("size", [400, 403])
def test_a_small_crop_averages_fine_patterns_away(size):
  row, column = np.mgrid[:size, :size]
  stripes = np.where((column + row) % 2, 255, 0).astype(np.uint8)
  image = np.repeat(stripes[..., None], 3, axis=-1)
  crop = Crop([size / 2, size / 2], size * 0.9, 40)
  for small in (exact_crop.warp(image, crop), *exact_crop.views(jpeg(image), [crop])):
    assert np.abs(small.astype(int) - 127).max() < 16


def spots(centers_px, size_px, sigma_px):
  row, column = np.mgrid[:size_px, :size_px] + 0.5
  image = np.zeros((size_px, size_px))
  for x, y in centers_px:
    image += 250 * np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma_px**2))
  return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.parametrize(
  ("size_px", "crop_px"), [(200, 224), (301, 128), (611, 128), (1203, 64)]
)
@pytest.mark.parametrize(
  "change",
  [
    augmentation(),
    augmentation(0.8, 0.7, False),
    augmentation(1.2, -0.5, True),
  ],
)
def test_a_drawn_joint_is_where_its_label_says(size_px, crop_px, change):
  """Also through the decoder's reduction, odd sizes and the shrink by area."""
  where = np.array([0.43, 0.57]) * size_px
  points = np.zeros((24, 3), np.float32)
  left, right = joints.J24.index("L_Wrist"), joints.J24.index("R_Wrist")
  points[left] = [*where, 1.0]
  fields = apply(
    example(
      image=jpeg(spots([where], size_px, size_px / 40)),
      center_px=np.full(2, size_px / 2, np.float32),
      box_px=np.float32(size_px * 0.8),
      joints_2d_px=points,
    ),
    change,
    crop_px,
  )
  light = fields["image"][..., 0].astype(float) * (fields["image"][..., 0] > 8)
  row, column = np.mgrid[:crop_px, :crop_px] + 0.5
  centroid = np.array([(light * column).sum(), (light * row).sum()]) / light.sum()
  label = fields["joints_2d"][right if change.flip else left]
  assert label[2] == 1.0
  np.testing.assert_allclose((label[:2] + 1) / 2 * crop_px, centroid, atol=0.15)


def test_identity_keeps_every_label():
  given = example()
  fields = apply(given, augment.identity(), 64)
  box = (given["joints_2d_px"][:, :2] - [50.0, 40.0]) / 40.0
  np.testing.assert_allclose(fields["joints_2d"][:, :2], box, atol=1e-6)
  for name in ("joints_3d_m", "pose", "shape"):
    np.testing.assert_array_equal(fields[name], given[name])
  np.testing.assert_array_equal(fields["color_gain"], 1.0)


def test_mirroring_twice_gives_the_labels_back():
  given = example()
  once = apply(given, augmentation(flip=True), 64)
  assert not np.allclose(once["pose"], given["pose"])
  again = apply(
    given | {name: once[name] for name in ("joints_3d_m", "pose")},
    augmentation(flip=True),
    64,
  )
  for name in ("joints_3d_m", "pose"):
    np.testing.assert_array_equal(again[name], given[name])


def test_3d_joints_turn_right_to_down_after_the_mirror():
  given = example()
  fields = apply(given, augmentation(rotation_rad=QUARTER, flip=True), 64)
  left, right = joints.J24.index("L_Knee"), joints.J24.index("R_Knee")
  x, y, z, confidence = given["joints_3d_m"][right]
  # Mirrored (-x, y), then a quarter turn (a, b) -> (-b, a).
  np.testing.assert_allclose(
    fields["joints_3d_m"][left], [-y, -x, z, confidence], atol=1e-6
  )


def test_mirrored_pose_conjugates_every_rotation_by_the_mirror():
  given = example()
  turned = augment_pose(given["pose"], augmentation(flip=True)).reshape(24, 3)
  original = given["pose"].reshape(24, 3).astype(float)
  for ours, theirs in (("L_Elbow", "R_Elbow"), ("R_Hip", "L_Hip"), ("Spine2",) * 2):
    expected = MIRROR @ matrix(original[joints.SMPL24.index(theirs)]) @ MIRROR
    np.testing.assert_allclose(
      matrix(turned[joints.SMPL24.index(ours)]), expected, atol=1e-12
    )


@pytest.mark.parametrize(
  "root",
  [
    (np.pi, 0.0, 0.0),
    (3.1416, 0.0, 0.0),
    (0.3, -2.0, 1.0),
    (0.0, 0.0, -0.6),
    (0.0, 0.0, 1e-30),
  ],
)
@pytest.mark.parametrize("angle", [1e-9, -1.0, 0.6])
def test_only_the_root_turns_with_the_picture(root, angle):
  """Half turns included: they are what stands a body upright."""
  pose = example()["pose"].astype(float)
  pose[:3] = root
  turned = augment_pose(pose, augmentation(rotation_rad=angle))
  in_plane = matrix(np.array([0.0, 0.0, angle]))
  np.testing.assert_allclose(
    matrix(turned[:3]), in_plane @ matrix(np.array(root)), atol=1e-12
  )
  np.testing.assert_array_equal(turned[3:], pose[3:])


def test_labels_of_several_examples_move_as_each_alone():
  rng = np.random.default_rng(5)
  missing = [{}, {"has_mesh": False}, {"has_joints_2d": False}, {"gender": np.int32(2)}]
  several = [
    example(
      center_px=rng.uniform(20, 80, 2).astype(np.float32),
      box_px=np.float32(rng.uniform(30, 90)),
      pose=rng.normal(size=72).astype(np.float32),
      **changes,
    )
    for changes in missing
  ]
  changes = [
    augmentation(1.2, 0.3, True),
    augmentation(0.8, -0.9, False),
    augmentation(),
    augmentation(1.0, 0.0, True),
  ]
  pairs = list(zip(several, changes, strict=True))
  for arithmetic, way in augment.ARITHMETICS.items():
    crops = [augment.crop_of(*pair, 64) for pair in pairs]
    together = augment.move_labels(several, crops, way)
    for n, (one, change) in enumerate(pairs):
      alone = apply(one, change, 64, arithmetic)
      for name, values in together.items():
        np.testing.assert_array_equal(values[n], alone[name])
  assert together["pose"].any(axis=1).tolist() == [True, False, True, True]


def test_labels_that_are_missing_stay_zero():
  nothing = {
    "pose": np.zeros(72, np.float32),
    "joints_3d_m": np.zeros((24, 4), np.float32),
    "has_mesh": np.bool_(False),
    "has_joints_3d": np.bool_(False),
  }
  given = example(**nothing)
  given["joints_2d_px"][5] = 0.0
  fields = apply(given, augmentation(1.1, 0.5, False), 64)
  assert not fields["pose"].any() and not fields["joints_3d_m"].any()
  assert not fields["shape"].any() and not fields["joints_2d"][5].any()
  assert fields["joints_2d"][6].all()


def test_colours_are_left_to_the_device():
  gain = np.array([0.6, 1.0, 1.4], np.float32)
  fields = apply(example(), augment.Augmentation(1.0, 0.0, False, gain), 64)
  np.testing.assert_array_equal(fields["color_gain"], gain)
  assert np.abs(fields["image"][32, 32].astype(int) - 90).max() <= 1


def test_decoded_pictures_are_red_green_blue():
  image = np.zeros((16, 16, 3), np.uint8)
  image[..., 0] = 200
  red, green, blue = jpegs.rgb(jpeg(image))[8, 8].astype(int)
  assert abs(red - 200) < 4 and green < 4 and blue < 4


@pytest.mark.parametrize("damage", [b"", b"not a picture", None])
def test_an_unreadable_picture_is_named_as_such(damage):
  cut = jpeg(spots([(20, 20)], 64, 9))[:400]
  with pytest.raises(ValueError, match="image: expected a whole JPEG, got"):
    jpegs.rgb(cut if damage is None else damage)


def test_extreme_boxes_neither_crash_nor_hang():
  for box_px in (1e-20, 1e-3, 1e6, 1e20):
    fields = apply(example(box_px=np.float32(box_px)), augment.identity(), 32)
    assert fields["image"].shape == (32, 32, 3)


STAND = (np.pi, 0.0, 0.0)
IMAGE_PX = 240


@pytest.fixture(scope="module")
def body():
  return humanoid.load()


def person(body, seed):
  """A bent body of any heading, drawn white on black, with its labels."""
  rng = np.random.default_rng(seed)
  pose = rng.normal(0, 0.25, (24, 3))
  heading = matrix(np.array([0.0, rng.uniform(-3, 3), 0.0]))
  pose[0] = cv2.Rodrigues(matrix(np.array(STAND)) @ heading)[0][:, 0]
  pose = pose.reshape(1, 72).astype(np.float32)
  shape = rng.normal(size=(1, 10)).astype(np.float32)
  vertices = pose_body(body, pose, shape).vertices
  joints_m = regress_joints(body.regressors["j24"], vertices)[0]
  middle = vertices[0].min(0) / 2 + vertices[0].max(0) / 2
  view = np.array([0.9, 0.05 - middle[0], -0.03 - middle[1]])
  center_px, box_px = np.array([118.0, 123.0]), np.float64(190.0)

  def to_pixels(points):
    return camera.crop_to_pixels(
      camera.weak_perspective(points, view), center_px, box_px
    )

  drawn = np.concatenate([to_pixels(vertices[0]), vertices[0][:, 2:]], axis=1)
  mask = rasterize(drawn, body.faces, IMAGE_PX, IMAGE_PX).face >= 0
  ones = np.ones((24, 1), np.float32)
  return example(
    image=jpeg(np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, -1)),
    center_px=center_px.astype(np.float32),
    box_px=np.float32(box_px),
    joints_2d_px=np.concatenate([to_pixels(joints_m), ones], 1).astype(np.float32),
    joints_3d_m=np.concatenate([joints_m, ones], 1).astype(np.float32),
    pose=pose[0],
    shape=shape[0],
    camera=view.astype(np.float32),
  )


def silhouettes_differ(ours, theirs):
  """Pixels of either that lie more than a pixel outside of the other."""
  near = np.ones((3, 3), np.uint8)
  ours, theirs = ours.astype(np.uint8), theirs.astype(np.uint8)
  beyond = (ours > cv2.dilate(theirs, near)) | (theirs > cv2.dilate(ours, near))
  return int(beyond.sum())


@pytest.mark.parametrize(
  ("seed", "change"),
  [
    (0, augmentation()),
    (1, augmentation(flip=True)),
    (2, augmentation(rotation_rad=0.8)),
    (3, augmentation(0.8, -1.0, True)),
    (4, augmentation(1.2, 0.4, True)),
  ],
)
def test_augmented_labels_pose_the_body_that_the_augmented_picture_shows(
  body, seed, change
):
  """Rendering the mirrored, turned body gives the mirrored, turned picture."""
  crop_px = 190
  given = person(body, seed)
  fields = apply(given, change, crop_px)
  pose, shape = fields["pose"][None], fields["shape"][None]
  vertices = pose_body(body, pose, shape).vertices
  joints_m = regress_joints(body.regressors["j24"], vertices)[0]

  # The labels' joints are the mesh's, up to where the mesh stands. The embedded
  # body itself is symmetric to fractions of a millimetre, its eyes less so.
  pelvis = joints.J24.index("Pelvis")
  label_m = fields["joints_3d_m"][:, :3]
  apart_m = joints_m - joints_m[pelvis] - label_m + label_m[pelvis]
  distance_m = np.linalg.norm(apart_m, axis=-1)
  assert distance_m.max() < 5e-3 and np.median(distance_m) < 1e-3

  # Hung up at the 2D pelvis, the mesh projects onto the other 2D joints...
  scale = given["camera"][0] / change.scale
  place = fields["joints_2d"][pelvis, :2] / scale - joints_m[pelvis, :2]
  view = np.array([scale, *place])
  points = (camera.weak_perspective(joints_m, view) + 1) / 2 * crop_px
  labels = (fields["joints_2d"][:, :2] + 1) / 2 * crop_px
  assert np.abs(points - labels).max() < 1.0

  # ... and covers the person in the crop.
  pixels = (camera.weak_perspective(vertices[0], view) + 1) / 2 * crop_px
  drawn = np.concatenate([pixels, vertices[0][:, 2:]], axis=1)
  mask = rasterize(drawn, body.faces, crop_px, crop_px).face >= 0
  assert mask.mean() > 0.03
  assert silhouettes_differ(mask, fields["image"][..., 0] > 127) <= 2
