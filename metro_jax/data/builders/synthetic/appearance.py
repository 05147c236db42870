"""Clothes, skin, hair and light for a body, decided sample by sample.

Where a garment ends is a function of the rest pose, not of the mesh's triangles: every
sample carries its rest-pose place, so hems, necklines and stripes are clean at any
resolution. Colours are RGB in [0, 1].
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.rendering import rasterizer

SKIN, TOP, BOTTOM, SOCK, SHOE, HAIR, LIP, EYE, SOLE, BELT = range(10)
NUM_REGIONS = 10

# Skin from light to dark; a tone lies between two neighbours.
_SKIN_TONES = np.array(
  [
    (0.97, 0.86, 0.79),
    (0.93, 0.76, 0.65),
    (0.84, 0.65, 0.52),
    (0.70, 0.50, 0.37),
    (0.52, 0.35, 0.25),
    (0.34, 0.22, 0.16),
  ]
)
_HAIR_COLORS = np.array(
  [
    (0.06, 0.05, 0.05),
    (0.17, 0.11, 0.08),
    (0.33, 0.20, 0.12),
    (0.52, 0.35, 0.20),
    (0.80, 0.66, 0.40),
    (0.60, 0.26, 0.12),
    (0.62, 0.61, 0.60),
    (0.88, 0.87, 0.85),
  ]
)
_HAIR_ODDS = np.array([0.26, 0.24, 0.18, 0.1, 0.08, 0.04, 0.06, 0.04])
_CLOTH_COLORS = np.array(
  [
    (0.93, 0.93, 0.92),
    (0.10, 0.10, 0.12),
    (0.45, 0.46, 0.48),
    (0.13, 0.18, 0.33),
    (0.27, 0.38, 0.55),
    (0.55, 0.68, 0.82),
    (0.62, 0.12, 0.14),
    (0.80, 0.30, 0.25),
    (0.20, 0.36, 0.24),
    (0.45, 0.48, 0.30),
    (0.76, 0.68, 0.52),
    (0.48, 0.34, 0.24),
    (0.88, 0.70, 0.22),
    (0.45, 0.25, 0.48),
    (0.87, 0.60, 0.66),
    (0.20, 0.55, 0.58),
  ]
)


class Landmarks(NamedTuple):
  """Places on the mean body at rest that garments are measured from, metres."""

  shoulder_x: float
  wrist_x: float
  shoulder_y: float
  neck_y: float
  neck_z: float
  hip_y: float
  knee_y: float
  ankle_y: float
  sole_y: float
  chin_y: float
  top_y: float
  head_z: float
  head_depth: float
  eye: tuple[float, float, float]  # the left one; x > 0
  mouth_y: float


class Outfit(NamedTuple):
  """What a person wears and looks like; lengths in metres on the mean body."""

  colors: Float[np.ndarray, "regions 3"]
  second_colors: Float[np.ndarray, "2 3"]  # what top and bottom are patterned with
  pattern: tuple[int, int]  # of top and bottom; see `_PATTERNS`
  pattern_size: Float[np.ndarray, " 2"]
  top: bool
  sleeve: float  # where it ends: 0 at the shoulder, 1 at the wrist
  neckline: float  # depth under the neck
  v_neck: float  # how much deeper in the middle
  top_hem: float  # height above the hips
  waist: float  # top of the bottom garment above the hips
  leg_hem: float  # where it ends: 0 at the hip, 1 at the ankle
  open_front: float  # half width of the shirt that an open jacket shows
  sock: float  # height above the ankle
  shoe: float  # height above the ankle
  barefoot: bool
  bald: bool
  hairline: float  # share of the face's height
  hair_length: float  # below the chin, behind
  hair_volume: float
  beard: float  # share of the face's height; 0 for none
  belt: bool
  looseness: Float[np.ndarray, " 2"]  # of top and bottom: cloth over skin, metres
  fold_phase: Float[np.ndarray, " 6"]


def sample_outfit(rng: np.random.Generator, wardrobe: str = "plain") -> Outfit:
  """Draws clothes, skin, hair and shoes.

  Args:
    rng: Where the randomness comes from.
    wardrobe: "plain", or "sport": also bare torsos, bare feet, caps and tight cloth.
  """
  outfit = _sample_plain(rng)
  return outfit if wardrobe == "plain" else _for_sport(rng, outfit)


def _for_sport(rng: np.random.Generator, outfit: Outfit) -> Outfit:
  """Changes some outfits into what is worn, or not, for sport and at the beach."""
  u = rng.random(6)
  if u[0] < 0.25:
    outfit = outfit._replace(top=bool(u[1] > 0.6))
  if u[2] < 0.35:
    outfit = outfit._replace(leg_hem=0.1 + 0.35 * u[3], belt=False)
  if u[4] < 0.25:
    outfit = outfit._replace(barefoot=True)
  if u[5] < 0.15:  # a cap: tight, and of any colour
    colors = outfit.colors.copy()
    colors[HAIR] = _CLOTH_COLORS[rng.integers(len(_CLOTH_COLORS))]
    outfit = outfit._replace(
      colors=colors, bald=False, beard=0.0, hair_length=-0.1, hair_volume=0.006
    )
  return outfit


def _sample_plain(rng: np.random.Generator) -> Outfit:
  u = rng.random(24)
  tone = u[0] * (len(_SKIN_TONES) - 1.001)
  low = int(tone)
  skin = _SKIN_TONES[low] + (tone - low) * (_SKIN_TONES[low + 1] - _SKIN_TONES[low])
  cloth = _CLOTH_COLORS[rng.integers(len(_CLOTH_COLORS), size=7)]
  cloth = (cloth + rng.normal(0, 0.05, cloth.shape)).clip(0.02, 0.97)
  dress = u[1] < 0.12
  if dress or u[1] > 0.93:
    cloth[1] = cloth[0]
  hair = _HAIR_COLORS[rng.choice(len(_HAIR_COLORS), p=_HAIR_ODDS)]
  hair = (hair * rng.uniform(0.8, 1.2)).clip(0.02, 0.95)
  colors = np.zeros((NUM_REGIONS, 3))
  colors[[SKIN, TOP, BOTTOM, SOCK, SHOE, HAIR]] = skin, *cloth[:4], hair
  colors[LIP] = skin * (0.86, 0.62, 0.62)
  colors[EYE] = (0.08, 0.06, 0.05)
  colors[SOLE] = cloth[4] if u[2] < 0.5 else (0.92, 0.92, 0.9)
  colors[BELT] = (0.12, 0.09, 0.07) if u[3] < 0.6 else cloth[5]
  pattern = rng.choice(len(_PATTERN_ODDS), size=2, p=_PATTERN_ODDS)
  long_hair = u[4] < 0.4
  return Outfit(
    colors=colors.astype(np.float32),
    second_colors=cloth[5:].astype(np.float32),
    pattern=(int(pattern[0]), int(pattern[1]) if u[5] < 0.3 else 0),
    pattern_size=rng.uniform(0.03, 0.14, 2),
    top=bool(dress or u[6] > 0.06),
    sleeve=_sleeve(u[7], u[8]),
    neckline=0.02 + 0.06 * u[9] ** 2,
    v_neck=0.12 * u[10] if u[11] < 0.35 else 0.0,
    top_hem=-0.16 + 0.24 * u[12],
    waist=0.02 + 0.12 * u[13],
    leg_hem=0.3 + 0.3 * u[14] if dress else _leg_hem(u[14], u[15]),
    open_front=0.03 + 0.05 * u[16] if not dress and u[17] < 0.18 else 0.0,
    sock=0.02 + 0.22 * u[18] ** 3,
    shoe=0.0 + 0.05 * u[19] if u[20] < 0.8 else 0.08 + 0.2 * u[19],
    barefoot=u[21] < 0.12,
    bald=u[22] < 0.07,
    hairline=0.74 + 0.14 * u[23],
    hair_length=rng.uniform(0.02, 0.3) if long_hair else -0.1,
    hair_volume=rng.uniform(0.004, 0.035),
    beard=rng.uniform(0.2, 0.42) if not long_hair and rng.random() < 0.25 else 0.0,
    belt=bool(not dress and rng.random() < 0.3),
    looseness=rng.uniform(0.002, 0.02, 2),
    fold_phase=rng.uniform(0, 2 * np.pi, 6),
  )


def _sleeve(kind: float, length: float) -> float:
  """Sleeveless, short or long."""
  if kind < 0.12:
    return -0.12 + 0.1 * length
  return 0.2 + 0.3 * length if kind < 0.55 else 0.78 + 0.24 * length


def _leg_hem(kind: float, length: float) -> float:
  """Shorts or trousers."""
  return 0.18 + 0.34 * length if kind < 0.38 else 0.72 + 0.3 * length


def regions(
  outfit: Outfit, marks: Landmarks, rest: Float[np.ndarray, "n 3"]
) -> Int[np.ndarray, " n"]:
  """What covers each place on the body: skin, top, bottom, hair and so on.

  Args:
    outfit: Where garments end.
    marks: Of the mean body.
    rest: Places on the mean body at rest, metres.

  Returns:
    Region numbers: `SKIN`, `TOP`, ...
  """
  x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
  region = np.zeros(len(rest), np.int8)
  _dress_trunk(region, outfit, marks, (x, y, z))
  _dress_feet(region, outfit, marks, y)
  head = np.flatnonzero((y > marks.chin_y - 0.35) & (x < 0.2))
  region[head] = _dress_head(region[head], outfit, marks, rest[head])
  return region


def _dress_trunk(region, outfit, marks, place) -> None:
  x, y, z = place
  leg = (marks.hip_y - y) / (marks.hip_y - marks.ankle_y)
  waist = marks.hip_y + outfit.waist
  region[(y < waist) & (leg < outfit.leg_hem)] = BOTTOM
  if outfit.belt:
    region[(y < waist) & (y > waist - 0.035)] = BELT
  if not outfit.top:
    return
  arm = (x - marks.shoulder_x) / (marks.wrist_x - marks.shoulder_x)
  front = (z > marks.neck_z).astype(np.float32)
  middle = (1.0 - x / 0.09).clip(0, 1)
  collar = marks.neck_y - outfit.neckline + x * 0.35
  collar -= front * (0.03 + outfit.v_neck * middle)
  covered = (y > marks.hip_y + outfit.top_hem) & (arm < outfit.sleeve) & (y < collar)
  if outfit.sleeve < 0:
    # A tank top leaves a round armhole free.
    covered &= (x < marks.shoulder_x - 0.03) | (y < marks.shoulder_y - 0.14)
  region[covered] = TOP


def _dress_feet(region, outfit, marks, y) -> None:
  if outfit.barefoot:
    return
  low = y < marks.ankle_y + outfit.sock
  region[low & (region == SKIN)] = SOCK
  region[y < marks.ankle_y + outfit.shoe - 0.02] = SHOE
  region[y < marks.sole_y + 0.022] = SOLE


def _dress_head(region, outfit, marks, rest):
  x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
  height = (y - marks.chin_y) / (marks.top_y - marks.chin_y)
  front = (z - marks.head_z) / marks.head_depth  # 0 at the ears, 1 at the nose
  on_head = height > -0.05
  eye = np.hypot(x - marks.eye[0], (y - marks.eye[1]) * 1.5)
  region[on_head & (front > 0.3) & (eye < 0.014)] = EYE
  brow = np.abs(y - marks.eye[1] - 0.024) < 0.006
  region[on_head & (front > 0.3) & brow & (np.abs(x - marks.eye[0]) < 0.024)] = HAIR
  if outfit.beard:
    region[on_head & (front > -0.1) & (height < outfit.beard)] = HAIR
  mouth = (np.abs(y - marks.mouth_y) < 0.009) & (x < 0.027) & (front > 0.4)
  region[mouth] = LIP
  if outfit.bald:
    return region
  ramp = ((front + 0.15) / 0.75).clip(0, 1)
  line = 0.12 + (outfit.hairline - 0.12) * ramp * (2 - ramp)
  region[on_head & (height > line)] = HAIR
  behind = (front < -0.05) & (x < 0.095)
  tip = marks.chin_y - outfit.hair_length + 6.0 * x * x
  region[behind & (y > tip)] = HAIR
  return region


def thickness_m(
  outfit: Outfit, region: Int[np.ndarray, " v"]
) -> Float[np.ndarray, " v"]:
  """How far cloth, shoe and hair stand off the skin."""
  depth = np.zeros(NUM_REGIONS, np.float32)
  depth[[TOP, BOTTOM]] = outfit.looseness
  depth[BELT] = outfit.looseness[1] + 0.004
  depth[[SHOE, SOLE, SOCK]] = 0.006, 0.009, 0.002
  depth[HAIR] = outfit.hair_volume
  return depth[region]


def albedo(
  outfit: Outfit,
  marks: Landmarks,
  region: Int[np.ndarray, " n"],
  rest: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 3"]:
  """Unlit colours: the region's, patterned, with the shirt under an open jacket."""
  color = outfit.colors[region]
  for slot, garment in enumerate((TOP, BOTTOM)):
    if outfit.pattern[slot]:
      here = np.flatnonzero(region == garment)
      share = _pattern(outfit.pattern[slot], rest[here], outfit.pattern_size[slot])
      second = outfit.second_colors[slot]
      color[here] += share[:, None] * (second - color[here])
  if outfit.open_front:
    front = (rest[:, 2] > marks.neck_z) & (np.abs(rest[:, 0]) < outfit.open_front)
    color[(region == TOP) & front] = outfit.second_colors[0]
  return color


_PATTERN_ODDS = np.array([0.5, 0.13, 0.07, 0.08, 0.12, 0.06, 0.04])


def _pattern(kind: int, rest, size: float):
  """Share of the second colour at each place."""
  x, y = rest[:, 0], rest[:, 1]
  wave_x, wave_y = np.sin(x * (2 * np.pi / size)), np.sin(y * (2 * np.pi / size))
  if kind == 1:  # rings
    share = wave_y > 0.2
  elif kind == 2:  # stripes along the body
    share = wave_x > 0.3
  elif kind == 3:  # checks
    return ((wave_y > 0) * 0.5 + (wave_x > 0) * 0.5).astype(np.float32)
  elif kind == 4:  # a print on the chest
    share = (np.abs(x) < size) & (np.abs(y - 0.1) < size * 0.7) & (rest[:, 2] > 0)
  elif kind == 5:  # dots
    share = wave_x * wave_y > 0.45
  else:  # two halves
    share = y > 0.1
  return share.astype(np.float32)


class Light(NamedTuple):
  """A lamp, what comes from everywhere, and the colour of both."""

  direction: Float[np.ndarray, "3"]  # unit, towards the lamp; camera frame
  ambient: float
  color: Float[np.ndarray, "3"]


def sample_light(rng: np.random.Generator) -> Light:
  """Draws a lamp in front of and mostly above the person."""
  direction = np.array([rng.normal(0, 0.7), rng.normal(-0.7, 0.5), -1.0])
  direction /= np.linalg.norm(direction)
  warmth = rng.normal(0, 0.07)
  color = rng.uniform(0.8, 1.15) * np.array([1 + warmth, 1.0, 1 - warmth])
  return Light(
    direction.astype(np.float32), rng.uniform(0.3, 0.65), color.astype(np.float32)
  )


def shade(
  light: Light,
  outfit: Outfit,
  region: Int[np.ndarray, " n"],
  rest: Float[np.ndarray, "n 3"],
  normals: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 1"]:
  """Brightness: the lamp, more light from above than from below, folds in cloth."""
  length = np.sqrt(np.einsum("nc,nc->n", normals, normals))
  normals = normals / np.maximum(length, 1e-6)[:, None]
  bright = rasterizer.lambert(normals, light.direction, light.ambient)[:, 0]
  bright += -0.12 * normals[:, 1]
  phase = outfit.fold_phase
  wave = rest @ _FOLD_WAVES
  wave += phase[:3].astype(np.float32)
  fold = np.sin(wave[:, 0] + 1.5 * np.sin(wave[:, 1])) * np.sin(wave[:, 2])
  bright *= 1.0 + _FOLD_DEPTH[region] * fold
  return bright[:, None]


def wrinkles(
  outfit: Outfit, region: Int[np.ndarray, " n"], rest: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
  """How much folds in cloth and hair tip unit normals, camera frame."""
  phase = outfit.fold_phase.astype(np.float32)
  wave = rest @ (1.3 * _FOLD_WAVES) + phase[3:]
  bend = np.sin(wave[:, [0, 1, 2]] + 1.5 * np.sin(wave[:, [1, 2, 0]]))
  bend += 0.5 * np.sin(2.7 * wave[:, [2, 0, 1]] + phase[:3])
  return 2.2 * _FOLD_DEPTH[region][:, None] * bend


def grain(outfit: Outfit, rest: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
  """Blotches from centimetres to millimetres, about -1 to 1."""
  noise, size = _noise(), _NOISE_CELLS
  total = np.zeros(len(rest), np.float32)
  for cells_a_metre, share in ((90.0, 0.5), (350.0, 0.5)):
    cell = (rest * cells_a_metre + 99.0 * outfit.fold_phase[:3]).astype(np.int64)
    total += share * noise[tuple((cell % size).T)]
  return total


_NOISE_CELLS = 64


@functools.cache
def _noise() -> Float[np.ndarray, "n n n"]:
  """White noise, a little blurred, that repeats in every direction."""
  cells = np.random.default_rng(0).standard_normal((_NOISE_CELLS,) * 3)
  for axis in range(3):
    cells = cells + 0.7 * (np.roll(cells, 1, axis) + np.roll(cells, -1, axis))
  return (cells / cells.std() * 0.5).clip(-1, 1).astype(np.float32)


_FOLD_WAVES = np.array([[47, 21, 13], [16, 26, 31], [38, 17, 24]], np.float32)
_FOLD_DEPTH = np.zeros(NUM_REGIONS, np.float32)
_FOLD_DEPTH[[TOP, BOTTOM, HAIR]] = 0.16, 0.13, 0.12
