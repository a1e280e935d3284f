"""From an env's frame to the encoder's input, against exact area averaging in whole numbers."""

import math
import re

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_gym.envs.fast_car_racing import FastCarRacing
from wm_gym.frames import INPUT_SIZE, VERSIONS, area_weights, encoder_input, gauge_rows, gauge_speed, kept_size, mirror

HEIGHT = {"crop84": 84, "full96": 96, "gauges96": 96, "whole": 96}
seeds = st.integers(0, 2**31)
versions = pytest.mark.parametrize("version", HEIGHT)
unblanked = pytest.mark.parametrize("version", ["crop84", "full96", "whole"])
examples = settings(deadline=None, max_examples=20)


def some_frames(seed, *lead, levels=256):
    """Frames of noise; two levels are the harshest contrast."""
    noise = np.random.default_rng(seed).integers(0, levels, (*lead, 96, 96, 3))
    return (noise * (255 // (levels - 1))).astype(np.uint8)


def slivers_summed(values, axis):
    """Cut the pixels of an axis into slivers so fine that 64 target pixels share them evenly; sum each one's share."""
    source = values.shape[axis]
    slivers = np.repeat(values, math.lcm(source, INPUT_SIZE) // source, axis)
    return slivers.reshape(*values.shape[:axis], INPUT_SIZE, -1, *values.shape[axis + 1 :]).sum(axis + 1)


def area_average(frame, version):
    """The reference for one frame: no weights, no floats, rounded half up."""
    kept = (frame if version == "whole" else frame[: HEIGHT[version]]).astype(np.int64)
    if version == "gauges96":
        kept[84:, :11] = 0  # the score
    total = slivers_summed(slivers_summed(kept, 0), 1)
    area = slivers_summed(slivers_summed(np.ones_like(kept), 0), 1)
    return (2 * total + area) // (2 * area)


def test_every_version_is_held_against_the_reference():
    assert set(VERSIONS) == set(HEIGHT)


@versions
@given(seed=seeds, levels=st.sampled_from([2, 4, 256]))
@examples
def test_a_frame_is_area_averaged_and_rounded(version, seed, levels):
    frame = some_frames(seed, levels=levels)
    assert np.array_equal(encoder_input(frame, version), area_average(frame, version))


@pytest.mark.parametrize("size", [(500, 500), (400, 600), (210, 160), (64, 64), (3, 2), (501, 499)], ids=str)
@pytest.mark.parametrize("levels", [2, 256])
def test_whole_frames_of_any_size_are_area_averaged_and_rounded(size, levels):
    frame = np.random.default_rng(0).integers(0, levels, (*size, 3)) * (255 // (levels - 1))
    frame = frame.astype(np.uint8)
    assert np.array_equal(encoder_input(frame, "whole"), area_average(frame, "whole"))
    white = np.full((2, *size, 3), 255, np.uint8)
    assert (encoder_input(white, "whole") == 255).all()


@versions
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (0,)])
def test_frames_keep_their_leading_shape_and_do_not_mix(version, lead):
    frames = some_frames(0, *lead)
    before = frames.copy()
    shrunk = encoder_input(frames, version)
    assert shrunk.dtype == np.uint8
    assert shrunk.shape == (*lead, 64, 64, 3)
    assert np.array_equal(frames, before)
    for index in np.ndindex(lead):
        assert np.array_equal(shrunk[index], encoder_input(frames[index], version))


def test_crop84_is_the_default():
    frame = some_frames(0)
    assert np.array_equal(encoder_input(frame), encoder_input(frame, "crop84"))


@unblanked
@given(colour=st.tuples(*[st.integers(0, 255)] * 3))
@examples
def test_a_constant_frame_stays_constant(version, colour):
    frame = np.broadcast_to(np.array(colour, np.uint8), (96, 96, 3))
    assert (encoder_input(frame, version) == colour).all()


@unblanked
@given(seed=seeds)
@examples
def test_the_mean_colour_is_kept(version, seed):
    frame = some_frames(seed)
    kept = frame[: HEIGHT[version]].mean(axis=(0, 1))
    np.testing.assert_allclose(encoder_input(frame, version).mean(axis=(0, 1)), kept, atol=0.05)


@unblanked
@given(seed=seeds)
@examples
def test_mirrors_and_colours_commute_with_shrinking(version, seed):
    frame = some_frames(seed)
    shrunk, kept = encoder_input(frame, version), HEIGHT[version]
    upside_down = np.concatenate([frame[:kept][::-1], frame[kept:]])
    assert np.array_equal(encoder_input(frame[:, ::-1], version), shrunk[:, ::-1])
    assert np.array_equal(encoder_input(upside_down, version), shrunk[::-1])
    assert np.array_equal(encoder_input(frame[..., [2, 0, 1]], version), shrunk[..., [2, 0, 1]])


@unblanked
@given(row=st.integers(0, 95), column=st.integers(0, 95))
@examples
def test_a_white_dot_lights_the_pixels_that_cover_it(version, row, column):
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[row, column] = 255
    lit = np.argwhere(encoder_input(frame, version).any(axis=2))
    if row >= HEIGHT[version]:
        assert len(lit) == 0  # the gauges are cropped away
    else:
        place = np.array([row, column]) + 0.5
        size = np.array([HEIGHT[version], 96]) / INPUT_SIZE  # of a target pixel, in source pixels
        assert len(lit) >= 1
        assert (abs((lit + 0.5) * size - place) < (size + 1) / 2).all()


@given(source=st.integers(1, 200), target=st.integers(1, 200))
@settings(deadline=None, max_examples=200)
def test_area_weights_share_every_source_pixel_out_in_whole_numbers(source, target):
    weights, total = area_weights(source, target)
    assert weights.shape == (target, source)
    assert weights.dtype == np.float32
    assert (weights >= 0).all() and (weights == weights.round()).all()
    assert (weights.sum(axis=1) == total).all()
    assert (weights.sum(axis=0) * source == total * target).all()
    assert all(np.ptp(np.flatnonzero(row)) == np.count_nonzero(row) - 1 for row in weights)  # without a gap


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((96, 96, 3), np.float32),
        ((96, 96, 3), np.int64),
        ((96, 96, 3), np.int8),
        ((96, 96, 3), bool),
        ((96, 96), np.uint8),
        ((96, 96, 4), np.uint8),
        ((3, 96, 96), np.uint8),
        ((84, 96, 3), np.uint8),
        ((64, 64, 3), np.uint8),
        ((96, 96, 3, 1), np.uint8),
        ((), np.uint8),
    ],
)
def test_what_is_no_frame_is_refused_by_its_type_and_shape(shape, dtype):
    with pytest.raises(ValueError, match=rf"uint8.*got {np.dtype(dtype)} {re.escape(str(shape))}$"):
        encoder_input(np.zeros(shape, dtype))


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 4), (3, 96, 96), (0, 96, 3), (96, 0, 3), ()])
def test_what_is_no_whole_frame_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match=rf"uint8.*'whole', got uint8 {re.escape(str(shape))}$"):
        encoder_input(np.zeros(shape, np.uint8), "whole")


@pytest.mark.parametrize("version", ["crop84", "full96", "gauges96"])
def test_car_racings_versions_are_for_its_frames_alone(version):
    with pytest.raises(ValueError, match=rf'400, 600.*"whole" .*got {version!r}'):
        kept_size(version, (400, 600))
    assert kept_size("whole", (400, 600)) == (400, 600)


@pytest.mark.parametrize("version", ["crop85", "", "CROP84", None])
def test_an_unknown_version_is_named_beside_those_there_are(version):
    with pytest.raises(ValueError, match=rf"{version!r}.*crop84.*full96"):
        encoder_input(some_frames(0), version)


def test_gauges_are_kept_and_the_score_beside_them_is_not():
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[84:] = 255
    shrunk = encoder_input(frame, "gauges96")
    assert gauge_rows("gauges96") == slice(56, 64)
    assert shrunk[56:, :7].max() == 0
    assert shrunk[56:, 8:].min() == 255
    assert shrunk[:56].max() == 0
    for version in ("crop84", "whole"):
        assert len(range(*gauge_rows(version).indices(64))) == 0


@pytest.mark.parametrize("version", ["full96", "gauges96"])
def test_the_gauge_shows_the_cars_speed(version):
    env = FastCarRacing()
    frame, _ = env.reset(seed=0)
    assert gauge_speed(encoder_input(frame, version), version) < 3
    speeds, shown = [], []
    for _ in range(120):
        frame, *_ = env.step(np.array([0, 1, 0], np.float32))
        speeds.append(env.car.hull.linearVelocity.length)
        shown.append(gauge_speed(encoder_input(frame, version), version))
    assert max(speeds) > 60
    np.testing.assert_allclose(shown, speeds, atol=4)
    assert gauge_speed(encoder_input(frame, "crop84"), "crop84") is None


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != "whole"])
def test_a_mirrors_mirror_shows_the_frame_and_all_but_the_panel_changes_sides(version):
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    mirrored, top = mirror(frames, version), gauge_rows(version).start
    assert np.array_equal(mirror(mirrored, version), frames)
    assert np.array_equal(mirrored[:, :top], frames[:, :top, ::-1])
    assert np.array_equal(mirrored[:, top:, :24], frames[:, top:, :24])  # score, speed and wheels
    assert not np.array_equal(mirrored, frames)


@pytest.mark.parametrize("version", ["full96", "gauges96"])
def test_gauges_in_a_mirror_are_those_of_a_car_that_steers_to_the_other_side(version):
    panels = {}
    for steering in (-1.0, 1.0):
        env = gym.make("CarRacing-v3")
        env.reset(seed=0)
        for _ in range(14):
            frame, *_ = env.step(np.array([steering, 1.0, 0.0], np.float32))
        panels[steering] = encoder_input(frame, version)
    rows = gauge_rows(version)
    left, right, mirrored = (
        each[rows, 16:].astype(int) for each in (panels[-1.0], panels[1.0], mirror(panels[1.0], version))
    )
    assert np.abs(left - right).sum() > 20 * np.abs(left - mirrored).sum()
