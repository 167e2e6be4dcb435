"""Weak and strong augmentation: shapes, ranges, seeds, and each operation at a strength one knows."""

import pytest
import torch

from mild_ext.training.ssl import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(channels=3, size=12, count=6):
    return torch.rand((count, channels, size, size), generator=generator(1))


@pytest.mark.parametrize("operation", augment.OPERATIONS, ids=lambda o: o.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_keep_shape_and_stay_finite(operation, channels):
    images = pictures(channels)
    out = operation(images, torch.tensor([-1.0, -0.5, -0.0, 0.0, 0.5, 1.0]))
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "operation",
    [o for o in augment.OPERATIONS if o not in (augment.equalize, augment.autocontrast)],
    ids=lambda o: o.__name__,
)
def test_strength_zero_changes_nothing(operation):
    images = (pictures() * 255).round() / 255
    out = operation(images, torch.zeros(len(images)))
    # posterize goes through 8-bit levels, warps through interpolation at exact pixel centres.
    torch.testing.assert_close(out, images, atol=1 / 255 + 1e-5, rtol=0)


def test_translation_moves_by_the_stated_share():
    images = torch.zeros(1, 1, 10, 10)
    images[0, 0, 5, 5] = 1
    moved = augment.translate_x(images, torch.tensor([1.0]))
    assert moved[0, 0, 5, 2] == pytest.approx(1.0, abs=1e-4)  # 30 % of 10 pixels


def test_rotation_keeps_angles_in_images_that_are_not_square():
    images = torch.zeros(1, 1, 20, 40)
    images[0, 0, 10, 20] = 1
    images[0, 0, 10, 30] = 1  # ten pixels to the right of the first
    turned = augment.rotate(images, torch.tensor([1.0]))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    right = columns > 24
    mass = turned * right
    y = float((mass * rows).sum() / mass.sum()) - 9.5
    x = float((mass * columns).sum() / mass.sum()) - 19.5
    assert abs(x * x + y * y) ** 0.5 == pytest.approx(10.5, abs=0.8)  # the length is kept
    assert abs(y) > 4  # 30 degrees up or down


def test_equalize_spreads_the_levels_evenly():
    images = torch.linspace(0.4, 0.6, 64).reshape(1, 1, 8, 8)
    out = augment.equalize(images, torch.zeros(1)).flatten()
    assert out.min() == 0
    assert out.max() == 1
    assert out.diff().min() >= 0


def test_constant_images_survive_everything():
    images = torch.full((40, 3, 8, 8), 0.3)
    out = augment.cutout(augment.rand_augment(images, generator()), generator())
    assert out.isfinite().all()


def test_solarize_inverts_bright_values_only():
    images = torch.tensor([0.1, 0.9]).reshape(1, 1, 1, 2)
    out = augment.solarize(images, torch.tensor([0.5])).flatten()
    torch.testing.assert_close(out, torch.tensor([0.1, 0.1]))


def test_rand_augment_is_seeded_and_changes_images():
    images = pictures(count=32)
    first = augment.rand_augment(images, generator(3))
    torch.testing.assert_close(first, augment.rand_augment(images, generator(3)), rtol=0, atol=0)
    assert not torch.equal(first, augment.rand_augment(images, generator(4)))
    assert not torch.equal(first, images)
    assert first.min() >= 0
    assert first.max() <= 1


def test_cutout_covers_at_most_a_quarter():
    out = augment.cutout(torch.ones(200, 1, 16, 16), generator())
    covered = (out == 0.5).float().mean((1, 2, 3))
    assert covered.max() <= 0.25 + 2 / 16
    assert covered.max() > 0.1


def test_strong_keeps_the_scale_of_the_values():
    weak, strong = augment.weak_strong("auto", (3, 12, 12), (0.0, 255.0))
    images = (pictures() * 255).to(torch.uint8)
    out = strong(images, generator())
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert 1 < out.max() <= 255
    assert weak(images, generator()).dtype == torch.uint8


def test_gray_images_are_shifted_but_never_mirrored():
    weak, _ = augment.weak_strong("auto", (1, 8, 8), (0.0, 1.0))
    images = torch.zeros(64, 1, 8, 8)
    images[:, 0, 3:5, 3] = 1.0
    images[:, 0, 3:5, 4] = 0.5  # brighter on the left
    out = weak(images, generator())
    assert not torch.equal(out, images)
    left, right = out[..., :-1], out[..., 1:]
    assert not ((left == 0.5) & (right == 1.0)).any()


def test_vectors_get_features_of_other_samples():
    weak, strong = augment.weak_strong("auto", (50,), (0.0, 1.0))
    inputs = torch.arange(20.0)[:, None].expand(20, 50).contiguous()
    out = strong(inputs, generator())
    changed = (out != inputs).float().mean()
    assert 0.2 < changed < 0.4
    assert set(out.unique().tolist()) <= set(range(20))
    assert (weak(inputs, generator()) - inputs).abs().max() < 0.1 * 6 * inputs.std(0)[0]


def test_a_single_vector_is_left_as_it_is():
    weak, strong = augment.weak_strong("auto", (5,), (0.0, 1.0))
    one = torch.rand(1, 5)
    torch.testing.assert_close(strong(one, generator()), one)
    torch.testing.assert_close(weak(one, generator()), one)
