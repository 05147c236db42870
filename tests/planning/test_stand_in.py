"""A body of the same shapes stands in for files that are not there."""

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.planning import programs, stand_in


def smpl_config(tmp_path):
  config = base.get_config()
  config.body.model = "smpl"
  config.body.assets_dir = str(tmp_path)  # holds none
  return config


def mano_config(tmp_path):
  config = smpl_config(tmp_path)
  config.body.model = "mano"
  config.body.levels = (778, 195)
  config.loss.vertex_levels = (1.0, 1.0)
  config.data.augment.flip_probability = 0.0
  config.model.token_source = "pooled"
  config.model.camera_tokens = "all"
  config.model.mask_fraction = 0.0
  return config


def test_the_embedded_body_needs_no_stand_in():
  found = stand_in.build(base.get_config())
  assert found.note == ""
  assert found.network.body.pose_directions is None


def test_smpls_shapes_stand_in_for_smpl_and_it_is_said(tmp_path):
  found = stand_in.build(smpl_config(tmp_path))
  body = found.network.body
  assert found.note.startswith("smpl: files not found, the embedded body")
  assert body.template.shape == (6890, 3)
  assert body.pose_directions.shape == (6890, 3, 207)
  assert found.network.template.vertices.shape == (431, 3)
  assert found.network.gendered == ()


def test_gendered_truth_takes_two_more_bodies(tmp_path):
  config = smpl_config(tmp_path)
  config.eval.ground_truth = "gendered"
  assert len(stand_in.build(config).network.gendered) == 2


def test_manos_shapes_stand_in_for_mano(tmp_path):
  found = stand_in.build(mano_config(tmp_path))
  body = found.network.body
  assert found.note.startswith("mano: files not found, a hand of zeros")
  assert body.is_hand and body.num_joints == 16
  assert body.pose_directions.shape == (778, 3, 135)
  assert found.network.template.joints.shape == (21, 3)
  assert found.network.template.vertices.shape == (195, 3)


def test_damaged_files_are_not_passed_over(tmp_path):
  config = smpl_config(tmp_path)
  config.body.levels = (6890, 1000)
  with pytest.raises(ValueError, match="mesh levels: expected 6890"):
    stand_in.build(config)


@pytest.mark.parametrize("make", (smpl_config, mano_config))
def test_the_training_step_takes_the_stand_in(make, tmp_path):
  config = make(tmp_path)
  network = stand_in.build(config).network
  step = programs.train_step(config, network, 2)

  def one(*arguments):
    leaves, structure = jax.tree.flatten(arguments)
    mapped = jax.pmap(
      lambda x: jax.tree.leaves(step.function(*jax.tree.unflatten(structure, x))),
      axis_name="data",
      devices=jax.devices()[:1],
    )
    return mapped, [jax.ShapeDtypeStruct((1, *np.shape(x)), x.dtype) for x in leaves]

  mapped, shapes = one(step.state, step.batch, step.geometry)
  results = jax.eval_shape(mapped, shapes)
  before = [(1, *x.shape) for x in jax.tree.leaves(step.state)]
  assert [x.shape for x in results[: len(before)]] == before


def test_the_batch_is_the_pipelines(tmp_path):
  batch = programs.batch_of(smpl_config(tmp_path), 6)
  assert batch.image.shape == (6, 224, 224, 3) and batch.image.dtype == np.uint8
  assert batch.pose.shape == (6, 72)
  assert programs.batch_of(mano_config(tmp_path), 6).pose.shape == (6, 48)
