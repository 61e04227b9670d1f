"""Augmentation: what each transform changes, as a function of the generator alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynn.data import augment
from tinynn.errors import ArgumentError, DtypeError, ShapeError

TRANSFORMS = [
    augment.RandomFlip(),
    augment.RandomAffine(shift=0.1, scale=(0.8, 1.25), rotation=15),
    augment.RandomCrop(9, 11),
    augment.RandomBrightness(0.3),
    augment.RandomContrast(0.5, 2),
    augment.RandomLightGradient(0.3),
    augment.RandomGamma(0.5, 2),
    augment.RandomBlur(1.5),
    augment.RandomNoise(0.1),
]


def images(n: int = 6, height: int = 12, width: int = 15, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.random((n, height, width, channels), dtype=np.float32)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
class TestEveryTransform:
    def test_gives_float32_images_within_0_and_1(self, transform: augment.Augmentation) -> None:
        out = transform(images(), generator())
        assert out.dtype == np.float32
        assert (out.shape[0], out.shape[3]) == (6, 2)
        assert out.min() >= 0
        assert out.max() <= 1

    def test_does_not_change_its_input(self, transform: augment.Augmentation) -> None:
        batch = images()
        transform(batch, generator())
        np.testing.assert_array_equal(batch, images())

    def test_is_decided_by_the_generator(self, transform: augment.Augmentation) -> None:
        same, again = transform(images(), generator(3)), transform(images(), generator(3))
        np.testing.assert_array_equal(same, again)
        assert not np.array_equal(same, transform(images(), generator(4)))

    def test_draws_for_each_image_anew(self, transform: augment.Augmentation) -> None:
        out = transform(np.repeat(images(1), 16, axis=0), generator())
        assert not all(np.array_equal(out[0], image) for image in out[1:])

    def test_takes_an_empty_batch(self, transform: augment.Augmentation) -> None:
        assert len(transform(images(0), generator())) == 0

    def test_refuses_one_image_without_a_batch(self, transform: augment.Augmentation) -> None:
        with pytest.raises(ShapeError, match=r"\(N, H, W, C\), got shape \(12, 15, 2\)"):
            transform(images()[0], generator())

    def test_refuses_uint8(self, transform: augment.Augmentation) -> None:
        with pytest.raises(DtypeError, match=r"float32 images in \[0, 1\], got uint8.*/ 255"):
            transform((images() * 255).astype(np.uint8), generator())


def test_every_transform_is_tested() -> None:
    tested = {type(transform).__name__ for transform in TRANSFORMS}
    assert tested == set(augment.__all__) - {"Compose"}


def test_compose_takes_the_steps_in_order() -> None:
    flip, noise = augment.RandomFlip(1), augment.RandomNoise(0.1)
    rng = generator(5)
    expected = noise(flip(images(), rng), rng)
    np.testing.assert_array_equal(augment.Compose(flip, noise)(images(), generator(5)), expected)


def test_flip_mirrors_left_and_right() -> None:
    np.testing.assert_array_equal(
        augment.RandomFlip(1)(images(), generator()), images()[:, :, ::-1]
    )


def test_flip_takes_about_the_asked_share() -> None:
    batch = np.tile(np.float32([[[0], [1]]]), (1000, 1, 1, 1))
    assert 0.2 < augment.RandomFlip(0.25)(batch, generator())[:, 0, 0].mean() < 0.3


class TestRandomAffine:
    def test_of_nothing_changes_nothing(self) -> None:
        np.testing.assert_allclose(
            augment.RandomAffine()(images(), generator()), images(), atol=1e-6
        )

    def test_size_cuts_the_middle(self) -> None:
        out = augment.RandomAffine(size=(8, 11))(images(), generator())
        np.testing.assert_allclose(out, images()[:, 2:10, 2:13], atol=1e-6)

    def test_a_scale_of_two_shows_the_middle_twice_as_large(self) -> None:
        x = np.linspace(0, 1, 9, dtype=np.float32)
        ramp = np.broadcast_to(x[None, None, :, None], (1, 9, 9, 1))
        out = augment.RandomAffine(scale=(2, 2))(np.ascontiguousarray(ramp), generator())
        np.testing.assert_allclose(out[0, 4, :, 0], 0.5 + (x - 0.5) / 2, atol=1e-6)

    @pytest.mark.parametrize("angle", [90.0, -90.0])
    def test_a_quarter_turn_is_a_quarter_turn(self, angle: float) -> None:
        class Extreme:
            """Draws the lower or the upper limit of each range."""

            def uniform(self, low: float, high: float, size: object) -> np.ndarray:
                return np.full(size, high if angle > 0 else low)  # type: ignore[call-overload]

        batch = images(3, 9, 9, 1)
        out = augment.RandomAffine(rotation=90)(batch, Extreme())  # type: ignore[arg-type]
        turned = np.rot90(batch, -np.sign(angle), axes=(1, 2))
        np.testing.assert_allclose(out, turned, atol=1e-5)

    def test_shifts_stay_within_the_fraction(self) -> None:
        dot = np.zeros((200, 21, 21, 1), dtype=np.float32)
        dot[:, 10, 10] = 1
        out = augment.RandomAffine(shift=0.1)(dot, generator())[..., 0]
        position = np.arange(21)
        rows = (out.sum(axis=2) * position).sum(axis=1) / out.sum(axis=(1, 2))
        assert abs(rows - 10).max() <= 2.1 + 1e-3
        assert abs(rows - 10).max() > 1.8

    def test_repeats_the_edge_outside(self) -> None:
        white = np.ones((20, 8, 8, 1), dtype=np.float32)
        out = augment.RandomAffine(0.5, (0.3, 0.5), 45)(white, generator())
        np.testing.assert_allclose(out, white, atol=1e-6)

    @given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
    def test_any_size_from_any_size(self, height: int, width: int, rows: int, cols: int) -> None:
        transform = augment.RandomAffine(0.2, (0.5, 2), 30, size=(rows, cols))
        assert transform(images(2, height, width), generator()).shape == (2, rows, cols, 2)


class TestRandomCrop:
    def test_is_a_part_of_the_image(self) -> None:
        batch = images(30, 7, 8)
        for image, part in zip(batch, augment.RandomCrop(5, 6)(batch, generator()), strict=True):
            parts = [image[y : y + 5, x : x + 6] for y in range(3) for x in range(3)]
            assert any(np.array_equal(part, candidate) for candidate in parts)

    def test_refuses_smaller_images(self) -> None:
        with pytest.raises(ShapeError, match=r"RandomCrop\(20, 10\).*got 12 x 15"):
            augment.RandomCrop(20, 10)(images(), generator())


def test_brightness_adds_one_amount_to_an_image() -> None:
    batch = images() * 0.2 + 0.4
    difference = augment.RandomBrightness(0.3)(batch, generator()) - batch
    assert np.ptp(difference, axis=(1, 2, 3)).max() < 1e-6
    assert abs(difference).max() <= 0.3


def test_contrast_keeps_the_mean_and_scales_about_it() -> None:
    batch = images() * 0.2 + 0.4
    out = augment.RandomContrast(0.5, 2)(batch, generator())
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), batch.mean(axis=(1, 2, 3)), atol=1e-5)
    factor = out.std(axis=(1, 2, 3)) / batch.std(axis=(1, 2, 3))
    assert ((factor >= 0.5) & (factor <= 2)).all()


def test_light_gradient_is_a_plane() -> None:
    batch = np.full((8, 9, 9, 1), 0.5, dtype=np.float32)
    out = augment.RandomLightGradient(0.2)(batch, generator()).astype(np.float64)
    assert abs(np.diff(out, 2, axis=1)).max() < 1e-6
    assert abs(np.diff(out, 2, axis=2)).max() < 1e-6
    assert 0.01 < abs(out - 0.5).max() <= 0.2 * np.sqrt(2) + 1e-6


def test_gamma_keeps_black_and_white_and_the_order() -> None:
    ramp = np.tile(np.linspace(0, 1, 5, dtype=np.float32)[:, None], (20, 1, 1, 1))
    out = augment.RandomGamma(0.5, 2)(ramp, generator())[:, 0, :, 0]
    np.testing.assert_array_equal(out[:, [0, 4]], [[0, 1]] * 20)
    assert (np.diff(out, axis=1) > 0).all()


class TestRandomBlur:
    def test_spreads_a_dot_by_at_most_max_sigma(self) -> None:
        dot = np.zeros((400, 25, 25, 1), dtype=np.float32)
        dot[:, 12, 12] = 1
        out = augment.RandomBlur(1.5)(dot, generator())[..., 0].astype(np.float64)
        np.testing.assert_allclose(out.sum(axis=(1, 2)), 1, atol=1e-5)
        variance = (out.sum(axis=2) * (np.arange(25) - 12) ** 2).sum(axis=1)
        assert 1.4**2 < variance.max() <= 1.5**2 + 1e-3
        assert variance.min() < 0.01

    def test_leaves_an_even_image_even(self) -> None:
        batch = np.full((4, 6, 6, 1), 0.3, dtype=np.float32)
        np.testing.assert_allclose(augment.RandomBlur(2)(batch, generator()), batch, atol=1e-6)

    def test_of_zero_changes_nothing(self) -> None:
        np.testing.assert_array_equal(augment.RandomBlur(0)(images(), generator()), images())


def test_noise_has_at_most_max_sigma_and_differs_from_value_to_value() -> None:
    batch = np.full((200, 16, 16, 1), 0.5, dtype=np.float32)
    deviation = augment.RandomNoise(0.1)(batch, generator()).std(axis=(1, 2, 3))
    assert 0.08 < deviation.max() < 0.115


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.RandomFlip(1.5), "probability must be a number in [0, 1], got 1.5"),
        (lambda: augment.RandomAffine(shift=-0.1), "shift must be a number in [0, 1], got -0.1"),
        (
            lambda: augment.RandomAffine(scale=(0, 1)),
            "scale: low must be a number in (0, inf), got 0",
        ),
        (
            lambda: augment.RandomAffine(rotation=200),
            "rotation must be a number in [0, 180], got 200",
        ),
        (lambda: augment.RandomBrightness(2), "amount must be a number in [0, 1], got 2"),
        (
            lambda: augment.RandomContrast(2, 1),
            "contrast: high must be a number in [2, 1e+06], got 1",
        ),
        (lambda: augment.RandomLightGradient(-1), "amount must be a number in [0, 1], got -1"),
        (
            lambda: augment.RandomGamma(0, 1),
            "gamma: low must be a number in (0, inf), got 0",
        ),
        (lambda: augment.RandomBlur(-1), "max_sigma must be a number in [0, 100], got -1"),
        (
            lambda: augment.RandomBlur(float("inf")),
            "max_sigma must be a number in [0, 100], got inf",
        ),
        (
            lambda: augment.RandomCrop(-1, 3),
            "height must be an integer >= 1, got -1",
        ),
        (
            lambda: augment.RandomAffine(size=(3, 2.5)),  # type: ignore[arg-type]
            "RandomAffine expects size as 1 or 2 integers >= 1 and < 2**31, got (3, 2.5)",
        ),
        (
            lambda: augment.RandomGamma(1, float("inf")),
            "gamma: high must be a number in [1, 1e+06], got inf",
        ),
        (lambda: augment.RandomNoise(3), "max_sigma must be a number in [0, 1], got 3"),
    ],
)
def test_invalid_amounts_are_refused(make: object, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == message
