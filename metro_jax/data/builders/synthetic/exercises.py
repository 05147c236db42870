"""More stances: gestures of every day, and what people hold while they exercise."""

from metro_jax.data.builders.synthetic.stances import Stance

_ARM_WIDE = {
  "shoulder_elevation": (2, 14),
  "shoulder_azimuth": (10, 18),
  "elbow_flexion": (10, 12),
}
_ARM_UP = {
  "shoulder_elevation": (66, 9),
  "shoulder_azimuth": (35, 25),
  "collar_elevation": (20, 4),
  "elbow_flexion": (14, 14),
}
_ARM_AHEAD = {
  "shoulder_elevation": (0, 14),
  "shoulder_azimuth": (85, 12),
  "elbow_flexion": (12, 12),
}
_ARM_ON_HIP = {
  "shoulder_elevation": (-40, 7),
  "shoulder_azimuth": (-5, 12),
  "shoulder_twist": (48, 10),
  "elbow_flexion": (98, 10),
}
_ARM_BACK = {
  "shoulder_elevation": (-55, 10),
  "shoulder_azimuth": (-62, 12),
  "elbow_flexion": (15, 14),
}
_ARM_HOLDING = {
  "shoulder_elevation": (-64, 8),
  "shoulder_azimuth": (52, 18),
  "shoulder_twist": (15, 14),
  "elbow_flexion": (105, 18),
}
_KNEE_UP = {"hip_flexion": (82, 18), "hip_abduction": (8, 8), "knee_flexion": (82, 28)}
_ON_HANDS = {
  "shoulder_elevation": (2, 10),
  "shoulder_azimuth": (88, 12),
  "elbow_flexion": (10, 10),
  "neck_flexion": (-15, 14),
}

EXERCISES = {
  "balance_knee_up": Stance(1.0, _ARM_WIDE, first=_KNEE_UP),
  "balance_knee_up_hands_on_hips": Stance(0.5, _ARM_ON_HIP, first=_KNEE_UP),
  "balance_leg_aside": Stance(
    0.8,
    {**_ARM_WIDE, "knee_flexion": (6, 6)},
    first={"hip_abduction": (36, 10), "hip_flexion": (8, 12)},
    second={"spine_bend": (8, 8)},
  ),
  "balance_leg_ahead": Stance(
    0.8, _ARM_WIDE, first={"hip_flexion": (70, 22), "knee_flexion": (12, 12)}
  ),
  "balance_leg_behind": Stance(
    0.8,
    {**_ARM_WIDE, "spine_flexion": (0, 8)},
    first={"hip_flexion": (35, 12), "knee_flexion": (8, 8)},
    second={"hip_flexion": (-14, 6), "knee_flexion": (25, 25)},
    lean_deg=(32.0, 12.0),
  ),
  "arrow_arms_wide": Stance(
    0.8,
    {**_ARM_WIDE, "spine_flexion": (0, 8), "neck_flexion": (-22, 14)},
    first={"hip_flexion": (76, 12), "knee_flexion": (8, 8)},
    second={"hip_flexion": (-8, 6), "knee_flexion": (7, 7)},
    lean_deg=(74.0, 12.0),
  ),
  "arrow_arms_ahead": Stance(
    0.6,
    {**_ARM_UP, "spine_flexion": (0, 8), "neck_flexion": (-18, 14)},
    first={"hip_flexion": (74, 12), "knee_flexion": (8, 8)},
    second={"hip_flexion": (-8, 6), "knee_flexion": (7, 7)},
    lean_deg=(72.0, 14.0),
  ),
  "arrow_arms_back": Stance(
    0.6,
    {**_ARM_BACK, "spine_flexion": (0, 8), "neck_flexion": (-18, 14)},
    first={"hip_flexion": (60, 16), "knee_flexion": (10, 10)},
    second={"hip_flexion": (-8, 6), "knee_flexion": (12, 12)},
    lean_deg=(58.0, 16.0),
  ),
  "tree": Stance(
    0.8,
    {**_ARM_UP, "shoulder_azimuth": (50, 30), "elbow_flexion": (35, 30)},
    first={
      "hip_flexion": (42, 10),
      "hip_abduction": (42, 6),
      "hip_twist": (-30, 8),
      "knee_flexion": (118, 12),
    },
  ),
  "foot_in_hand_behind": Stance(
    0.5,
    {},
    first={
      "hip_flexion": (-6, 8),
      "knee_flexion": (125, 12),
      **_ARM_BACK,
    },
    second={"shoulder_elevation": (-20, 35), "shoulder_azimuth": (50, 35)},
    lean_deg=(8.0, 8.0),
  ),
  "side_bend_arm_up": Stance(
    0.8,
    {"spine_bend": (-22, 7), "hip_abduction": (14, 7), "neck_bend": (-8, 8)},
    first=_ARM_UP,
    second=_ARM_ON_HIP,
  ),
  "side_bend_arms_up": Stance(
    0.6, {**_ARM_UP, "spine_bend": (20, 8), "hip_abduction": (12, 8)}
  ),
  "side_bend_arms_wide": Stance(
    0.5, {**_ARM_WIDE, "spine_bend": (22, 7), "hip_abduction": (22, 8)}
  ),
  "arms_overhead": Stance(1.0, _ARM_UP),
  "jumping_jack": Stance(
    0.6,
    {
      "shoulder_elevation": (35, 28),
      "shoulder_azimuth": (10, 15),
      "collar_elevation": (12, 5),
      "elbow_flexion": (15, 14),
      "hip_abduction": (24, 8),
    },
  ),
  "hands_on_hips": Stance(1.0, {**_ARM_ON_HIP, "hip_abduction": (10, 6)}),
  "hands_at_lower_back": Stance(
    0.8,
    {
      "shoulder_elevation": (-45, 6),
      "shoulder_azimuth": (-52, 8),
      "shoulder_twist": (58, 8),
      "elbow_flexion": (72, 12),
      "collar_azimuth": (-6, 4),
    },
  ),
  "hands_at_forehead": Stance(
    0.6,
    {
      "shoulder_elevation": (28, 9),
      "shoulder_azimuth": (10, 14),
      "shoulder_twist": (-55, 8),
      "collar_elevation": (12, 5),
      "elbow_flexion": (115, 8),
    },
  ),
  "arms_crossed": Stance(
    1.0,
    {
      "shoulder_twist": (52, 8),
      "collar_azimuth": (8, 4),
      "elbow_flexion": (92, 8),
    },
    first={"shoulder_elevation": (-48, 4), "shoulder_azimuth": (76, 7)},
    second={"shoulder_elevation": (-66, 4), "shoulder_azimuth": (70, 7)},
  ),
  "phone_in_one_hand": Stance(1.0, {"neck_flexion": (26, 10)}, first=_ARM_HOLDING),
  "holding_with_both": Stance(
    1.0, {**_ARM_HOLDING, "neck_flexion": (18, 14), "shoulder_twist": (20, 12)}
  ),
  "phone_at_ear": Stance(
    0.6,
    {},
    first={
      "shoulder_elevation": (-38, 8),
      "shoulder_azimuth": (38, 14),
      "shoulder_twist": (-25, 12),
      "elbow_flexion": (134, 6),
    },
  ),
  "hand_at_face": Stance(
    0.6,
    {},
    first={
      "shoulder_elevation": (-45, 12),
      "shoulder_azimuth": (62, 14),
      "elbow_flexion": (128, 10),
    },
  ),
  "photographing": Stance(
    0.6,
    {
      "shoulder_elevation": (-22, 12),
      "shoulder_azimuth": (68, 10),
      "elbow_flexion": (100, 18),
    },
  ),
  "guard": Stance(
    0.6,
    {
      "shoulder_elevation": (-52, 9),
      "shoulder_azimuth": (58, 14),
      "elbow_flexion": (118, 12),
      "spine_flexion": (12, 8),
      "knee_flexion": (22, 12),
    },
    first={"hip_flexion": (28, 10)},
    second={"hip_flexion": (2, 8)},
  ),
  "throwing": Stance(
    1.0,
    {"spine_flexion": (2, 10), "knee_flexion": (22, 14)},
    first={
      "spine_twist": (18, 12),
      "shoulder_elevation": (8, 16),
      "shoulder_azimuth": (-15, 16),
      "shoulder_twist": (-55, 14),
      "elbow_flexion": (85, 22),
      "hip_flexion": (-8, 8),
    },
    second={
      "shoulder_elevation": (-5, 22),
      "shoulder_azimuth": (45, 30),
      "elbow_flexion": (30, 28),
      "hip_flexion": (38, 18),
    },
    lean_deg=(2.0, 8.0),
  ),
  "pitching_through": Stance(
    0.5,
    {"spine_flexion": (25, 12), "spine_twist": (-15, 10)},
    first={
      "shoulder_elevation": (-5, 25),
      "shoulder_azimuth": (95, 16),
      "elbow_flexion": (25, 18),
      "hip_flexion": (-10, 8),
      "knee_flexion": (35, 20),
    },
    second={**_ARM_BACK, "hip_flexion": (55, 16), "knee_flexion": (45, 18)},
    lean_deg=(22.0, 10.0),
  ),
  "squat_arms_ahead": Stance(
    1.0,
    {
      **_ARM_AHEAD,
      "spine_flexion": (12, 10),
      "hip_flexion": (92, 18),
      "hip_abduction": (16, 8),
      "hip_twist": (-12, 8),
      "knee_flexion": (98, 20),
      "ankle_flexion": (18, 6),
    },
    lean_deg=(24.0, 8.0),
  ),
  "half_squat": Stance(
    0.6,
    {
      **_ARM_HOLDING,
      "spine_flexion": (10, 10),
      "hip_flexion": (55, 14),
      "hip_abduction": (12, 7),
      "knee_flexion": (62, 16),
      "ankle_flexion": (14, 7),
    },
    lean_deg=(24.0, 10.0),
  ),
  "deep_lunge": Stance(
    0.8,
    {**_ARM_ON_HIP, "spine_flexion": (4, 8)},
    first={"hip_flexion": (88, 10), "knee_flexion": (90, 12)},
    second={
      "hip_flexion": (-14, 5),
      "knee_flexion": (55, 25),
      "ankle_flexion": (8, 8),
      "toe_flexion": (-30, 8),
    },
    lean_deg=(4.0, 7.0),
  ),
  "lunge_arms_up": Stance(
    0.6,
    {**_ARM_UP, "spine_flexion": (-2, 8)},
    first={"hip_flexion": (78, 12), "knee_flexion": (80, 14)},
    second={"hip_flexion": (-14, 5), "knee_flexion": (30, 22)},
    lean_deg=(4.0, 8.0),
  ),
  "side_lunge": Stance(
    0.8,
    {**_ARM_AHEAD, "spine_flexion": (14, 10)},
    first={"hip_abduction": (42, 6), "knee_flexion": (5, 6), "hip_flexion": (25, 10)},
    second={
      "hip_flexion": (75, 14),
      "hip_abduction": (20, 8),
      "knee_flexion": (95, 16),
      "ankle_flexion": (16, 6),
    },
    lean_deg=(26.0, 9.0),
  ),
  "warrior": Stance(
    0.8,
    {**_ARM_WIDE, "neck_twist": (40, 15)},
    first={
      "hip_flexion": (55, 12),
      "hip_abduction": (40, 7),
      "hip_twist": (-28, 8),
      "knee_flexion": (72, 16),
    },
    second={"hip_abduction": (40, 7), "knee_flexion": (5, 5), "hip_twist": (-10, 8)},
  ),
  "forward_fold": Stance(
    0.8,
    {
      "spine_flexion": (50, 14),
      "hip_flexion": (62, 14),
      "knee_flexion": (10, 9),
      "shoulder_elevation": (12, 18),
      "shoulder_azimuth": (92, 12),
      "elbow_flexion": (14, 14),
    },
    lean_deg=(60.0, 12.0),
  ),
  "downward_dog": Stance(
    0.5,
    {
      **_ARM_UP,
      "spine_flexion": (6, 8),
      "hip_flexion": (88, 12),
      "knee_flexion": (8, 8),
      "ankle_flexion": (15, 8),
    },
    lean_deg=(128.0, 8.0),
  ),
  "plank": Stance(
    0.8,
    {**_ON_HANDS, "hip_flexion": (4, 8), "knee_flexion": (5, 5)},
    lean_deg=(76.0, 8.0),
  ),
  "on_all_fours": Stance(
    0.6,
    {**_ON_HANDS, "hip_flexion": (86, 10), "knee_flexion": (88, 10)},
    lean_deg=(86.0, 8.0),
  ),
  "bird_dog": Stance(
    0.6,
    {**_ON_HANDS, "hip_flexion": (86, 8)},
    first={"hip_flexion": (-4, 9), "knee_flexion": (10, 10)},
    second={**_ARM_UP, "knee_flexion": (88, 8)},
    lean_deg=(86.0, 7.0),
  ),
  "sitting_legs_out": Stance(
    0.8,
    {
      **_ARM_BACK,
      "hip_flexion": (82, 12),
      "hip_abduction": (12, 12),
      "knee_flexion": (12, 14),
      "spine_flexion": (14, 12),
    },
    lean_deg=(-10.0, 9.0),
  ),
  "sitting_reaching_toes": Stance(
    0.4,
    {
      "spine_flexion": (48, 12),
      "hip_flexion": (95, 10),
      "hip_abduction": (10, 8),
      "knee_flexion": (12, 10),
      **_ARM_AHEAD,
    },
    lean_deg=(8.0, 8.0),
  ),
  "kneeling_on_both": Stance(
    0.6,
    {
      "hip_flexion": (30, 28),
      "knee_flexion": (112, 22),
      "ankle_flexion": (-36, 7),
      "shoulder_elevation": (-45, 25),
      "shoulder_azimuth": (60, 28),
      "elbow_flexion": (45, 32),
    },
  ),
  "bridge": Stance(
    0.4,
    {
      "spine_flexion": (-6, 8),
      "hip_flexion": (6, 10),
      "knee_flexion": (88, 12),
      "shoulder_elevation": (-60, 14),
      "shoulder_azimuth": (0, 20),
    },
    lean_deg=(-112.0, 8.0),
  ),
  "lying_knees_up": Stance(
    0.5,
    {
      "hip_flexion": (62, 25),
      "knee_flexion": (95, 25),
      "shoulder_elevation": (-30, 40),
      "shoulder_azimuth": (25, 35),
      "elbow_flexion": (40, 40),
    },
    lean_deg=(-88.0, 7.0),
  ),
  "high_kick": Stance(
    0.6,
    {"shoulder_elevation": (-30, 25), "elbow_flexion": (60, 35)},
    first={
      "hip_flexion": (95, 16),
      "hip_abduction": (14, 12),
      "knee_flexion": (18, 18),
    },
    second={"knee_flexion": (14, 10)},
    lean_deg=(-14.0, 10.0),
  ),
  "twisting": Stance(
    0.6,
    {**_ARM_WIDE, "spine_twist": (30, 7), "neck_twist": (25, 15)},
  ),
}
