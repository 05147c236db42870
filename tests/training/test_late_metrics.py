"""A checkpoint that was saved before its validation gets the errors later."""

import numpy as np

from metro_jax.checkpoints import checkpoint


def save(checkpoints, step, metrics):
  state = {"params": {"w": np.full(3, step, np.float32)}, "batch_stats": {}}
  checkpoints.save(state, step, {"step": step}, metrics, {"seed": 0})
  checkpoints.wait()


def test_it_is_then_the_best_as_if_it_had_been_saved_with_them(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, {"pa_mpjpe_mm": 60.0})
    save(checkpoints, 2, None)
  assert checkpoint.restore_variables(tmp_path, "best").step == 1
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.add_metrics(2, {"pa_mpjpe_mm": 50.0, "mpjpe_mm": 70.0})
    save(checkpoints, 3, {"pa_mpjpe_mm": 55.0})
    assert checkpoints.steps() == [2, 3]  # the best, also to Orbax, and the latest
  best = checkpoint.restore_variables(tmp_path, "best")
  assert (best.step, best.pipeline) == (2, {"step": 2})
  assert best.meta["metrics"] == {"pa_mpjpe_mm": 50.0, "mpjpe_mm": 70.0}
  np.testing.assert_array_equal(best.tree["params"]["w"], np.full(3, 2, np.float32))
