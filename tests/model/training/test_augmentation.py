"""The fused warp does what its ranges say, and nothing outside training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from scipy import ndimage

from histopipe.core.params import AugmentationParams
from histopipe.training.augmentation import STAINS, RandomAffine, RandomStain
from histopipe.training.opencv import stain_patches as stained_by_opencv
from histopipe.training.opencv import warp_patches
from histopipe.training.resampling import affine_gather


def patches(count: int = 64) -> np.ndarray:
    """Smooth random pictures, so that interpolation hardly matters."""
    noise = np.random.default_rng(0).normal(size=(count, 50, 50, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    return (128 + 100 * smooth / np.abs(smooth).max()).astype(np.uint8)


def warp(batch: np.ndarray, seed: int = 1, **ranges: Any) -> np.ndarray:
    layer = RandomAffine(AugmentationParams(**ranges), seed)
    return np.asarray(keras.ops.convert_to_numpy(layer(batch, training=True)))


def test_nothing_happens_outside_training() -> None:
    layer = RandomAffine(AugmentationParams(rotation=90, shift=0.3), 1)
    assert (keras.ops.convert_to_numpy(layer(patches(), training=False)) == patches()).all()


def test_no_ranges_leave_patches_as_they_are() -> None:
    assert (warp(patches()) == patches()).all()


def test_horizontal_flips_hit_about_half() -> None:
    batch = patches(400)
    warped = warp(batch, horizontal_flip=True)
    flipped = (warped == batch[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (warped == batch).all(axis=(1, 2, 3))
    assert (flipped ^ same).all()
    assert 0.4 < flipped.mean() < 0.6


def test_vertical_flips_turn_rows() -> None:
    batch = patches(40)
    warped = warp(batch, vertical_flip=True)
    assert ((warped == batch[:, ::-1]).all(axis=(1, 2, 3)) | (warped == batch).all(axis=(1, 2, 3))).all()


def test_a_rotation_is_one_about_the_centre_within_its_range() -> None:
    batch = patches(8)
    warped = warp(batch, rotation=30).astype(float)
    for before, after in zip(batch, warped, strict=True):
        errors = [
            np.abs(ndimage.rotate(before.astype(float), angle, reshape=False, order=1, mode="nearest") - after)[
                10:40, 10:40
            ].mean()
            for angle in np.arange(-30, 31)
        ]
        assert min(errors) < 2.0


def test_shifts_stay_in_range_and_repeat_the_edge() -> None:
    ramp = np.broadcast_to(np.arange(50, dtype=np.uint8)[None, None, :, None] * 4, (200, 50, 50, 3))
    warped = warp(ramp, shift=0.1)
    moved = (warped[:, 25, 25, 0].astype(float) - 100) / 4
    assert np.abs(moved).max() <= 5.1
    assert np.abs(moved).max() > 4
    assert warped.max() == 196  # the edge's own value, nothing blank


def test_every_call_differs_and_the_seed_repeats_them() -> None:
    layers = [RandomAffine(AugmentationParams(rotation=20), seed) for seed in (1, 1, 2)]
    calls = [[keras.ops.convert_to_numpy(layer(patches(4), training=True)) for _ in range(2)] for layer in layers]
    assert (calls[0][0] != calls[0][1]).any()
    assert (calls[0][0] == calls[1][0]).all()
    assert (calls[0][1] == calls[1][1]).all()
    assert (calls[0][0] != calls[2][0]).any()


@pytest.mark.parametrize("ranges", [{"zoom": 0.3}, {"shear": 0.3}])
def test_zoom_and_shear_keep_the_centre(ranges: dict[str, float]) -> None:
    batch = patches(16)[:, :49, :49]  # an odd side has a centre pixel
    warped = warp(batch, **ranges)
    assert np.abs(warped[:, 24, 24].astype(int) - batch[:, 24, 24]).max() <= 1
    assert (warped != batch).any()


def test_quarter_turns_and_flips_give_the_eight_symmetries_exactly() -> None:
    batch = patches(400)
    warped = warp(batch, quarter_turns=True, horizontal_flip=True, vertical_flip=True)
    views = [np.rot90(side, turns, axes=(1, 2)) for side in (batch, batch[:, :, ::-1]) for turns in range(4)]
    hits = np.array([(warped == view).all(axis=(1, 2, 3)) for view in views])
    assert (hits.sum(axis=0) == 1).all()
    assert (hits.mean(axis=1) > 0.06).all()  # an eighth each


@pytest.mark.parametrize("shape", [(4, 50, 50, 3), (2, 23, 41, 3)])
@pytest.mark.parametrize("fill", ["nearest", "constant", "reflect", "wrap"])
def test_both_ways_to_resample_agree(fill: str, shape: tuple[int, int, int, int]) -> None:
    random = np.random.default_rng(3)
    batch = random.integers(0, 256, shape, np.uint8)
    transforms = np.tile(np.float32([1, 0, 0, 0, 1, 0, 0, 0]), (len(batch), 1))
    transforms[:, [0, 1, 3, 4]] += random.uniform(-0.3, 0.3, (len(batch), 4))
    transforms[:, [2, 5]] += random.uniform(-9, 9, (len(batch), 2))
    found = warp_patches(batch, transforms, fill).astype(float)
    expected = np.asarray(affine_gather(batch.astype(np.float32), transforms, fill))
    assert np.abs(found - expected).max() < 1.0  # rounding, and a last digit of the place


def stained(batch: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(RandomStain(share, seed)(batch, training=True)))


def test_a_change_of_stain_keeps_the_background_and_where_things_are() -> None:
    amounts = np.zeros((8, 20, 20, 3))
    amounts[:, 5:10, 5:10, 0] = 0.8  # haematoxylin
    amounts[:, 12:18, 3:9, 1] = 0.6  # eosin
    batch = np.clip(np.round(256 * np.exp(-amounts @ STAINS) - 1), 0, 255).astype(np.uint8)
    changed = stained(batch, 0.3)
    densities = -np.log((changed.astype(float) + 1) / 256) @ np.linalg.inv(STAINS)
    background = densities[:, 0:4, 0:4].mean(axis=(1, 2))
    assert np.abs(background).max() < 0.07  # a fifth of .3, and rounding
    nuclei = densities[:, 6:9, 6:9].mean(axis=(1, 2)) - background
    assert np.ptp(nuclei[:, 0]) > 0.1  # some patches get more haematoxylin, some less
    assert nuclei[:, 0].min() > 0.8 * 0.68
    assert nuclei[:, 0].max() < 0.8 * 1.32
    assert np.abs(nuclei[:, 1:]).max() < 0.1  # and hardly any other: white can only get darker


def test_each_patch_and_each_batch_is_stained_anew() -> None:
    layer = RandomStain(0.2, 1)
    batch = np.repeat(patches(1), 4, axis=0)
    first, second = (np.asarray(keras.ops.convert_to_numpy(layer(batch, training=True))) for _ in range(2))
    assert len({patch.tobytes() for patch in (*first, *second)}) == 8


@pytest.mark.parametrize("share", [0.2, 0.99])
def test_both_ways_to_stain_agree(share: float) -> None:
    """OpenCV's against plain operations of Keras, which is what a layer that XLA compiles does."""
    batch = np.random.default_rng(3).integers(0, 256, (9, 20, 30, 3), np.uint8)
    batch[0], batch[1] = 0, 255
    layer, same = (RandomStain(share, 1, compiled=True) for _ in range(2))
    changes = [keras.ops.convert_to_numpy(part) for part in same._changes(len(batch))]
    found = stained_by_opencv(batch, *changes).astype(int)
    expected = keras.ops.convert_to_numpy(layer(batch, training=True)).astype(int)
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99
    nothing = np.tile(np.eye(3, dtype=np.float32), (9, 1, 1)), np.zeros((9, 1, 3), np.float32)
    assert (stained_by_opencv(batch, *nothing) == batch).all()


def test_no_stain_is_changed_outside_training() -> None:
    assert (keras.ops.convert_to_numpy(RandomStain(0.3, 1)(patches(), training=False)) == patches()).all()
