"""Metrics are averaged over a window, and the first step that fails is named."""

import numpy as np
import pytest

from metro_jax.cluster import parallel
from metro_jax.training.metric_window import NotFiniteError, Window


def window_of(*rows, datasets=()):
  window = Window(datasets)
  for row in rows:
    window.add(parallel.replicate(row))
  return window


def test_means_are_over_the_steps_since_the_last_call():
  window = window_of(
    {"loss": 1.0, "gradient_norm": 2.0}, {"loss": 3, "gradient_norm": 4}
  )
  assert window.mean(2) == {"loss": 2, "gradient_norm": 3}
  window.add(parallel.replicate({"loss": 5.0, "gradient_norm": 1.0}))
  assert window.mean(3)["loss"] == 5


@pytest.mark.parametrize(
  ("losses", "norms", "step", "what"),
  [
    ((1, np.nan, np.nan), (1, 1, 1), 12, "loss, got nan"),
    ((1, 1, np.nan), (1, np.inf, np.nan), 12, "gradient, got inf"),
    ((np.inf, 1, 1), (np.nan, 1, 1), 11, "loss, got inf"),
  ],
)
def test_the_first_step_that_is_not_finite_is_named(losses, norms, step, what):
  rows = [
    {"loss": np.float32(x), "gradient_norm": np.float32(y)}
    for x, y in zip(losses, norms, strict=True)
  ]
  with pytest.raises(NotFiniteError) as caught:
    window_of(*rows).mean(13)
  assert caught.value.step == step
  assert str(caught.value) == f"step {step}: expected a finite {what}"


def test_datasets_of_a_mixture_have_means_of_their_own():
  def row(loss, examples, error, labelled):
    groups = {"loss": loss, "examples": examples, "mpjpe_mm": error}
    groups |= {"labelled": labelled}
    return {"loss": 1.0, "datasets": {k: np.array(v, float) for k, v in groups.items()}}

  window = window_of(
    row([6, 0], [3, 0], [90, 0], [1, 0]),
    row([4, 0], [1, 0], [30, 0], [2, 0]),
    datasets=("a/train", "b/train"),
  )
  # 10 over 4 examples; 120 mm over 3 labelled; b had none.
  assert window.mean(2) == {"loss": 1, "a/train/loss": 2.5, "a/train/mpjpe_mm": 40}
