"""Joint sets: orders, maps and swaps equal the released code's literal lists."""

import numpy as np
import pytest

from metro_jax.body import joints

# metro/modeling/_smpl.py and data_utils of the released code.
RELEASED_J24_TO_J14 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18]
RELEASED_H36M_TO_J14 = [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10]
RELEASED_J24_FLIP = [
  *(5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 15, 16, 17, 18, 19),
  *(21, 20, 23, 22),
]
RELEASED_SMPL_FLIP = [
  *(0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18),
  *(21, 20, 23, 22),
]
SMPL_KINTREE = [
  *(-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19),
  *(20, 21),
]
ALL_SETS = (joints.SMPL24, joints.J24, joints.H36M17, joints.J14, joints.HAND21)


def test_j14_is_found_in_both_larger_sets_where_the_released_code_finds_it():
  assert joints.J14_FROM_J24.tolist() == RELEASED_J24_TO_J14
  assert joints.J14_FROM_H36M.tolist() == RELEASED_H36M_TO_J14


def test_flips_are_the_released_permutations():
  assert joints.flip_permutation(joints.J24).tolist() == RELEASED_J24_FLIP
  assert joints.flip_permutation(joints.SMPL24).tolist() == RELEASED_SMPL_FLIP


def test_the_tree_is_smpls():
  assert list(joints.SMPL24_PARENTS) == SMPL_KINTREE
  assert joints.SMPL24[16] == "L_Shoulder"  # SMPL counts the left side first
  assert joints.SMPL24[23] == "R_Hand"


def test_the_meshes_are_centred_on_joint_zero_of_h36m():
  assert joints.PELVIS == 0


@pytest.mark.parametrize("names", ALL_SETS)
def test_no_set_names_a_joint_twice(names):
  assert len(set(names)) == len(names)


@pytest.mark.parametrize("names", ALL_SETS)
def test_flipping_twice_changes_nothing(names):
  flip = joints.flip_permutation(names)
  np.testing.assert_array_equal(flip[flip], np.arange(len(names)))


def test_index_keeps_the_order_asked_for():
  assert joints.index(("a", "b", "c"), ("c", "a")).tolist() == [2, 0]
  assert joints.index(("a",), ()).shape == (0,)


def test_a_missing_joint_is_named():
  with pytest.raises(ValueError, match=r"got Tail Wing$"):
    joints.index(joints.J14, ("Head", "Tail", "Wing"))


def test_a_left_joint_without_its_right_one_is_named():
  with pytest.raises(ValueError, match="got R_Eye"):
    joints.flip_permutation(("Nose", "L_Eye"))
