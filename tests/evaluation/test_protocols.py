import pytest

from metro_jax.body import joints
from metro_jax.evaluation import metrics, protocols


def test_the_synthetic_protocol_is_the_papers():
  protocol = protocols.for_dataset("synthetic")
  assert protocol.joints == joints.J14
  assert protocol.regressor == "h36m"
  assert protocol.joint_root == ("R_Hip", "L_Hip")
  assert protocol.mesh_root == "Pelvis"


def test_the_words_name_every_choice():
  words = protocols.describe(protocols.SYNTHETIC)
  for expected in (
    "14 joints",
    "R_Ankle",
    "h36m regressor",
    "middle of R_Hip and L_Hip",
    "Pelvis at the origin",
    "best rotation, scale and shift",
    "each counted once",
    "shares no body",
  ):
    assert expected in words


def test_every_metric_has_a_title_and_a_meaning():
  assert tuple(protocols.METRICS) == metrics.NAMES


def test_an_unknown_dataset_is_refused():
  with pytest.raises(ValueError, match="expected one of synthetic, got 'h37m'"):
    protocols.for_dataset("h37m")
