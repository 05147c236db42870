"""What a config's types cannot say, checked before any device starts."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

from ml_collections import ConfigDict

BODIES = {"humanoid": 6890, "smpl": 6890, "mano": 778}  # vertices of the full mesh
JOINTS = {"humanoid": 14, "smpl": 14, "mano": 21}  # that a network gives
WITHOUT_STATISTICS = ("blazepose",)  # of batches; what they make is a function of one
EMBEDDED = ("blazepose",)  # backbones whose weights come with the package


class Setting(NamedTuple):
  """A setting's default and the values that it may have."""

  default: Any
  expected: str  # for messages
  allows: Callable[[Any], bool]


def positive(default: int | float) -> Setting:
  """Declares a number above zero."""
  return Setting(default, "a positive number", lambda value: value > 0)


def not_negative(default: int | float) -> Setting:
  """Declares a number from zero on."""
  return Setting(default, "zero or more", lambda value: value >= 0)


def share(default: int | float) -> Setting:
  """Declares a number from 0 to 1."""
  return Setting(default, "a share between 0 and 1", lambda value: 0 <= value <= 1)


def one_of(*choices: str | int, default: str | int | None = None) -> Setting:
  """Declares one of some values; the first is the default if none is given."""
  expected = "one of " + ", ".join(map(str, choices))
  chosen = choices[0] if default is None else default
  return Setting(chosen, expected, lambda value: value in choices)


def defaults(section: SimpleNamespace) -> dict[str, Any]:
  """Takes the values of settings and of the sections in them."""
  values = {}
  for name, value in vars(section).items():
    if isinstance(value, SimpleNamespace):
      value = defaults(value)
    values[name] = value.default if isinstance(value, Setting) else value
  return values


def declared(
  section: SimpleNamespace, prefix: str = ""
) -> Iterator[tuple[str, Setting]]:
  """Yields the settings that are checked, by dotted key."""
  for name, value in vars(section).items():
    if isinstance(value, SimpleNamespace):
      yield from declared(value, f"{prefix}{name}.")
    elif isinstance(value, Setting):
      yield prefix + name, value


def validate_together(config: ConfigDict) -> None:
  """Checks settings that must fit each other.

  Raises:
    ValueError: Naming the key, what was expected and what came.
  """
  _validate_sizes(config)
  _validate_model(config.model)
  _validate_body(config)
  _validate_data(config.data)
  _validate_kind(config)
  _validate_passes(config)
  _validate_maps(config)
  _validate_views(config)


def expect(ok: bool, key: str, expected: str, got: object) -> None:
  """Refuses a value.

  Raises:
    ValueError: If it is not `ok`, naming the key.
  """
  if not ok:
    raise ValueError(f"config.{key}: expected {expected}, got {got!r}")


def _validate_sizes(config: ConfigDict) -> None:
  px = config.data.image_px
  expect(px % 32 == 0, "data.image_px", "a multiple of 32", px)
  decay = config.optimizer.ema_decay
  expect(decay < 1, "optimizer.ema_decay", "less than 1", decay)
  batch, parts = config.train.batch_size, config.optimizer.accumulate
  expect(
    batch % parts == 0,
    "train.batch_size",
    f"a multiple of optimizer.accumulate ({parts})",
    batch,
  )


def _validate_model(model: ConfigDict) -> None:
  expect(
    model.backbone_weights != "embedded" or model.backbone in EMBEDDED,
    "model.backbone",
    f"{' or '.join(EMBEDDED)} with backbone_weights 'embedded'",
    model.backbone,
  )
  blocks = len(model.hidden_widths)
  for key in ("output_widths", "feedforward_widths"):
    expect(len(model[key]) == blocks, f"model.{key}", f"{blocks} widths", model[key])
  last = tuple(model.output_widths)[-1:]
  expect(last == (3,), "model.output_widths", "a last width of 3", last)
  for width in model.hidden_widths:
    expect(
      width % model.num_heads == 0,
      "model.hidden_widths",
      f"multiples of num_heads ({model.num_heads})",
      width,
    )


def _validate_body(config: ConfigDict) -> None:
  levels = tuple(config.body.levels)
  expect(
    len(levels) > 0 and sorted(set(levels), reverse=True) == list(levels),
    "body.levels",
    "vertex counts from fine to coarse",
    levels,
  )
  full = BODIES[config.body.model]
  expect(levels[0] == full, "body.levels", f"{full} vertices first", levels)
  tokens = JOINTS[config.body.model] + levels[-1]
  expect(
    tokens <= config.model.max_positions,
    "model.max_positions",
    f"at least {tokens}, one for each joint and coarse vertex",
    config.model.max_positions,
  )
  shares = tuple(config.loss.vertex_levels)
  expect(
    len(shares) == len(levels) and min(shares) >= 0 and sum(shares) > 0,
    "loss.vertex_levels",
    f"{len(levels)} shares, one a level of body.levels",
    shares,
  )


def _validate_data(data: ConfigDict) -> None:
  expect(len(data.train) > 0, "data.train", "at least one dataset", data.train)
  names = [(f"data.train[{i}]", name) for i, name in enumerate(data.train)]
  for key, name in (
    *names,
    ("data.validation", data.validation),
    ("data.test", data.test),
  ):
    parts = name.split("/") if isinstance(name, str) else ()
    expect(len(parts) == 2 and all(parts), key, '"name/split"', name)
  weights = tuple(data.weights)
  expect(
    not weights or (len(weights) == len(data.train) and min(weights) > 0),
    "data.weights",
    f"{len(data.train)} positive numbers, one a dataset of data.train, or none",
    weights,
  )


def _validate_kind(config: ConfigDict) -> None:
  """What bodies and hands must have different."""
  hand = config.body.model == "mano"
  flip = config.data.augment.flip_probability
  expect(
    not hand or flip == 0,
    "data.augment.flip_probability",
    "0 of a hand (a mirrored right hand is a left one)",
    flip,
  )
  gendered = config.eval.ground_truth == "gendered"
  expect(
    not gendered or config.body.model == "smpl",
    "eval.ground_truth",
    "'gendered' only with body.model smpl",
    config.body.model,
  )


def _validate_passes(config: ConfigDict) -> None:
  passes = config.data.passes
  upright = config.body.model != "mano" and config.data.crop == "exact"
  expect(
    passes == 1 or upright,
    "data.passes",
    "1 of a hand or with data.crop released: a torso is turned upright",
    passes,
  )


def _validate_maps(config: ConfigDict) -> None:
  constant = config.model.backbone in WITHOUT_STATISTICS
  constant &= "backbone" in config.optimizer.frozen
  expect(
    config.data.map_views == 0 or constant,
    "data.map_views",
    "0, or a model.backbone of " + ", ".join(WITHOUT_STATISTICS) + ' and "backbone" in '
    "optimizer.frozen: kept maps must stay true",
    config.data.map_views,
  )


def _validate_views(config: ConfigDict) -> None:
  """Test-time augmentation: the unchanged view is what the others are aligned to."""
  scales, degrees = config.eval.tta_scales, config.eval.tta_rotations_deg
  expect(
    1.0 in scales and min(scales) > 0,
    "eval.tta_scales",
    "positive numbers, 1.0 among them",
    scales,
  )
  expect(0.0 in degrees, "eval.tta_rotations_deg", "numbers, 0.0 among them", degrees)
  expect(
    not config.eval.tta_flip or config.body.model != "mano",
    "eval.tta_flip",
    "False of a hand (a mirrored right hand is a left one)",
    config.eval.tta_flip,
  )
