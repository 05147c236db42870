"""Datasets by name: found, mixed, or said to be missing, all at once."""

import pathlib

import pytest

from metro_jax import config as base
from metro_jax.data import datasets, mixture, schema
from metro_jax.data.builders import prepared
from tests.fixtures.in_memory import InMemory


def rows(name, labels):
  examples = [{"key": f"{name} {row}"} for row in range(3)]
  return InMemory(name, examples, labels=labels)


@pytest.fixture
def config(tmp_path):
  config = base.get_config()
  config.data.data_dir = str(tmp_path)
  return config


@pytest.fixture
def there(monkeypatch):
  """Datasets that are there: "a/train" and "b/train" of bodies, "hands/train"."""
  found = {"a/train": schema.BODY, "b/train": schema.BODY, "hands/train": schema.HAND}
  monkeypatch.setattr(
    prepared, "is_built", lambda folder, name, split: f"{name}/{split}" in found
  )
  monkeypatch.setattr(
    prepared,
    "open_split",
    lambda folder, name, split: rows(f"{name}/{split}", found[f"{name}/{split}"]),
  )


def test_one_dataset_is_itself_and_several_are_a_mixture(config, there):
  config.data.train = ("a/train",)
  assert datasets.open_training(config).name == "a/train"
  config.data.train = ("a/train", "b/train")
  config.data.weights = (1.0, 3.0)
  mixed = datasets.open_training(config)
  assert isinstance(mixed, mixture.Mixture)
  assert mixed.weights == (1.0, 3.0) and len(mixed) == 6


def test_hands_are_refused_for_a_body(config, there):
  with pytest.raises(
    ValueError, match=r"hands/train: expected labels of a body .* hand"
  ):
    datasets.open_split(config, "hands/train")


def test_what_is_not_prepared_is_said_with_its_command(config, there):
  with pytest.raises(FileNotFoundError) as caught:
    datasets.open_split(config, "3dpw/test")
  for part in (
    "3dpw/test",
    "metro_jax.prepare --name=3dpw --split=test",
    "virtualhumans",
  ):
    assert part in str(caught.value)


def test_everything_that_is_missing_is_said_at_once(config, there, monkeypatch):
  monkeypatch.delenv("METRO_ASSETS", raising=False)
  config.body.model = "smpl"
  config.eval.ground_truth = "gendered"
  config.data.train = ("h36m/train", "a/train", "mine/train")
  config.data.validation = config.data.test = "3dpw/test"
  with pytest.raises(FileNotFoundError) as caught:
    datasets.expect_everything(config)
  said = str(caught.value)
  for part in (
    "dataset h36m/train",
    "dataset mine/train",
    "your own data",
    "J_regressor_h36m_correct.npy",
    "SMPL_FEMALE.npz",
    "SMPL_NEUTRAL.npz",
  ):
    assert part in said
  assert said.count("dataset 3dpw/test") == 1
  assert "dataset a/train" not in said
  assert "\n" not in said


def test_nothing_is_missing_of_the_embedded_default(config):
  datasets.expect_everything(config)
  assert not list(pathlib.Path(config.data.data_dir).iterdir())
