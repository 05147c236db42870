"""The base config: every setting is declared here once, typed and explained.

`get_config()` is the paper's METRO with a ResNet-50 backbone. The files under
`configs/` start from it and say only what differs. The result is locked, so a
misspelt key fails at once, and `validate` checks what a type cannot, before any
device starts.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from metro_jax.config_checks import get, validate

__all__ = ["apply_variants", "get", "get_config", "validate"]


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
  c.passes = 1  # or 2: a second look at the person, upright and large; see framing.py
  c.map_views = 0  # of each example, whose maps of a frozen backbone are kept; or none
  c.read_threads = 4  # threads that decode and augment
  c.prefetch = 480  # examples decoded ahead; two batches keep devices busy
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
  c.degradation = 0.0  # 0 to 1: blur, noise, tones, cuts and covers; degradation.py
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
  c.camera = "weak"  # perspective; or "perspective": lenses of 24 to 200 mm, any tilt
  c.scenery = "drawn"  # or "panoramas": photographed places and the light of them
  c.wardrobe = "plain"  # or "sport": also bare torsos, bare feet, caps
  c.bystanders = 0.0  # share of the pictures with a second or third person
  c.poses = "stances"  # or "motions": real motion, exercises and mixtures as well
  c.workers = 0  # rendering processes; 0 means one a core
  return c


def _model() -> ConfigDict:
  c = ConfigDict()
  c.backbone = "resnet50"  # or resnet18, resnet34, hrnet_w40, hrnet_w64, blazepose
  c.backbone_width = 64  # channels of the first convolution; blazepose has its own
  # First weights: ImageNet's, in a file or "org/name" of Hugging Face; of blazepose
  # "embedded", the released ones; empty starts from nothing.
  c.backbone_weights = ""
  c.hidden_widths = (1024, 256, 128)  # one encoder block each
  c.output_widths = (512, 128, 3)  # what each block projects down to; ends in 3
  c.num_layers = 4  # attention layers a block
  c.num_heads = 4
  c.feedforward_widths = (3072, 3072, 3072)
  c.max_positions = 512  # rows of the learned position embedding
  c.dropout = 0.1
  c.dropout_prng = "unsafe_rbg"  # or "threefry2x32": the same bits on every device
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
  c.true_joints = "labels"  # of 3D joints; or "mesh": those of the true mesh instead
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
  c.frozen = ()  # modules that keep their first weights: "backbone", "backbone/stem"
  c.backbone_rate = 1.0  # the backbone's share of the learning rate
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
