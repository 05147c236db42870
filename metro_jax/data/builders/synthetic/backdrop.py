"""Backgrounds behind a person, and shapes in front, drawn with a few OpenCV calls."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.data.builders.synthetic import lighting, panoramas

MOST_HIDDEN = 0.34  # share of the joints that something in front may hide

Picture = UInt8[np.ndarray, "h w 3"]


def draw_background(
  rng: np.random.Generator, side_px: int, clutter: float = 1.0
) -> Picture:
  """Draws a cluttered place: a room, a street or nothing nameable, out of focus or not.

  Args:
    rng: Where the randomness comes from.
    side_px: Side of the square picture.
    clutter: From 0, hardly anything about and always out of focus, to 1, up to eight
      things about and in focus half of the time.

  Returns:
    RGB.
  """
  kind = rng.random()
  if kind < 0.4:
    picture = _room(rng, side_px)
  elif kind < 0.75:
    picture = _street(rng, side_px)
  else:
    picture = _gradient(rng, side_px, int(rng.integers(2, 9)))
  for _ in range(rng.integers(0, 1 + round(8 * clutter))):
    _shape(rng, picture, side_px * rng.uniform(0.04, 0.35))
  if rng.random() < 1 - 0.5 * clutter:
    size = 1 + 2 * int(rng.integers(1, max(2, side_px // 16)))
    picture = cv2.GaussianBlur(picture, (size, size), 0)
  return picture


def draw_place(
  rng: np.random.Generator,
  sky: lighting.Sky,
  half_width: float,
  side_px: int,
  clutter: float = 1.0,
) -> Picture:
  """Draws what is behind a person in a photographed place, or a drawn one in its light.

  Args:
    rng: Where the randomness comes from.
    sky: The place's light; its exposure is the picture's.
    half_width: Tangent of half the field of view.
    side_px: Side of the square picture.
    clutter: As for `draw_background`.

  Returns:
    RGB.
  """
  if rng.random() < 0.35:
    return draw_background(rng, side_px, clutter)
  picture = panoramas.view(sky.place, sky.to_camera, half_width, side_px)
  gain = sky.exposure ** (1 / panoramas.GAMMA)
  picture = (picture * np.float32(gain)).clip(0, 255).astype(np.uint8)
  if rng.random() < 0.5 * clutter:
    for _ in range(rng.integers(1, 7)):
      _shape(rng, picture, side_px * rng.uniform(0.04, 0.3))
    size = 1 + 2 * int(rng.integers(0, 3))
    picture = cv2.GaussianBlur(picture, (size, size), 0)
  return picture


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
  """A colour: mostly dull, as most things are."""
  value, tint = rng.uniform(20, 235), rng.normal(0, 1, 3) * rng.choice((8, 20, 50))
  red, green, blue = (value + tint).clip(0, 255).astype(int).tolist()
  return red, green, blue


def _gradient(rng: np.random.Generator, side_px: int, cells: int) -> Picture:
  """Smoothly blended random colours."""
  colors = np.array([_color(rng) for _ in range(4)], np.float32)
  mix = rng.random((cells * cells, 4), np.float32)
  mix /= mix.sum(axis=1, keepdims=True)
  small = (mix @ colors).reshape(cells, cells, 3).clip(0, 255).astype(np.uint8)
  return cv2.resize(small, (side_px, side_px), interpolation=cv2.INTER_CUBIC)


def _room(rng: np.random.Generator, side_px: int) -> Picture:
  picture = _gradient(rng, side_px, 2)
  floor = int(side_px * rng.uniform(0.55, 0.9))
  picture[floor:] = _color(rng)
  if rng.random() < 0.5:
    line = _color(rng)
    for x in np.linspace(-side_px, 2 * side_px, int(rng.integers(5, 16))):
      start = (int(side_px / 2 + (x - side_px / 2) * 0.4), floor)
      cv2.line(picture, start, (int(x), side_px), line, 1, cv2.LINE_AA)
  for _ in range(rng.integers(1, 5)):
    width, height = (side_px * rng.uniform(0.08, 0.4, 2)).astype(int)
    x, y = int(rng.uniform(-0.1, 0.9) * side_px), int(rng.uniform(0, 0.6) * side_px)
    if rng.random() < 0.5:  # furniture stands on the floor
      y = floor + int(rng.uniform(0, 0.08) * side_px) - height
    corners = (x, y), (x + int(width), y + int(height))
    cv2.rectangle(picture, *corners, _color(rng), cv2.FILLED)
    cv2.rectangle(picture, *corners, _color(rng), max(1, side_px // 96))
  return picture


def _street(rng: np.random.Generator, side_px: int) -> Picture:
  horizon = int(side_px * rng.uniform(0.35, 0.8))
  sky = np.array([_color(rng), _color(rng)], np.float32)
  ramp = np.linspace(0, 1, side_px, dtype=np.float32)[:, None]
  rows = sky[0] + ramp * (sky[1] - sky[0])
  rows[horizon:] = np.array(_color(rng)) * (0.7 + 0.5 * ramp[: side_px - horizon])
  picture = np.repeat(rows.clip(0, 255).astype(np.uint8)[:, None], side_px, axis=1)
  x = int(-0.1 * side_px)
  while x < side_px:
    width = int(side_px * rng.uniform(0.06, 0.3))
    top = int(horizon - side_px * rng.uniform(0.0, 0.6))
    if rng.random() < 0.6:
      _building(rng, picture, (x, top, x + width, horizon))
    else:
      middle = (x + width // 2, (top + horizon) // 2)
      radius = (max(width // 2, 1), max((horizon - top) // 2, 1))
      cv2.ellipse(picture, middle, radius, 0, 0, 360, _color(rng), cv2.FILLED)
    x += int(width * rng.uniform(0.6, 1.8)) + 1
  return picture


def _building(rng: np.random.Generator, picture: Picture, box) -> None:
  x0, y0, x1, y1 = box
  cv2.rectangle(picture, (x0, y0), (x1, y1), _color(rng), cv2.FILLED)
  step = max(4, (x1 - x0) // int(rng.integers(2, 6)))
  window = _color(rng)
  for y in range(y0 + 2, y1 - step // 2, step):
    for x in range(x0 + 2, x1 - step // 2, step):
      corner = (x + step // 2, y + step // 2)
      cv2.rectangle(picture, (x, y), corner, window, cv2.FILLED)


def _shape(rng: np.random.Generator, picture: Picture, size: float) -> None:
  """Something: a polygon, a disc, a bar or a ring."""
  side = picture.shape[0]
  center = rng.uniform(0, side, 2)
  kind, color = rng.integers(4), _color(rng)
  if kind == 0:
    points = center + rng.normal(0, size * 0.7, (int(rng.integers(3, 7)), 2))
    cv2.fillPoly(picture, [points.astype(np.int32)], color, cv2.LINE_AA)
    return
  middle = (int(center[0]), int(center[1]))
  axes = tuple(int(a) for a in size * rng.uniform(0.3, 1.0, 2) + 1)
  if kind == 2:
    end = center + rng.normal(0, size * 2, 2)
    thick = max(1, int(size * rng.uniform(0.05, 0.3)))
    cv2.line(picture, middle, (int(end[0]), int(end[1])), color, thick, cv2.LINE_AA)
    return
  thick = cv2.FILLED if kind == 1 else max(1, int(size * 0.15))
  angle = rng.uniform(0, 180)
  cv2.ellipse(picture, middle, axes, angle, 0, 360, color, thick, cv2.LINE_AA)


def add_grain(rng: np.random.Generator, picture: Picture, strength: float) -> Picture:
  """Adds grey noise of up to this many grey levels."""
  side = picture.shape[0]
  noise = np.frombuffer(rng.bytes(side * side), np.int8).reshape(side, side)
  noise = (noise * np.float32(strength / 128)).astype(np.int16)
  return (picture + noise[..., None]).clip(0, 255).astype(np.uint8)


def draw_occluders(
  rng: np.random.Generator,
  picture: Picture,
  joints_px: Float[np.ndarray, "j 2"],
  count: int,
) -> None:
  """Draws things in front of the person, each hiding up to a third of the joints.

  Args:
    rng: Where the randomness comes from.
    picture: Drawn into.
    joints_px: The person's joints in pixels, x and y.
    count: Things to try; one that would hide more is left out.
  """
  side = picture.shape[0]
  low, high = joints_px.min(axis=0), joints_px.max(axis=0)
  for _ in range(count):
    mask = np.zeros((side, side), np.uint8)
    center = rng.uniform(low, high)
    _occluder(rng, mask, center, float((high - low).max()))
    if share_hidden(mask, joints_px) > MOST_HIDDEN:
      continue
    texture = _gradient(rng, side, int(rng.integers(2, 12)))
    if rng.random() < 0.5:
      texture = add_grain(rng, texture, rng.uniform(5, 40))
    share = mask[..., None].astype(np.float32) / 255
    picture[:] = (picture + share * (texture.astype(np.float32) - picture)).astype(
      np.uint8
    )


def share_hidden(mask: np.ndarray, joints_px: Float[np.ndarray, "j 2"]) -> float:
  """Share of the joints that lie where a square mask is above 0."""
  row = joints_px.astype(int).clip(0, len(mask) - 1)
  return float((mask[row[:, 1], row[:, 0]] > 0).mean())


def _occluder(rng: np.random.Generator, mask, center, reach: float) -> None:
  """A block, a post, a bush or a shard."""
  kind = rng.integers(4)
  if kind == 0:  # furniture: from here down, as wide as it likes
    half = reach * rng.uniform(0.1, 0.6)
    shift = rng.uniform(-half, half)
    corners = center + np.array([[shift - half, 0], [shift + half, 2 * reach]])
    if rng.random() < 0.4:
      corners[1, 1] = corners[0, 1] + reach * rng.uniform(0.05, 0.2)
    first, last = corners.astype(int).tolist()
    cv2.rectangle(mask, first, last, 255, cv2.FILLED)
  elif kind == 1:  # post
    tilt = rng.normal(0, 0.15, 2) * reach + (0, reach * 2)
    start, end = np.array([center - tilt, center + tilt]).astype(int).tolist()
    thick = max(2, int(reach * rng.uniform(0.03, 0.12)))
    cv2.line(mask, start, end, 255, thick, cv2.LINE_AA)
  elif kind == 2:  # bush
    for _ in range(rng.integers(3, 9)):
      spot = (center + rng.normal(0, reach * 0.09, 2)).astype(int).tolist()
      axes = (reach * rng.uniform(0.03, 0.12, 2) + 1).astype(int).tolist()
      turn = rng.uniform(0, 180)
      cv2.ellipse(mask, spot, axes, turn, 0, 360, 255, cv2.FILLED, cv2.LINE_AA)
  else:  # shard
    points = center + rng.normal(0, reach * 0.16, (int(rng.integers(3, 6)), 2))
    cv2.fillPoly(mask, [points.astype(np.int32)], 255, cv2.LINE_AA)
