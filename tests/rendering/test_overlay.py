import numpy as np
import pytest

from metro_jax.rendering import overlay

GREEN = np.zeros((80, 80, 3), np.uint8) + np.array([0, 200, 0], np.uint8)
# A box in the camera frame: x from 0 to 0.5, y from -0.25 to 0.25, 0.2 deep.
CORNERS_M = np.array(
  [[x, y, z] for x in (0, 0.5) for y in (-0.25, 0.25) for z in (-0.1, 0.1)],
  np.float32,
)
QUADS = (
  (0, 1, 3, 2),
  (4, 6, 7, 5),
  (0, 4, 5, 1),
  (2, 3, 7, 6),
  (0, 2, 6, 4),
  (1, 5, 7, 3),
)
BOX_FACES = np.array(
  [t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))], np.int32
)
IDENTITY = np.array([1.0, 0.0, 0.0], np.float32)


def drawn(image, background=GREEN):
  """Returns the first and last row and column that differ from the background."""
  rows, columns = np.nonzero((image != background).any(axis=-1))
  return rows.min(), rows.max(), columns.min(), columns.max()


def test_overlay_lands_on_the_pixels_that_the_camera_says():
  # s = 1 over 80 px: 0.5 m is 20 px; the box spans x 40..60 and y 30..50.
  image = overlay.overlay(GREEN, CORNERS_M, BOX_FACES, IDENTITY)
  assert drawn(image) == (30, 49, 40, 59)


def test_overlay_follows_camera_shift_scale_and_box():
  camera = np.array([0.5, 0.25, -0.25], np.float32)
  box = overlay.Box(30.0, 50.0, 40.0)
  # x: 30 + 0.5 * (0.25 .. 0.75) * 20 = 32.5 .. 37.5; y: 50 + 0.5 * (-0.5 .. 0) * 20.
  image = overlay.overlay(GREEN, CORNERS_M, BOX_FACES, camera, box)
  assert drawn(image) == (45, 49, 32, 37)


def test_borders_are_antialiased_and_the_photograph_shines_through():
  # The box spans x 40.5 .. 60.5: half of pixel 40, all of pixel 50.
  half_pixel = np.array([1.0, 0.5 / 40, 0.0], np.float32)
  dark, light = np.zeros((80, 80, 3), np.uint8), np.full((80, 80, 3), 200, np.uint8)
  on_dark, on_light = (
    overlay.overlay(image, CORNERS_M, BOX_FACES, half_pixel, opacity=0.8).astype(float)
    for image in (dark, light)
  )
  shines_through = (on_light - on_dark)[40, [39, 40, 50]] / 200
  expected = np.array([1.0, 1 - 0.8 / 2, 1 - 0.8])
  np.testing.assert_allclose(shines_through, expected[:, None].repeat(3, 1), atol=0.01)


def test_the_nearer_surface_is_seen():
  # Seen from the side, the far half of the first box hides behind the second one.
  far = CORNERS_M + np.array([0, 0, 5], np.float32)
  tilted = CORNERS_M @ np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]], np.float32)
  both = np.concatenate([far, tilted.astype(np.float32)])
  faces = np.concatenate([BOX_FACES, BOX_FACES + 8])
  alone = overlay.overlay(GREEN, tilted.astype(np.float32), BOX_FACES, IDENTITY)
  together = overlay.overlay(GREEN, both, faces, IDENTITY)
  np.testing.assert_array_equal(together[38:42, 45:55], alone[38:42, 45:55])


def test_a_mesh_outside_the_picture_leaves_it_alone_and_the_input_is_kept():
  away = np.array([1.0, 9.0, 0.0], np.float32)
  image = overlay.overlay(GREEN, CORNERS_M, BOX_FACES, away)
  np.testing.assert_array_equal(image, GREEN)
  assert image is not GREEN


def test_the_silhouette_in_a_large_photograph_is_as_sharp_as_its_pixels():
  # 2,400 px for 0.6 m; an edge of the triangle falls 3 px a row, through (1200, 1200).
  image = np.zeros((2400, 2400, 3), np.uint8)
  triangle = np.float32([[0.3, 0.1, 0], [0.0, 0.0, 0], [0.3, -0.1, 0]])
  camera = np.float32([1 / 0.3, 0, 0])
  drawn_over = overlay.overlay(image, triangle, np.array([[0, 1, 2]]), camera)
  inner = drawn_over[1200, 1600].astype(float)
  row = drawn_over[1300].astype(float).mean(-1) / inner.mean()
  # Pixel row 1300 is 100.5 px below the tip: the edge lies at 1200 + 301.5 px.
  assert row[:1499].max() == 0 and row[1504:2000].min() > 0.97
  assert row[1495:1510].sum() == pytest.approx(1510 - 1501.5, abs=0.8)


def test_a_mesh_larger_than_the_largest_raster_still_fits(monkeypatch):
  monkeypatch.setattr(overlay, "LARGEST_RASTER_PX", 10)
  image = overlay.overlay(GREEN, CORNERS_M, BOX_FACES, IDENTITY)
  np.testing.assert_allclose(drawn(image), (30, 49, 40, 59), atol=1)


def test_not_finite_vertices_are_named():
  broken = CORNERS_M.copy()
  broken[3, 1] = np.nan
  with pytest.raises(ValueError, match="overlay: expected finite"):
    overlay.overlay(GREEN, broken, BOX_FACES, IDENTITY)
  with pytest.raises(ValueError, match="side_view: expected finite"):
    overlay.side_view(broken, BOX_FACES)


def test_turning_by_90_degrees_puts_what_was_near_on_the_left():
  points = np.array([[0, 0, -1], [0, 0, 1], [-0.5, 2, 0], [0.5, -2, 0]], np.float32)
  turned = overlay.turn_about_vertical(points, 90.0)
  expected = [[-1, 0, 0], [1, 0, 0], [0, 2, 0.5], [0, -2, -0.5]]
  np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_side_view_is_fitted_and_centred():
  tall = CORNERS_M * np.array([1, 4, 1], np.float32)  # 2 m high, 0.2 m deep
  image = overlay.side_view(tall, BOX_FACES, size_px=100)
  background = np.broadcast_to(image[:, :1], image.shape)
  top, bottom, left, right = drawn(image, background)
  assert (top, bottom) == (6, 93)  # 88 of 100 px
  assert right - left + 1 == pytest.approx(8.8, abs=1.3)
  assert left + right == pytest.approx(99, abs=1)


def test_from_above_what_was_near_is_at_the_bottom():
  # A bar along z, 1 m deep, with a cross-piece at its near end.
  corners = np.float32(
    [[-0.1, 0, -0.5], [0.1, 0, -0.5], [0.1, 0, 0.5], [-0.1, 0, 0.5],
     [-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, -0.3], [-0.5, 0, -0.3]]
  )  # fmt: skip
  faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
  image = overlay.top_view(corners, faces, 100)
  paper = overlay._clean_background(100)
  covered = (np.abs(image.astype(int) - paper) > 8).any(-1)
  assert covered[90, 10:90].all() and not covered[20, 10:40].any()
  assert covered[20, 45:55].all()
  rows = np.flatnonzero(covered.any(1))
  assert rows.min() == pytest.approx(6, abs=1) and rows.max() == pytest.approx(
    93, abs=1
  )


def test_contact_sheet_places_pictures_by_row_and_keeps_their_shape():
  wide = np.full((50, 100, 3), 10, np.uint8)
  square = np.full((30, 30, 3), 200, np.uint8)
  sheet = overlay.contact_sheet([square, wide, square], columns=2, cell_px=64)
  assert sheet.shape == (2 * 68 + 4, 2 * 68 + 4, 3)
  assert (sheet[4:68, 4:68] == 200).all()
  second = sheet[4:68, 72:136]
  assert (second[16:48] == 10).all() and (second[:16] == overlay.PAPER_RGB).all()
  assert (sheet[72:136, 4:68] == 200).all()


def test_contact_sheet_writes_captions_below_and_shortens_long_ones():
  square = np.full((30, 30, 3), 200, np.uint8)
  plain = overlay.contact_sheet([square], 1, [" "], cell_px=64)
  named = overlay.contact_sheet([square], 1, ["ä very long name.jpg" * 5], cell_px=64)
  assert plain.shape == named.shape == (4 + 68 + 22, 72, 3)
  changed = np.nonzero((plain != named).any(axis=-1))
  assert changed[0].min() >= 68 and changed[1].max() < 70


def test_contact_sheet_refuses_nothing_and_missing_captions():
  with pytest.raises(ValueError, match="at least one image"):
    overlay.contact_sheet([], 3)
  with pytest.raises(ValueError, match="expected 1 captions, got 2"):
    overlay.contact_sheet([GREEN], 3, ["a", "b"])
