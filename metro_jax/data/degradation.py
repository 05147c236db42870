"""What cameras, networks and chance do to pictures, done to crops in training.

A crop is made worse in at most one way that blurs it and one that changes its colours,
cut off at a line, and partly covered near joints. Every change follows from the numbers
of one generator, so an example's place decides all.

Source: degradations as in BEDLAM (Black et al., CVPR 2023) and albumentations' set;
  occlusion around joints after PARE (Kocabas et al., ICCV 2021).
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.data import jpegs

Image = UInt8[np.ndarray, "h w 3"]
Change = Callable[[np.random.Generator, Image], Image]

SHARPNESS_SHARE, COLOR_SHARE = 0.6, 0.7  # of the crops at full strength
CUT_SHARE, COVER_SHARE = 0.15, 0.25


def degrade(
  rng: np.random.Generator,
  image: Image,
  joints: Float[np.ndarray, "j 2"],
  strength: float = 1.0,
) -> Image:
  """Makes a crop worse.

  Args:
    rng: Where the randomness comes from; the result depends on nothing else.
    image: RGB.
    joints: In the crop's [-1, 1].
    strength: Share, 0 to 1, of what is done at most.

  Returns:
    A new picture of the same size.
  """
  side = len(image)
  joints_px = (joints + 1) * (side / 2)
  if rng.random() < COVER_SHARE * strength:
    image = cover(rng, image, joints_px)
  if rng.random() < CUT_SHARE * strength:
    image = cut(rng, image, joints_px)
  for share, changes in ((SHARPNESS_SHARE, SHARPNESS), (COLOR_SHARE, COLORS)):
    if rng.random() < share * strength:
      image = changes[int(rng.integers(len(changes)))](rng, image)
  return image


def reduce(rng: np.random.Generator, image: Image) -> Image:
  """Shrinks to a fifth to two thirds and back."""
  side = max(2, round(len(image) * rng.uniform(0.2, 0.67)))
  small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
  back = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST
  return cv2.resize(small, image.shape[1::-1], interpolation=back)


def blur(rng: np.random.Generator, image: Image) -> Image:
  """Puts the crop out of focus."""
  return cv2.GaussianBlur(image, (0, 0), len(image) * rng.uniform(0.003, 0.012))


def blur_motion(rng: np.random.Generator, image: Image) -> Image:
  """Smears along a line of up to a twelfth of the side."""
  length = max(3, round(len(image) * rng.uniform(0.02, 0.08)))
  kernel = np.zeros((length, length), np.float32)
  half, angle = (length - 1) / 2, rng.uniform(0, np.pi)
  step = half * np.array([np.cos(angle), np.sin(angle)])
  start, end = (half + np.array([-step, step])).round().astype(int).tolist()
  cv2.line(kernel, start, end, 1.0)
  return cv2.filter2D(image, -1, kernel / kernel.sum())


def compress(rng: np.random.Generator, image: Image) -> Image:
  """Goes through a JPEG of quality 10 to 50."""
  flags = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(10, 51)))
  return jpegs.bgr(cv2.imencode(".jpg", image, flags)[1].tobytes())


def add_noise(rng: np.random.Generator, image: Image) -> Image:
  """Adds noise of a deviation of 3 to 25 grey levels, coloured or grey."""
  shape = image.shape if rng.random() < 0.5 else (*image.shape[:2], 1)
  noise = rng.standard_normal(shape, np.float32) * rng.uniform(3, 25)
  return (image + noise).clip(0, 255).astype(np.uint8)


def to_grey(rng: np.random.Generator, image: Image) -> Image:
  """Takes the colours away."""
  del rng
  return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def change_tones(rng: np.random.Generator, image: Image) -> Image:
  """Changes brightness and contrast."""
  gain, middle = 2.0 ** rng.uniform(-0.8, 0.8), rng.uniform(60, 190)
  return _through(image, (np.arange(256) - 128) * gain + middle)


def change_gamma(rng: np.random.Generator, image: Image) -> Image:
  """Changes how dark the middle tones are."""
  return _through(image, 255 * (np.arange(256) / 255) ** (2.0 ** rng.uniform(-1, 1)))


def change_hue(rng: np.random.Generator, image: Image) -> Image:
  """Turns the hue a little and changes the saturation."""
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
  hsv[..., 0] = (hsv[..., 0] + int(rng.integers(-15, 16))) % 180
  hsv[..., 1] = (hsv[..., 1] * rng.uniform(0.3, 1.7)).clip(0, 255)
  return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def tint(rng: np.random.Generator, image: Image) -> Image:
  """Multiplies the channels, as a wrong white balance does."""
  return (image * rng.uniform(0.65, 1.35, 3)).clip(0, 255).astype(np.uint8)


def posterise(rng: np.random.Generator, image: Image) -> Image:
  """Keeps three to five bits a channel."""
  lost = 8 - int(rng.integers(3, 6))
  return (image >> lost) << lost


SHARPNESS: tuple[Change, ...] = (reduce, blur, blur_motion, compress, add_noise)
COLORS: tuple[Change, ...] = (
  to_grey,
  change_tones,
  change_gamma,
  change_hue,
  tint,
  posterise,
)


def cut(
  rng: np.random.Generator, image: Image, joints_px: Float[np.ndarray, "j 2"]
) -> Image:
  """Blackens what lies beyond a line across the person, as a picture's border does."""
  low, high = joints_px.min(axis=0), joints_px.max(axis=0)
  axis, far, share = int(rng.integers(2)), rng.random() < 0.5, rng.uniform(0.1, 0.4)
  at = high[axis] - share * (high - low)[axis] if far else low[axis]
  at = int(np.clip(at if far else at + share * (high - low)[axis], 0, len(image)))
  image = image.copy()
  beyond = slice(at, None) if far else slice(0, at)
  image[(beyond, slice(None)) if axis else (slice(None), beyond)] = 0
  return image


def cover(
  rng: np.random.Generator, image: Image, joints_px: Float[np.ndarray, "j 2"]
) -> Image:
  """Covers the surroundings of up to two joints with plain or noisy patches."""
  image, side = image.copy(), len(image)
  for joint in rng.integers(len(joints_px), size=int(rng.integers(1, 3))):
    half = side * rng.uniform(0.03, 0.11, 2)
    middle = joints_px[joint] + rng.normal(0, 0.03 * side, 2)
    (x0, y0), (x1, y1) = (
      (middle + sign * half).clip(0, side).astype(int) for sign in (-1, 1)
    )
    patch = rng.uniform(0, 255, 3) + rng.normal(
      0, rng.uniform(0, 50), (y1 - y0, x1 - x0, 1)
    )
    image[y0:y1, x0:x1] = patch.clip(0, 255)
  return image


def _through(image: Image, table: np.ndarray) -> Image:
  return cv2.LUT(image, np.rint(table).clip(0, 255).astype(np.uint8))
