"""Photographs in the report, with what the run's network makes of them."""

from metro_jax.checkpoints.runs import Run
from metro_jax.evaluation import examples
from metro_jax.inference import photographs
from metro_jax.inference.predictor import make_batch_predictor
from metro_jax.rendering import overlay, report

LONGEST_PX = 640  # side that a photograph is shown at
MOST = 24


def expect_there(folder: str) -> None:
  """Checks the setting `train.photographs` before a run begins.

  Raises:
    ValueError: If it names no folder of pictures.
  """
  if folder:
    photographs.find([folder])


def draw(run: Run, folder: str) -> list[report.Picture]:
  """Predicts the one person in each photograph of a folder.

  Args:
    run: The network.
    folder: Of photographs that one person fills; "" for none.

  Returns:
    Each photograph, the mesh over it and the mesh from the side, in the order of names.
  """
  if not folder:
    return []
  paths = photographs.find([folder]).pictures[:MOST]
  images = [overlay.fitted(photographs.read(path), LONGEST_PX) for path in paths]
  boxes = [overlay.whole_picture(*image.shape[:2]) for image in images]
  pictures = []
  for path, image, box, body in zip(
    paths, images, boxes, make_batch_predictor(run)(images, boxes), strict=True
  ):
    drawn = overlay.overlay(image, body.vertices_m, body.faces, body.camera, box)
    side = overlay.side_view(body.vertices_m, body.faces, image.shape[0])
    shown = (image, drawn, side)
    pictures.append(report.Picture(path.name, shown, examples.CAPTIONS, {}))
  return pictures
