import cv2
import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.evaluation import examples
from metro_jax.evaluation.eval_step import Evaluation
from metro_jax.evaluation.evaluator import Results
from metro_jax.models.forward import Predicted

VERTICES_M = np.array(
  [[-0.4, -0.4, 0], [0.4, -0.4, 0], [0, 0.5, 0], [0, 0, 0.3]], np.float32
)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)


def results(errors):
  rows = 100 + np.arange(len(errors))
  errors = {"mpjpe_mm": np.array(errors, np.float32)}
  return Results({}, len(rows), rows, errors, {})


def test_typical_examples_lie_around_the_median_between_best_and_worst():
  errors = [9.0, 1.0, 5.0, np.nan, 3.0, 7.0, 4.0, 6.0, 2.0, 8.0]
  chosen = examples.choose(results(errors), 6)
  assert [choice.label for choice in chosen] == ["typical"] * 4 + ["best", "worst"]
  # Without the extremes 2 .. 8 remain, cut into four parts.
  picked = [errors[choice.row - 100] for choice in chosen]
  assert picked == [2.0, 4.0, 6.0, 8.0, 1.0, 9.0]


def test_the_worst_come_worst_first_without_those_not_measured():
  chosen = examples.worst(results([5.0, np.nan, 9.0, 7.0]), 2)
  assert chosen == [examples.Choice("worst", 102), examples.Choice("worst", 103)]
  assert [c.row for c in examples.worst(results([1.0, np.nan]), 6)] == [100]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_no_example_is_shown_twice_and_few_are_enough(count):
  chosen = examples.choose(results([3.0, 1.0, 2.0]), count)
  rows = [choice.row for choice in chosen]
  assert len(set(rows)) == len(rows) == min(count, 3)
  assert examples.choose(results([]), count) == []
  assert examples.choose(results([np.nan]), count) == []


class Split:
  """Grey pictures; the row is the grey."""

  name = "tiny/test"

  def __len__(self):
    return 200

  def __getitem__(self, row):
    _, jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), row, np.uint8))
    return {
      "key": f"test/{row}",
      "image": jpeg.tobytes(),
      "center_px": np.array([16, 16], np.float32),
      "box_px": np.float32(32),
      "joints_2d_px": np.zeros((24, 3), np.float32),
      "joints_3d_m": np.zeros((24, 4), np.float32),
      "pose": np.zeros(72, np.float32),
      "shape": np.zeros(10, np.float32),
      "camera": np.zeros(3, np.float32),
      "has_joints_2d": np.bool_(False),
      "has_joints_3d": np.bool_(False),
      "has_mesh": np.bool_(False),
    }


def fake_step(state, batch):
  """Says the same mesh everywhere, with an error that is the picture's grey."""
  grey = np.asarray(batch.image)[..., 0, 0, 0].astype(np.float32)
  meshes = np.broadcast_to(VERTICES_M, (*grey.shape, *VERTICES_M.shape))
  cameras = np.broadcast_to(np.array([1, 0, 0], np.float32), (*grey.shape, 3))
  errors = {"mpvpe_mm": grey, "mpjpe_mm": grey + 1, "pa_mpjpe_mm": grey - 1}
  return jax.tree.map(
    jax.numpy.asarray,
    Evaluation({}, errors, {}, Predicted(cameras, meshes, meshes, meshes)),
  )


def draw(rows):
  config = base.get_config()
  config.data.image_px = 32
  config.eval.batch_size = 2 * jax.local_device_count()
  return examples.draw(fake_step, None, Split(), rows, FACES, config)


def test_rows_are_drawn_in_order_with_their_errors():
  drawn = draw([40, 7, 90])
  assert [one.row for one in drawn] == [40, 7, 90]
  for one in drawn:
    picture, over, side = one.images
    assert picture.shape == over.shape == side.shape == (224, 224, 3)  # enlarged
    assert abs(int(picture[5, 5, 0]) - one.row) <= 2
    assert one.errors["mpjpe_mm"] == pytest.approx(one.row + 1, abs=2)
    changed = (over != picture).any(axis=-1)
    assert changed[100:110, 100:120].all() and not changed[:40].any()


def test_pictures_carry_split_row_and_millimetres():
  drawn = draw([40])
  picture = examples.as_pictures(drawn, [examples.Choice("worst", 40)], "test")[0]
  assert picture.title == "Worst: test/40"
  assert picture.captions == ("input", "predicted mesh", "from the side")
  assert picture.errors["MPJPE"] == f"{drawn[0].errors['mpjpe_mm']:.1f} mm"
  sheet = examples.as_sheet(draw([1, 2]))
  assert sheet.shape[0] > 2 * 224 and sheet.shape[1] > 3 * 224
