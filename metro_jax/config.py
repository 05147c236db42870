"""The base config: every setting is declared here once, typed and explained.

`get_config()` is the paper's METRO with a ResNet-50 backbone. The files under
`configs/` start from it and say only what differs. The result is locked, so a
misspelt key fails at once, and `validate` checks what a type cannot, before any
device starts.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from metro_jax.config_checks import (
  BODIES,
  declared,
  defaults,
  expect,
  not_negative,
  one_of,
  positive,
  share,
  validate_together,
)
from metro_jax.data import augment, schema
from metro_jax.models import metro

# Where a machine has its files: of no influence on a run, and each may have its own.
OWN_PATHS = ("data.data_dir", "body.assets_dir", "train.photographs")
DROPOUT_PRNGS = ("unsafe_rbg", "rbg", "threefry2x32")  # names of JAX


def get_config() -> ConfigDict:
  """Returns the locked base config; see the comments for every key."""
  return ConfigDict(defaults(_settings())).lock()


def validate(config: ConfigDict) -> None:
  """Checks what types cannot, before any device starts.

  Args:
    config: A config made by `get_config`, with its overrides.

  Raises:
    ValueError: Naming the key, what was expected and what came.
  """
  for key, setting in declared(_settings()):
    value = config_path.get_value(key, config)
    expect(setting.allows(value), key, setting.expected, value)
  validate_together(config)


def _settings() -> SimpleNamespace:
  config = SimpleNamespace(seed=0)
  config.body = _body()
  config.data = _data()
  config.model = _model()
  config.loss = _loss()
  config.optimizer = _optimizer()
  config.train = _train()
  config.eval = _eval()
  return config


def _body() -> SimpleNamespace:
  c = SimpleNamespace()
  # Embedded and free; or SMPL, or MANO, the right hand.
  c.model = one_of(*BODIES)
  c.gender = one_of(*schema.GENDERS)  # of SMPL
  c.assets_dir = ""  # folder of SMPL's and MANO's files; empty: METRO_ASSETS
  c.levels = (6890, 1723, 431)  # vertices a mesh level, fine to coarse
  return c


def _data() -> SimpleNamespace:
  c = SimpleNamespace()
  c.train = ("synthetic/train",)  # datasets to train on, each "name/split"
  c.weights = ()  # of each in the batches; empty: every example once an epoch
  c.validation = "synthetic/validation"
  c.test = "synthetic/test"
  c.data_dir = "~/.cache/metro_jax"  # where prepared datasets live
  c.image_px = positive(224)  # side of the square network input
  # Between pixels, or rounded as the original's.
  c.crop = one_of(*augment.ARITHMETICS)
  c.passes = one_of(1, 2)  # the second sees the person upright and large; framing.py
  # Of each example, whose maps of a frozen backbone are kept; or none.
  c.map_views = not_negative(0)
  c.read_threads = not_negative(0)  # that decode and augment; 0 means one a core
  c.prefetch_batches = positive(2)  # decoded ahead; two keep devices busy
  c.augment = _augment()
  c.synthetic = _synthetic()
  return c


def _augment() -> SimpleNamespace:
  c = SimpleNamespace()
  c.scale_std = not_negative(0.25)  # crop scale ~ N(1, std), clipped to 1 ± std
  c.rotation_std_deg = not_negative(30.0)  # in-plane ~ N(0, std), clipped to ± 2 std
  c.rotation_probability = share(0.4)  # share of the examples that are rotated
  c.flip_probability = share(0.5)  # mirrored left to right
  c.color_gain = not_negative(0.4)  # channel gains ~ U(1 - gain, 1 + gain)
  c.degradation = share(0.0)  # blur, noise, tones, cuts and covers; degradation.py
  return c


def _synthetic() -> SimpleNamespace:
  c = SimpleNamespace()
  c.seed = 0
  c.image_px = positive(224)  # side of the rendered picture
  c.train_examples = positive(100_000)
  c.validation_examples = positive(1_000)
  c.test_examples = positive(2_000)
  c.share_2d_only = share(0.2)  # training examples that keep only their 2D labels
  c.occluder_probability = share(0.3)  # pictures with shapes in front of the body
  c.clutter = share(1.0)  # of the backgrounds, 0 to 1: how much stands there, how sharp
  # Weak perspective, or lenses of 24 to 200 mm, at any tilt.
  c.camera = one_of("weak", "perspective")
  c.scenery = one_of("drawn", "panoramas")  # photographed places and their light
  c.wardrobe = one_of("plain", "sport")  # also bare torsos, bare feet, caps
  c.bystanders = share(0.0)  # share of the pictures with a second or third person
  c.poses = one_of("stances", "motions")  # real motion, exercises, mixtures as well
  c.workers = not_negative(0)  # rendering processes; 0 means one a core
  return c


def _model() -> SimpleNamespace:
  c = SimpleNamespace()
  c.backbone = one_of(*metro.BACKBONES, default="resnet50")
  c.backbone_width = positive(64)  # of the first convolution; blazepose has its own
  # First weights: ImageNet's, in a file or "org/name" of Hugging Face; of blazepose
  # "embedded", the released ones; empty starts from nothing.
  c.backbone_weights = ""
  c.hidden_widths = (1024, 256, 128)  # one encoder block each
  c.output_widths = (512, 128, 3)  # what each block projects down to; ends in 3
  c.num_layers = positive(4)  # attention layers a block
  c.num_heads = positive(4)
  c.feedforward_widths = (3072, 3072, 3072)
  c.max_positions = positive(512)  # rows of the learned position embedding
  c.dropout = share(0.1)
  # "threefry2x32" makes the same bits on every device; the others are faster.
  c.dropout_prng = one_of(*DROPOUT_PRNGS)
  c.init_std = positive(0.02)  # of the encoder's first weights; narrow blocks want more
  c.position_std = positive(0.02)  # of its first position embeddings
  c.output_std = positive(0.02)  # of the first weights behind the coordinates
  c.mask_fraction = share(0.3)  # most of the tokens that masked modelling hides
  # Mixes the map's positions; "pooled" (hand) repeats its mean.
  c.token_source = one_of("grid", "pooled")
  c.camera_tokens = one_of("vertices", "all")  # that the camera is read off; all: hand
  c.camera_hidden_width = positive(250)
  c.camera_init = one_of("torch", "unit")  # "unit" starts from a crop 2 m wide
  # "barycentric" starts from the mesh's geometry.
  c.upsampling_init = one_of("torch", "barycentric")
  c.remat = False  # compute encoder layers twice instead of keeping what is in them
  c.batch_norm_group = not_negative(0)  # devices that share statistics; 0 means all
  # Parameters and outputs stay float32.
  c.compute_dtype = one_of("float32", "bfloat16")
  return c


def _loss() -> SimpleNamespace:
  c = SimpleNamespace()
  c.recipe = one_of("paper", "released")  # the released code's terms and weights
  # Of 3D joints as labelled, or those of the true mesh instead.
  c.true_joints = one_of("labels", "mesh")
  c.vertices = not_negative(1.0)
  c.vertex_levels = (1.0, 1.0, 1.0)  # share of each mesh level, coarse to fine
  c.joints = not_negative(1.0)
  c.regressed_joints = not_negative(1.0)
  c.projection = not_negative(1.0)
  return c


def _optimizer() -> SimpleNamespace:
  c = SimpleNamespace()
  c.learning_rate = positive(1e-4)
  # x 0.1 at decay_at; to 0; or the same all along.
  c.schedule = one_of("step", "cosine", "constant")
  c.decay_at = share(0.5)  # share of the steps after which "step" decays
  c.warmup_steps = not_negative(0)
  c.beta1 = 0.9
  c.beta2 = 0.999
  c.frozen = ()  # modules that keep their first weights: "backbone", "backbone/stem"
  c.backbone_rate = not_negative(1.0)  # the backbone's share of the learning rate
  c.clip_norm = not_negative(0.0)  # largest global gradient norm; 0 does not clip
  c.accumulate = positive(1)  # parts, in turn, of a device's share of a batch
  # Of averaged parameters, which are then evaluated; 0 keeps none.
  c.ema_decay = share(0.0)
  return c


def _train() -> SimpleNamespace:
  c = SimpleNamespace()
  c.init_from = ""  # weights of a fresh run: METRO's state dict, or another workdir
  c.batch_size = positive(240)  # over all devices and processes
  # Of steps over devices; shard_map is the same program.
  c.mapping = one_of("pmap", "shard_map")
  c.num_steps = positive(260_000)
  c.log_every = positive(50)
  c.validate_every = positive(1_300)
  c.checkpoint_every = positive(1_300)
  c.keep_best = positive(1)  # checkpoints kept for their PA-MPJPE, beside the latest
  # A batch that takes longer ends the run; 0 waits for ever.
  c.stall_limit_s = not_negative(600.0)
  c.wait_limit_s = positive(600.0)  # of processes for each other, at the start
  c.pictures = not_negative(6)  # validation examples in TensorBoard and the report
  c.photographs = ""  # folder of photographs, of one person each, for the report
  return c


def _eval() -> SimpleNamespace:
  c = SimpleNamespace()
  c.batch_size = positive(240)  # over all devices and processes; the last one is padded
  c.max_examples = not_negative(0)  # of validation during training; 0 means all
  # "released" takes means as the original did, to compare.
  c.averaging = one_of("exact", "released")
  c.tta_scales = (0.9, 1.0, 1.1)  # of the box, under test-time augmentation
  c.tta_rotations_deg = (-10.0, 0.0, 10.0)
  c.tta_flip = False  # bodies only: each view also mirrored
  # Bodies of true meshes; "gendered": as labelled.
  c.ground_truth = one_of("neutral", "gendered")
  # "mesh": regressed from true meshes like predicted ones.
  c.true_joints = one_of("labels", "mesh")
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
