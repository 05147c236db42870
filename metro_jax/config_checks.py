"""What a config's types cannot say, checked before any device starts."""

import ml_collections
from ml_collections import ConfigDict

BODIES = {"humanoid": 6890, "smpl": 6890, "mano": 778}  # vertices of the full mesh
JOINTS = {"humanoid": 14, "smpl": 14, "mano": 21}  # that a network gives
GENDERS = ("neutral", "male", "female")
BACKBONES = ("resnet18", "resnet34", "resnet50", "hrnet_w40", "hrnet_w64", "blazepose")
WITHOUT_STATISTICS = ("blazepose",)  # of batches; what they make is a function of one
EMBEDDED = ("blazepose",)  # backbones whose weights come with the package
SCHEDULES = ("step", "cosine", "constant")
CROPS = ("exact", "released")
POSES = ("stances", "motions")  # of the synthetic pictures, as what follows
CAMERAS = ("weak", "perspective")
SCENERIES = ("drawn", "panoramas")
WARDROBES = ("plain", "sport")
AVERAGINGS = ("exact", "released")
GROUND_TRUTHS = ("neutral", "gendered")
TRUE_JOINTS = ("labels", "mesh")
RECIPES = ("paper", "released")
LOSS_ROOTS = ("hips", "wrist")
DROPOUT_PRNGS = ("threefry2x32", "rbg", "unsafe_rbg")  # names of JAX
DTYPES = ("float32", "bfloat16")
UPSAMPLING_INITS = ("torch", "barycentric")
CAMERA_INITS = ("torch", "unit")
TOKEN_SOURCES = ("grid", "pooled")
CAMERA_TOKENS = ("vertices", "all")


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks what types cannot, before any device starts.

  Args:
    config: A config made by `get_config`, with its overrides.

  Raises:
    ValueError: Naming the key, what was expected and what came.
  """
  _validate_choices(config)
  _validate_ranges(config)
  _validate_model(config.model)
  _validate_body(config)
  _validate_data(config.data)
  _validate_kind(config)
  _validate_passes(config)
  _validate_maps(config)
  _validate_views(config)


def _expect(ok: bool, key: str, expected: str, got: object) -> None:
  if not ok:
    raise ValueError(f"config.{key}: expected {expected}, got {got!r}")


def _validate_choices(config: ConfigDict) -> None:
  choices = {
    "body.model": tuple(BODIES),
    "body.gender": GENDERS,
    "data.crop": CROPS,
    "data.synthetic.poses": POSES,
    "data.synthetic.camera": CAMERAS,
    "data.synthetic.scenery": SCENERIES,
    "data.synthetic.wardrobe": WARDROBES,
    "eval.averaging": AVERAGINGS,
    "eval.ground_truth": GROUND_TRUTHS,
    "eval.true_joints": TRUE_JOINTS,
    "model.backbone": BACKBONES,
    "model.token_source": TOKEN_SOURCES,
    "model.camera_tokens": CAMERA_TOKENS,
    "model.upsampling_init": UPSAMPLING_INITS,
    "model.camera_init": CAMERA_INITS,
    "model.dropout_prng": DROPOUT_PRNGS,
    "model.compute_dtype": DTYPES,
    "loss.recipe": RECIPES,
    "loss.root": LOSS_ROOTS,
    "loss.true_joints": TRUE_JOINTS,
    "optimizer.schedule": SCHEDULES,
  }
  for key, allowed in choices.items():
    value = get(config, key)
    _expect(value in allowed, key, "one of " + ", ".join(allowed), value)


def _validate_ranges(config: ConfigDict) -> None:
  positive = (
    "data.image_px data.read_threads data.prefetch "
    "data.synthetic.image_px data.synthetic.train_examples "
    "data.synthetic.validation_examples data.synthetic.test_examples "
    "model.backbone_width model.num_layers model.num_heads model.max_positions "
    "model.camera_hidden_width model.init_std model.position_std model.output_std "
    "optimizer.learning_rate optimizer.accumulate train.batch_size "
    "train.num_steps train.log_every train.validate_every train.checkpoint_every "
    "train.keep_best train.wait_limit_s eval.batch_size"
  )
  for key in positive.split():
    value = get(config, key)
    _expect(value > 0, key, "a positive number", value)
  shares = (
    "data.synthetic.share_2d_only data.synthetic.occluder_probability "
    "data.synthetic.clutter data.synthetic.bystanders "
    "data.augment.rotation_probability data.augment.flip_probability "
    "data.augment.degradation model.dropout model.mask_fraction optimizer.decay_at "
    "optimizer.ema_decay"
  )
  for key in shares.split():
    value = get(config, key)
    _expect(0 <= value <= 1, key, "a share between 0 and 1", value)
  not_negative = (
    "data.map_views data.synthetic.workers data.augment.scale_std "
    "data.augment.rotation_std_deg "
    "data.augment.color_gain model.batch_norm_group optimizer.warmup_steps "
    "optimizer.clip_norm optimizer.backbone_rate eval.max_examples train.pictures "
    "train.stall_limit_s loss.vertices loss.joints loss.regressed_joints "
    "loss.projection"
  )
  for key in not_negative.split():
    value = get(config, key)
    _expect(value >= 0, key, "zero or more", value)
  px = config.data.image_px
  _expect(px % 32 == 0, "data.image_px", "a multiple of 32", px)
  decay = config.optimizer.ema_decay
  _expect(decay < 1, "optimizer.ema_decay", "less than 1", decay)
  batch, parts = config.train.batch_size, config.optimizer.accumulate
  _expect(
    batch % parts == 0,
    "train.batch_size",
    f"a multiple of optimizer.accumulate ({parts})",
    batch,
  )


def get(config: ConfigDict, key: str) -> float | int | str:
  """The value at a dotted key."""
  for name in key.split("."):
    config = config[name]
  return config


def _validate_model(model: ConfigDict) -> None:
  _expect(
    model.backbone_weights != "embedded" or model.backbone in EMBEDDED,
    "model.backbone",
    f"{' or '.join(EMBEDDED)} with backbone_weights 'embedded'",
    model.backbone,
  )
  blocks = len(model.hidden_widths)
  for key in ("output_widths", "feedforward_widths"):
    _expect(len(model[key]) == blocks, f"model.{key}", f"{blocks} widths", model[key])
  last = tuple(model.output_widths)[-1:]
  _expect(last == (3,), "model.output_widths", "a last width of 3", last)
  for width in model.hidden_widths:
    _expect(
      width % model.num_heads == 0,
      "model.hidden_widths",
      f"multiples of num_heads ({model.num_heads})",
      width,
    )


def _validate_body(config: ConfigDict) -> None:
  levels = tuple(config.body.levels)
  _expect(
    len(levels) > 0 and sorted(set(levels), reverse=True) == list(levels),
    "body.levels",
    "vertex counts from fine to coarse",
    levels,
  )
  full = BODIES[config.body.model]
  _expect(levels[0] == full, "body.levels", f"{full} vertices first", levels)
  tokens = JOINTS[config.body.model] + levels[-1]
  _expect(
    tokens <= config.model.max_positions,
    "model.max_positions",
    f"at least {tokens}, one for each joint and coarse vertex",
    config.model.max_positions,
  )
  shares = tuple(config.loss.vertex_levels)
  _expect(
    len(shares) == len(levels) and min(shares) >= 0 and sum(shares) > 0,
    "loss.vertex_levels",
    f"{len(levels)} shares, one a level of body.levels",
    shares,
  )


def _validate_data(data: ConfigDict) -> None:
  _expect(len(data.train) > 0, "data.train", "at least one dataset", data.train)
  names = [(f"data.train[{i}]", name) for i, name in enumerate(data.train)]
  for key, name in (
    *names,
    ("data.validation", data.validation),
    ("data.test", data.test),
  ):
    parts = name.split("/") if isinstance(name, str) else ()
    _expect(len(parts) == 2 and all(parts), key, '"name/split"', name)
  weights = tuple(data.weights)
  _expect(
    not weights or (len(weights) == len(data.train) and min(weights) > 0),
    "data.weights",
    f"{len(data.train)} positive numbers, one a dataset of data.train, or none",
    weights,
  )


def _validate_kind(config: ConfigDict) -> None:
  """What bodies and hands must have different."""
  hand = config.body.model == "mano"
  root = "wrist" if hand else "hips"
  kind = "a hand" if hand else "a body"
  _expect(
    config.loss.root == root, "loss.root", f"{root!r} of {kind}", config.loss.root
  )
  flip = config.data.augment.flip_probability
  _expect(
    not hand or flip == 0,
    "data.augment.flip_probability",
    "0 of a hand (a mirrored right hand is a left one)",
    flip,
  )
  gendered = config.eval.ground_truth == "gendered"
  _expect(
    not gendered or config.body.model == "smpl",
    "eval.ground_truth",
    "'gendered' only with body.model smpl",
    config.body.model,
  )


def _validate_passes(config: ConfigDict) -> None:
  passes = config.data.passes
  _expect(passes in (1, 2), "data.passes", "1 or 2", passes)
  upright = config.body.model != "mano" and config.data.crop == "exact"
  _expect(
    passes == 1 or upright,
    "data.passes",
    "1 of a hand or with data.crop released: a torso is turned upright",
    passes,
  )


def _validate_maps(config: ConfigDict) -> None:
  constant = config.model.backbone in WITHOUT_STATISTICS
  constant &= "backbone" in config.optimizer.frozen
  _expect(
    config.data.map_views == 0 or constant,
    "data.map_views",
    "0, or a model.backbone of " + ", ".join(WITHOUT_STATISTICS) + ' and "backbone" in '
    "optimizer.frozen: kept maps must stay true",
    config.data.map_views,
  )


def _validate_views(config: ConfigDict) -> None:
  """Test-time augmentation: the unchanged view is what the others are aligned to."""
  scales, degrees = config.eval.tta_scales, config.eval.tta_rotations_deg
  _expect(
    1.0 in scales and min(scales) > 0,
    "eval.tta_scales",
    "positive numbers, 1.0 among them",
    scales,
  )
  _expect(0.0 in degrees, "eval.tta_rotations_deg", "numbers, 0.0 among them", degrees)
  _expect(
    not config.eval.tta_flip or config.body.model != "mano",
    "eval.tta_flip",
    "False of a hand (a mirrored right hand is a left one)",
    config.eval.tta_flip,
  )
