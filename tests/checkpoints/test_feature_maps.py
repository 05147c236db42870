"""Kept maps are what the backbone makes of the very crops, and builds go on."""

import json

import jax
import numpy as np
import pytest

from configs import embedded
from metro_jax.checkpoints import feature_maps
from metro_jax.data import pipeline
from metro_jax.models import setup
from tests.fixtures.drawn import drawn


@pytest.fixture(scope="module")
def source():
  return drawn("train", 5, 72)


@pytest.fixture(scope="module")
def made(tmp_path_factory, source):
  config = embedded.get_config()
  config.data.image_px = 64
  config.data.map_views = 3
  config.data.data_dir = str(tmp_path_factory.mktemp("data"))
  config.train.batch_size = 4
  network = setup.build(config)
  drawn = network.model, network.template, 64
  variables = jax.jit(lambda key: setup.make_variables(*drawn, key))(jax.random.key(0))
  maps = feature_maps.open_maps(config, source, network.model, variables)
  return config, network, variables, np.array(maps)


def test_a_batch_holds_the_maps_of_the_crops_that_its_labels_belong_to(made, source):
  config, network, variables, maps = made
  assert maps.shape == (15, 2, 2, 144)
  forward = feature_maps._make_forward(network.model, variables["params"]["backbone"])
  views = list(pipeline.view_batches(source, config, 0, 5))
  assert [b.index.tolist() for b in views] == [[0, 1, 2, 3, 4]] * 3
  batches = pipeline.train_batches(source, config, end_step=8, maps=maps)
  places = 0
  for batch in batches:
    for n, row in enumerate(batch.index):
      view = views[places // 5 % 3]
      np.testing.assert_array_equal(batch.joints_2d[n], view.joints_2d[row])
      np.testing.assert_array_equal(batch.pose[n], view.pose[row])
      wanted = np.asarray(forward(view.image[row][None]))[0].astype(float)
      scale = np.abs(wanted).max()
      np.testing.assert_allclose(batch.image[n], wanted, atol=2e-3 * scale)
      places += 1
  assert places == 32


def test_views_of_one_example_differ(made, source):
  *_, maps = made
  assert not np.array_equal(maps[0], maps[5])


def test_a_build_goes_on_where_it_was_interrupted(made, source, monkeypatch):
  config, network, variables, _ = made
  monkeypatch.setattr(feature_maps, "BATCH", 4)
  monkeypatch.setattr(feature_maps, "SAVE_EVERY", 1)
  config = config.copy_and_resolve_references()
  config.seed = 9
  forward, calls = feature_maps._make_forward, []

  def counting(*arguments, fail_at):
    inner = forward(*arguments)

    def counted(images):
      if isinstance(images, np.ndarray):
        calls.append(1)
        if len(calls) == fail_at:
          raise KeyboardInterrupt
      return inner(images)

    return counted

  monkeypatch.setattr(feature_maps, "_make_forward", lambda *a: counting(*a, fail_at=3))
  with pytest.raises(KeyboardInterrupt):
    feature_maps.open_maps(config, source, network.model, variables)
  (progress,) = (
    p
    for p in feature_maps.pathlib.Path(config.data.data_dir).rglob("progress.json")
    if json.loads(p.read_text())["batches"] == 2
  )
  calls.clear()
  monkeypatch.setattr(feature_maps, "_make_forward", lambda *a: counting(*a, fail_at=0))
  resumed = np.array(feature_maps.open_maps(config, source, network.model, variables))
  assert len(calls) == 2  # batches 3 and 4 of 4
  assert json.loads(progress.read_text()) == {"batches": 4, "of": 4}
  config.seed = 9
  crops = [b.image for b in pipeline.view_batches(source, config, 0, 5)]
  again = forward(network.model, variables["params"]["backbone"])
  wanted = np.concatenate([np.asarray(again(image)) for image in crops])
  scale = np.abs(wanted.astype(float)).max()
  np.testing.assert_allclose(
    resumed.astype(float), wanted.astype(float), atol=2e-3 * scale
  )


def test_other_settings_are_other_files(made, source):
  config, _, variables, _ = made
  backbone = jax.device_get(variables["params"]["backbone"])
  name = feature_maps._digest(config, source, backbone)
  other = config.copy_and_resolve_references()
  other.data.augment.degradation = 0.5
  assert feature_maps._digest(other, source, backbone) != name
  changed = jax.tree.map(lambda x: x + 1e-3, backbone)
  assert feature_maps._digest(config, source, changed) != name
