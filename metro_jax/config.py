"""The base config: every setting is declared here once, typed and explained.

`get_config()` is the paper's METRO with a ResNet-50 backbone. The files under
`configs/` start from it and say only what differs. The result is locked, so a
misspelt key fails at once, and `validate` checks what a type cannot, before any
device starts.
"""

from collections.abc import Callable, Mapping

import ml_collections
from ml_collections import ConfigDict

BODIES = {"humanoid": 6890, "smpl": 6890, "mano": 778}  # vertices of the full mesh
GENDERS = ("neutral", "male", "female")
BACKBONES = ("resnet18", "resnet34", "resnet50", "hrnet_w40", "hrnet_w64")
SCHEDULES = ("step", "cosine", "constant")
CROPS = ("exact", "released")
AVERAGINGS = ("exact", "released")
GROUND_TRUTHS = ("neutral", "gendered")
TRUE_JOINTS = ("labels", "mesh")
RECIPES = ("paper", "released")
LOSS_ROOTS = ("hips", "wrist")
DTYPES = ("float32", "bfloat16")
UPSAMPLING_INITS = ("torch", "barycentric")
CAMERA_INITS = ("torch", "unit")
TOKEN_SOURCES = ("grid", "pooled")
CAMERA_TOKENS = ("vertices", "all")


def get_config() -> ConfigDict:
  """Returns the locked base config; see the comments for every key."""
  config = ConfigDict()
  config.seed = 0
  config.body = _body()
  config.data = _data()
  config.model = _model()
  config.loss = _loss()
  config.optimizer = _optimizer()
  config.train = _train()
  config.eval = _eval()
  return config.lock()


def _body() -> ConfigDict:
  c = ConfigDict()
  c.model = "humanoid"  # embedded and free; or "smpl", or "mano", the right hand
  c.gender = "neutral"  # of SMPL: or "male", "female"
  c.assets_dir = ""  # folder of SMPL's and MANO's files; empty: METRO_ASSETS
  c.levels = (6890, 1723, 431)  # vertices a mesh level, fine to coarse
  return c


def _data() -> ConfigDict:
  c = ConfigDict()
  c.train = ("synthetic/train",)  # datasets to train on, each "name/split"
  c.weights = ()  # of each in the batches; empty: every example once an epoch
  c.validation = "synthetic/validation"
  c.test = "synthetic/test"
  c.data_dir = "~/.cache/metro_jax"  # where prepared datasets live
  c.image_px = 224  # side of the square network input
  c.crop = "exact"  # between pixels; or "released": rounded as the original's
  c.read_threads = 4  # threads that decode and augment
  c.prefetch = 64  # examples decoded ahead
  c.augment = _augment()
  c.synthetic = _synthetic()
  return c


def _augment() -> ConfigDict:
  c = ConfigDict()
  c.scale_std = 0.25  # crop scale ~ N(1, std), clipped to 1 ± std
  c.rotation_std_deg = 30.0  # in-plane rotation ~ N(0, std), clipped to ± 2 std
  c.rotation_probability = 0.4  # share of the examples that are rotated
  c.flip_probability = 0.5  # mirrored left to right
  c.color_gain = 0.4  # channel gains ~ U(1 - gain, 1 + gain)
  return c


def _synthetic() -> ConfigDict:
  c = ConfigDict()
  c.seed = 0
  c.image_px = 224  # side of the rendered picture
  c.train_examples = 100_000
  c.validation_examples = 1_000
  c.test_examples = 2_000
  c.share_2d_only = 0.2  # training examples that keep only their 2D labels
  c.occluder_probability = 0.3  # pictures with shapes in front of the body
  c.clutter = 1.0  # of the backgrounds, 0 to 1: how much stands there, how sharp
  c.workers = 0  # rendering processes; 0 means one a core
  return c


def _model() -> ConfigDict:
  c = ConfigDict()
  c.backbone = "resnet50"
  c.backbone_width = 64  # channels of the first convolution
  c.backbone_weights = ""  # ImageNet weights: a file, or "org/name" of Hugging Face
  c.hidden_widths = (1024, 256, 128)  # one encoder block each
  c.output_widths = (512, 128, 3)  # what each block projects down to; ends in 3
  c.num_layers = 4  # attention layers a block
  c.num_heads = 4
  c.feedforward_widths = (3072, 3072, 3072)
  c.max_positions = 512  # rows of the learned position embedding
  c.dropout = 0.1
  c.init_std = 0.02  # of the encoder's first weights; narrow blocks want more
  c.position_std = 0.02  # of its first position embeddings
  c.output_std = 0.02  # of the first weights behind the coordinates
  c.mask_fraction = 0.3  # most of the tokens that masked modelling hides
  c.token_source = "grid"  # mix the map's positions; "pooled" (hand): repeat its mean
  c.camera_tokens = "vertices"  # what the camera is read off; or "all" (hand)
  c.camera_hidden_width = 250
  c.camera_init = "torch"  # or "unit": start from a crop 2 m wide
  c.upsampling_init = "torch"  # or "barycentric": start from the mesh's geometry
  c.remat = False  # compute encoder layers twice instead of keeping what is in them
  c.batch_norm_group = 0  # neighbouring devices that share statistics; 0 means all
  c.compute_dtype = "float32"  # or "bfloat16"; parameters and outputs stay float32
  return c


def _loss() -> ConfigDict:
  c = ConfigDict()
  c.recipe = "paper"  # or "released": the released code's terms and weights
  c.root = "hips"  # origin of the 3D joints, and whose released weights; or "wrist"
  c.vertices = 1.0
  c.vertex_levels = (1.0, 1.0, 1.0)  # share of each mesh level, coarse to fine
  c.joints = 1.0
  c.regressed_joints = 1.0
  c.projection = 1.0
  return c


def _optimizer() -> ConfigDict:
  c = ConfigDict()
  c.learning_rate = 1e-4
  c.schedule = "step"  # "step": x 0.1 at decay_at; "cosine": to 0; "constant"
  c.decay_at = 0.5  # share of the steps after which "step" decays
  c.warmup_steps = 0
  c.beta1 = 0.9
  c.beta2 = 0.999
  c.frozen = ()  # modules that keep their first weights, such as "backbone"
  c.clip_norm = 0.0  # largest global gradient norm; 0 does not clip
  c.accumulate = 1  # parts in which a device takes its share of a batch, in turn
  c.ema_decay = 0.0  # of averaged parameters, which are then evaluated; 0 keeps none
  return c


def _train() -> ConfigDict:
  c = ConfigDict()
  c.init_from = ""  # weights of a fresh run: METRO's state dict, or another workdir
  c.batch_size = 240  # over all devices and processes
  c.num_steps = 260_000
  c.log_every = 50
  c.validate_every = 1_300
  c.checkpoint_every = 1_300
  c.keep_best = 1  # checkpoints kept for their PA-MPJPE, beside the latest
  c.stall_limit_s = 600.0  # a batch that takes longer ends the run; 0 waits for ever
  c.wait_limit_s = 600.0  # how long processes wait for each other at the start
  c.pictures = 6  # validation examples drawn for TensorBoard and the report
  return c


def _eval() -> ConfigDict:
  c = ConfigDict()
  c.batch_size = 240  # over all devices and processes; the last one is padded
  c.max_examples = 0  # of validation during training; 0 means all
  c.averaging = "exact"  # or "released": means as the original took them, to compare
  c.tta_scales = (0.9, 1.0, 1.1)  # of the box, under test-time augmentation
  c.tta_rotations_deg = (-10.0, 0.0, 10.0)
  c.tta_flip = False  # bodies only: each view also mirrored
  c.ground_truth = "neutral"  # bodies of true meshes; or "gendered", as labelled
  c.true_joints = "labels"  # or "mesh": regressed from true meshes like predicted ones
  return c


def apply_variants(
  config: ConfigDict,
  variants: str,
  where: str,
  own: Mapping[str, Callable[[ConfigDict], None]] | None = None,
) -> ConfigDict:
  """Makes the changes that "--config=configs/x.py:VARIANTS" names.

  Args:
    config: To change.
    variants: Names joined by commas; "" changes nothing. "hrnet_w64" is the paper's
      best backbone, "released" the released code's losses and crops.
    where: The config file, for the error.
    own: Further variants of that file.

  Returns:
    The same config.

  Raises:
    ValueError: If there is no such variant.
  """
  known = {"hrnet_w64": _hrnet_w64, "released": _released, **(own or {})}
  for name in filter(None, variants.split(",")):
    if name not in known:
      raise ValueError(f"{where}: expected some of {', '.join(known)}, got {name!r}")
    known[name](config)
  return config


def _hrnet_w64(config: ConfigDict) -> None:
  config.model.backbone = "hrnet_w64"


def _released(config: ConfigDict) -> None:
  config.loss.recipe = "released"
  config.data.crop = "released"


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
  _validate_views(config)


def _expect(ok: bool, key: str, expected: str, got: object) -> None:
  if not ok:
    raise ValueError(f"config.{key}: expected {expected}, got {got!r}")


def _validate_choices(config: ConfigDict) -> None:
  choices = {
    "body.model": tuple(BODIES),
    "body.gender": GENDERS,
    "data.crop": CROPS,
    "eval.averaging": AVERAGINGS,
    "eval.ground_truth": GROUND_TRUTHS,
    "eval.true_joints": TRUE_JOINTS,
    "model.backbone": BACKBONES,
    "model.token_source": TOKEN_SOURCES,
    "model.camera_tokens": CAMERA_TOKENS,
    "model.upsampling_init": UPSAMPLING_INITS,
    "model.camera_init": CAMERA_INITS,
    "model.compute_dtype": DTYPES,
    "loss.recipe": RECIPES,
    "loss.root": LOSS_ROOTS,
    "optimizer.schedule": SCHEDULES,
  }
  for key, allowed in choices.items():
    section, name = key.split(".")
    value = config[section][name]
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
    "data.synthetic.clutter "
    "data.augment.rotation_probability data.augment.flip_probability "
    "model.dropout model.mask_fraction optimizer.decay_at optimizer.ema_decay"
  )
  for key in shares.split():
    value = get(config, key)
    _expect(0 <= value <= 1, key, "a share between 0 and 1", value)
  not_negative = (
    "data.synthetic.workers data.augment.scale_std data.augment.rotation_std_deg "
    "data.augment.color_gain model.batch_norm_group optimizer.warmup_steps "
    "optimizer.clip_norm eval.max_examples train.pictures train.stall_limit_s "
    "loss.vertices loss.joints loss.regressed_joints loss.projection"
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


def get(config: ConfigDict, key: str) -> float | int:
  """The number at a dotted key."""
  for name in key.split("."):
    config = config[name]
  return config


def _validate_model(model: ConfigDict) -> None:
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
