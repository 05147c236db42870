"""Bodies and hands from photographs, with a trained network.

Run:    python -m metro_jax.predict --workdir=RUN IMAGE_OR_FOLDER...
          [--output=FOLDER] [--boxes=FILE.json] [--focal_px=1200] [--hand=left]
Result: For each person NAME_overlay.jpg, NAME.glb, NAME.obj and NAME.npz, and for
        several pictures contact_sheet.jpg. RUN and FOLDER may be gs:// addresses.

Without boxes each picture is taken to show one person, who fills it. The npz holds:
  vertices_m, joints_m   the mesh and its joints, metres, camera frame (x right, y
                         down, z away); joint_names says which
  camera                 s, tx, ty: x2d = s (X_xy + (tx, ty)) in [-1, 1] of box_px
  box_px                 the square the network saw: center x, center y, side
  scale_px, offset_px    the same in the whole picture: pixel = scale_px X_xy +
                         offset_px
  joints_px              joints_m in the whole picture
  translation_m          to add to the points for a pinhole camera of focal_px whose
                         principal point is the middle of the picture
  image_size_px          width, height
"""

import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import tqdm
from absl import flags
from jaxtyping import UInt8

from metro_jax import command_line
from metro_jax.body import camera
from metro_jax.data import photographs
from metro_jax.data.photographs import Corners
from metro_jax.evaluation import runs
from metro_jax.evaluation.predictor import Body, Predictor, make_predictor
from metro_jax.rendering import mesh_files, overlay
from metro_jax.rendering.overlay import Box
from metro_jax.training import bucket

FLAGS = flags.FLAGS
HANDS = ("right", "left")
JPEG_QUALITY = 92
SHEET_COLUMNS = 5
MOST_ON_SHEET = 100
THUMBNAIL_PX = 320


class Options(NamedTuple):
  """What to do with every picture."""

  output: pathlib.Path
  boxes: dict[str, list[Corners]] | None = None  # by file name
  box_scale: float = 1.2
  focal_px: float = 0.0  # 0: the picture's diagonal


def define_flags() -> None:
  """Defines the command's flags."""
  flags.DEFINE_string("workdir", None, "Folder of the training run.", required=True)
  flags.DEFINE_string("checkpoint", "best", "best (by PA-MPJPE), latest, or a step.")
  flags.DEFINE_string("output", None, "Where to write; WORKDIR/predictions by default.")
  flags.DEFINE_string(
    "boxes",
    None,
    'JSON file: {"photo.jpg": [[left, top, right, bottom], ...]}, pixels.',
  )
  flags.DEFINE_float(
    "box_scale", 1.2, "The network's square, as a multiple of a box's longer side.", 0.1
  )
  flags.DEFINE_float(
    "focal_px", 0.0, "Focal length of the photograph; 0 takes its diagonal.", 0.0
  )
  flags.DEFINE_enum(
    "hand", "right", HANDS, "Of a hand's network: left ones are seen in a mirror."
  )


def predict_all(
  paths: Sequence[pathlib.Path],
  predict: Predictor,
  options: Options,
) -> list[str]:
  """Predicts every picture and writes its files.

  Args:
    paths: The pictures.
    predict: Made by `make_predictor`.
    options: Where to write, boxes, focal length.

  Returns:
    One line for each picture that could not be read; they were printed, too.
  """
  options.output.mkdir(parents=True, exist_ok=True)
  failures, thumbnails = [], {}
  names = unique_names(paths)
  bar = tqdm.tqdm(paths, unit="picture", disable=not sys.stderr.isatty())
  for path, name in zip(bar, names, strict=True):
    try:
      image = photographs.read(path)
    except ValueError as error:
      failures.append(str(error))
      tqdm.tqdm.write(f"predict: {error}", file=sys.stderr)
      continue
    drawn = predict_picture(image, path.name, name, predict, options)
    if len(thumbnails) < MOST_ON_SHEET:
      thumbnails[name] = _thumbnail(drawn)
  if len(thumbnails) > 1:
    sheet = overlay.contact_sheet(
      list(thumbnails.values()), SHEET_COLUMNS, list(thumbnails), THUMBNAIL_PX
    )
    _write_jpeg(options.output / "contact_sheet.jpg", sheet)
  return failures


def predict_picture(
  image: UInt8[np.ndarray, "h w 3"],
  file_name: str,
  name: str,
  predict: Predictor,
  options: Options,
) -> UInt8[np.ndarray, "h w 3"]:
  """Predicts everybody in one picture, writes the files, returns the overlay."""
  height, width = image.shape[:2]
  given = options.boxes.get(file_name) if options.boxes is not None else None
  squares = photographs.squares(height, width, given, options.box_scale)
  drawn = image
  for i, box in enumerate(squares):
    body = predict(image, box)
    drawn = overlay.overlay(drawn, body.vertices_m, body.faces, body.camera, box)
    stem = name if len(squares) == 1 else f"{name}_{i + 1}"
    focal_px = options.focal_px or math.hypot(width, height)
    write_body(options.output, stem, body, box, (width, height), focal_px)
  _write_jpeg(options.output / f"{name}_overlay.jpg", drawn)
  return drawn


def write_body(
  folder: pathlib.Path,
  stem: str,
  body: Body,
  box: Box,
  image_size_px: tuple[int, int],
  focal_px: float,
) -> None:
  """Writes one person's GLB, OBJ and npz."""
  mesh_files.write_glb(folder / f"{stem}.glb", body.vertices_m, body.faces)
  mesh_files.write_obj(folder / f"{stem}.obj", body.vertices_m, body.faces)
  mesh_files.write_npz(
    folder / f"{stem}.npz",
    body.vertices_m,
    body.joints_m,
    body.joint_names,
    body.camera,
    body.faces,
    in_picture(body, box, image_size_px, focal_px),
  )


def in_picture(
  body: Body, box: Box, image_size_px: tuple[int, int], focal_px: float
) -> dict[str, np.ndarray]:
  """The camera in the whole picture, weak-perspective and pinhole.

  pixel = scale_px X_xy + offset_px, with scale_px = s side / 2 and
  offset_px = center + scale_px (tx, ty)

  Args:
    body: As predicted in the box.
    box: The square that the network saw.
    image_size_px: Width and height of the picture.
    focal_px: Of the pinhole camera.

  Returns:
    The further arrays of the npz; see the top of this file.
  """
  center_px = np.array([box.center_x, box.center_y])
  scale_px = body.camera[0] * box.side / 2
  translation_m = camera.perspective_translation(
    body.camera.astype(np.float64),
    center_px,
    np.array(box.side),
    image_size_px,
    focal_px,
  )
  return {
    "box_px": np.array(box),
    "scale_px": np.array(scale_px),
    "offset_px": center_px + scale_px * body.camera[1:],
    "joints_px": overlay.to_pixels(body.joints_m, body.camera, box),
    "translation_m": translation_m,
    "focal_px": np.array(focal_px),
    "image_size_px": np.array(image_size_px),
  }


def unique_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """File names without suffix; one that came before gets a number."""
  names: list[str] = []
  taken: set[str] = set()
  for path in paths:
    name, number = path.stem, 2
    while name in taken:
      name, number = f"{path.stem}-{number}", number + 1
    taken.add(name)
    names.append(name)
  return names


def _thumbnail(image: np.ndarray) -> np.ndarray:
  """Small, so that many pictures do not fill the memory."""
  scale = min(1.0, THUMBNAIL_PX / max(image.shape[:2]))
  return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _write_jpeg(path: pathlib.Path, image: np.ndarray) -> None:
  done, data = cv2.imencode(
    ".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  )
  if not done:
    raise ValueError(f"{path}: could not encode a picture of shape {image.shape}")
  path.write_bytes(data.tobytes())


def main(arguments: list[str]) -> int:
  workdir = FLAGS.workdir
  output = FLAGS.output or f"{workdir.rstrip('/')}/predictions"
  bucket.expect_usable(workdir, writes=False)
  bucket.expect_usable(output)
  paths = photographs.find(arguments)
  boxes = photographs.read_boxes(FLAGS.boxes) if FLAGS.boxes else None
  run = runs.load(workdir, runs.parse_checkpoint(FLAGS.checkpoint))
  left = FLAGS.hand == "left"
  if left and not run.network.body.is_hand:
    raise ValueError(
      f"--hand: expected a network of hands, {workdir} has one of bodies"
    )
  with bucket.RunFolder(output) as folder:
    options = Options(folder.local, boxes, FLAGS.box_scale, FLAGS.focal_px)
    failures = predict_all(paths, make_predictor(run, left), options)
  done = len(paths) - len(failures)
  print(f"Predicted {done} of {len(paths)} pictures into {folder.address}")
  return 1 if failures else 0


if __name__ == "__main__":
  define_flags()
  command_line.run("predict", main)
