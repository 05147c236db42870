import math

import pytest

from metro_jax import config as base
from metro_jax.body import joints
from metro_jax.checkpoints import origin
from metro_jax.evaluation import metrics, protocols


def config_of(body="humanoid", **settings):
  config = base.get_config()
  config.body.model = body
  for key, value in settings.items():
    section, name = key.split("__")
    config[section][name] = value
  return config


def words(dataset, config):
  return protocols.describe(protocols.for_dataset(dataset, config))


def test_the_synthetic_protocol_is_the_papers():
  protocol = protocols.for_dataset("synthetic/test", config_of())
  assert protocol.joints == joints.J14
  assert protocol.regressor == "h36m"
  assert protocol.joint_root == ("R_Hip", "L_Hip")
  assert protocol.mesh_root == "Pelvis"


def test_the_words_name_every_choice():
  said = words("synthetic/test", config_of())
  for expected in (
    "14 joints",
    "R_Ankle",
    "h36m regressor",
    "middle of R_Hip and L_Hip",
    "Pelvis at the origin",
    "best rotation, scale and shift",
    "each counted once",
    "shares no body",
    "3D PCK (150 mm)",
    "Without test-time augmentation",
  ):
    assert expected in said


@pytest.mark.parametrize(
  ("dataset", "expected"),
  [
    ("h36m/valid_p1", "protocol 1: all four cameras"),
    ("h36m/valid.protocol1", "protocol 1: all four cameras"),
    ("h36m/valid_p2", "protocol 2: the frontal camera only"),
    ("h36m_tsv/valid.protocol2", "protocol 2: the frontal camera only"),
  ],
)
def test_human36m_says_which_protocol_its_split_is(dataset, expected):
  protocol = protocols.for_dataset(dataset, config_of("smpl"))
  said = protocols.describe(protocol)
  assert f"subjects S9 and S11, {expected}" in said
  assert protocol.joints == joints.J14 and protocol.group == "action"


def test_human36m_without_a_protocol_in_its_name_claims_none():
  said = words("h36m/p12", config_of("smpl"))
  assert said.startswith("h36m/p12: Human3.6M. ") and "camera" not in said


@pytest.mark.parametrize(
  ("truth", "expected"),
  [
    ("neutral", "of the neutral SMPL, whatever the person's gender"),
    ("gendered", "of the male or female SMPL that it was labelled with"),
  ],
)
def test_3dpw_says_whose_meshes_are_true(truth, expected):
  config = config_of("smpl", eval__ground_truth=truth)
  assert expected in words("3dpw/test", config)


@pytest.mark.parametrize(
  ("true_joints", "expected"),
  [
    ("labels", "and its 3D joint labels"),
    ("mesh", "and the joints regressed from that mesh by the same regressor"),
  ],
)
def test_the_words_say_where_true_joints_come_from(true_joints, expected):
  config = config_of("smpl", eval__true_joints=true_joints)
  assert f"the mesh of the example's pose and shape, {expected}" in words(
    "my_people/test", config
  )


def test_freihand_has_the_leaderboards_numbers_and_joints():
  protocol = protocols.for_dataset("freihand/evaluation", config_of("mano"))
  assert protocol.joints == joints.HAND21 and protocol.regressor == "hand21"
  assert protocol.joint_root == ("Wrist",) and protocol.mesh_root == "Wrist"
  assert {"pa_mpvpe_mm", "pa_f_5mm", "pa_f_15mm", "pa_auc_50mm"} < set(protocol.metrics)
  said = protocols.describe(protocol)
  assert "placing the Wrist at the origin" in said
  assert "only aligned numbers compare" in said and "21 joints" in said


@pytest.mark.parametrize(
  ("dataset", "body", "kind"),
  [("freihand/test", "smpl", "body"), ("3dpw_hands/test", "mano", "hand")],
)
def test_a_familiar_name_with_labels_of_the_other_kind_is_ones_own(dataset, body, kind):
  protocol = protocols.for_dataset(dataset, config_of(body))
  assert protocol.family == "" and protocol.kind == kind
  assert "labels as they were prepared" in protocols.describe(protocol)


@pytest.mark.parametrize(("body", "count"), [("humanoid", 14), ("mano", 21)])
def test_ones_own_dataset_is_measured_by_its_kind(body, count):
  protocol = protocols.for_dataset("my_people/test", config_of(body))
  assert protocol.name == "my_people/test" and len(protocol.joints) == count


def test_a_mixture_is_none_of_its_parts():
  name = "h36m/valid_p2 + coco/train"
  assert "camera" not in words(name, config_of("smpl"))


def test_the_words_say_what_the_network_was_trained_on():
  config = config_of("smpl", data__train=("h36m/train", "coco/train"))
  assert "trained on h36m/train, coco/train, not on this" in words("3dpw/test", config)
  assert "this dataset among them" in words("h36m/valid_p2", config)
  config.train.init_from = "metro_h36m.bin"
  assert "from the weights metro_h36m.bin" in words("3dpw/test", config)
  assert "trained on h36m/train" in words("synthetic/test", config)


def test_weights_of_others_are_not_said_to_be_trained_on_a_config_s_datasets():
  config = config_of("smpl", data__train=("h36m/valid_protocol2",))
  for init_from, whose in (
    ("metro.bin", "those of metro.bin"),
    ("", "somebody else's"),
  ):
    config.train.init_from = init_from
    training = origin.training_of(config, 0)
    for dataset in ("h36m/valid_protocol2", "3dpw/test", "synthetic/test"):
      protocol = protocols.for_dataset(dataset, config, training)
      said = protocols.describe(protocol)
      assert f"The network was not trained here: its weights are {whose}, which" in said
      assert "trained on" not in said


def test_what_a_network_was_trained_on_is_its_own_runs_not_the_evaluations():
  run = origin.training_of(config_of("smpl", data__train=("h36m/train",)), 9)
  other = config_of("smpl", data__train=("3dpw/test",))
  said = protocols.describe(protocols.for_dataset("3dpw/test", other, run))
  assert "trained on h36m/train, not on this dataset" in said


def test_synthetic_data_after_given_weights_are_said_to_be():
  config = config_of(train__init_from="metro.bin")
  said = words("synthetic/test", config)
  assert "shares no body" in said and "from the weights metro.bin" in said


def test_released_averaging_is_said_not_to_be_exact():
  said = words("3dpw/test", config_of("smpl", eval__averaging="released"))
  assert "not exact: 8 ranks with batches of 30" in said and "counted once" not in said


def test_views_are_said():
  protocol = protocols.SYNTHETIC._replace(views="scales 1, 2 of the box")
  assert "With test-time augmentation: scales 1, 2" in protocols.describe(protocol)


def test_every_metric_of_a_protocol_has_a_title_and_a_meaning():
  for names in (protocols.BODY_METRICS, protocols.HAND_METRICS):
    assert set(metrics.NAMES) < set(names) <= set(protocols.METRICS)


def test_numbers_are_shown_with_their_unit_and_what_is_missing_as_a_dash():
  assert protocols.METRICS["mpjpe_mm"].format(54.04) == "54.0 mm"
  assert protocols.METRICS["pa_f_5mm"].format(0.7214) == "0.721"
  assert protocols.METRICS["pa_f_5mm"].format(math.nan) == "–"
