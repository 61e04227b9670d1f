"""Normalization layers and dropout, in training and in evaluation."""

import numpy as np
import pytest

import tinynn
from tinynn import nn
from tinynn.errors import ArgumentError, ShapeError

rng = np.random.default_rng(2)


class TestBatchNorm:
    def test_running_statistics_follow_the_batches(self, device: str) -> None:
        layer = nn.BatchNorm2d(3, momentum=0.2).to(device)
        mean, variance = np.zeros(3), np.ones(3)
        for _ in range(4):
            batch = rng.normal(2.0, 3.0, (5, 4, 2, 3)).astype(np.float32)
            layer(tinynn.tensor(batch, device=device))
            channels = batch.reshape(-1, 3).astype(float)
            mean = 0.8 * mean + 0.2 * channels.mean(0)
            variance = 0.8 * variance + 0.2 * channels.var(0, ddof=1)
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-5)
        np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-5)

    def test_evaluation_uses_running_statistics_unchanged(self, device: str) -> None:
        layer = nn.BatchNorm1d(2, eps=0.0).to(device).eval()
        layer.running_mean.data[...] = 3
        layer.running_var.data[...] = 4
        x = tinynn.tensor([[5.0, 1.0]], device=device)
        np.testing.assert_allclose(layer(x).numpy(), [[1, -1]], rtol=1e-6)
        assert layer.running_mean.tolist() == [3, 3]

    def test_training_standardizes_each_channel(self, device: str) -> None:
        x = tinynn.tensor(rng.normal(7, 2, (64, 3)), "float32", device)
        out = nn.BatchNorm1d(3).to(device)(x).numpy()
        np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(out.std(0), 1, atol=1e-4)

    def test_statistics_are_buffers_not_parameters(self) -> None:
        layer = nn.BatchNorm2d(3)
        assert [path for path, _ in layer.named_parameters()] == ["weight", "bias"]
        assert [path for path, _ in layer.named_buffers()] == ["running_mean", "running_var"]

    def test_one_value_per_channel_has_no_variance(self, device: str) -> None:
        layer = nn.BatchNorm1d(2).to(device)
        with pytest.raises(ShapeError, match=r"more than one value.*larger batch or model.eval"):
            layer(tinynn.ones((1, 2), device=device))
        assert layer.eval()(tinynn.ones((1, 2), device=device)).shape == (1, 2)

    def test_shapes_that_do_not_fit(self, device: str) -> None:
        with pytest.raises(ShapeError, match=r"BatchNorm2d expects images \(N, H, W, C\)"):
            nn.BatchNorm2d(2).to(device)(tinynn.ones((3, 2), device=device))
        with pytest.raises(ShapeError, match=r"expects 2 channels .*\(3, 4\)"):
            nn.BatchNorm1d(2).to(device)(tinynn.ones((3, 4), device=device))


class TestGroupAndLayerNorm:
    def test_do_not_depend_on_the_batch_or_the_mode(self, device: str) -> None:
        x = tinynn.tensor(rng.normal(size=(3, 2, 2, 4)), "float32", device)
        for layer in (nn.GroupNorm(2, 4).to(device), nn.LayerNorm(4).to(device)):
            np.testing.assert_allclose(layer(x).numpy()[:1], layer.eval()(x[:1]).numpy(), rtol=1e-5)

    def test_shapes_that_do_not_fit(self, device: str) -> None:
        with pytest.raises(ShapeError, match="3 groups do not divide 4 channels"):
            nn.GroupNorm(3, 4)
        with pytest.raises(ShapeError, match=r"layer_norm expects .* \(5,\)"):
            nn.LayerNorm(4).to(device)(tinynn.ones((2, 5), device=device))


class TestDropout:
    def test_drops_with_probability_p_and_keeps_the_mean(self, device: str) -> None:
        out = nn.Dropout(0.3)(tinynn.ones(100_000, device=device)).numpy()
        assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)
        assert out.mean() == pytest.approx(1.0, abs=0.02)
        assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}

    def test_repeats_for_a_seed_and_differs_per_call(self, device: str) -> None:
        layer, x = nn.Dropout(0.5), tinynn.ones(64, device=device)
        tinynn.manual_seed(9)
        first, second = layer(x).tolist(), layer(x).tolist()
        tinynn.manual_seed(9)
        assert layer(x).tolist() == first
        assert first != second

    def test_draws_the_same_on_every_device(self, device: str) -> None:
        tinynn.manual_seed(9)
        here = nn.Dropout(0.5)(tinynn.ones((7, 9), device=device)).tolist()
        tinynn.manual_seed(9)
        assert nn.Dropout(0.5)(tinynn.ones((7, 9))).tolist() == here

    def test_is_the_identity_in_evaluation(self, device: str) -> None:
        x = tinynn.ones(8, device=device)
        assert nn.Dropout(0.5).eval()(x) is x

    @pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
    def test_expects_a_probability(self, p: float) -> None:
        with pytest.raises(ArgumentError, match=r"probability p must be a number in \[0, 1\)"):
            nn.Dropout(p)
