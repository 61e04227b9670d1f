"""Edge cases: huge values, ties, kinks, ignored labels, integers."""

import math

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.autograd import Tensor
from tinynn.errors import DtypeError, ShapeError
from tinynn.random import Generator


def leaf(values: object, device: str, dtype: str = "float32") -> Tensor:
    return tinynn.tensor(values, dtype, device, requires_grad=True)


def gradient(function: object, values: object, device: str) -> list[float]:
    x = leaf(values, device)
    return tinynn.grad(function(x).sum(), x).tolist()  # type: ignore[operator]


class TestNothingOverflows:
    def test_activations(self, device: str) -> None:
        x = leaf([-1e4, -100.0, 0.0, 100.0, 1e4], device)
        for function, expected in (
            (F.sigmoid, [0, 0, 0.5, 1, 1]),
            (F.softplus, [0, 0, math.log(2), 100, 1e4]),
            (F.log_sigmoid, [-1e4, -100, -math.log(2), 0, 0]),
            (F.elu, [-1, -1, 0, 100, 1e4]),
            (F.silu, [0, 0, 0, 100, 1e4]),
            (F.gelu, [0, 0, 0, 100, 1e4]),
            (F.erf, [-1, -1, 0, 1, 1]),
        ):
            y = function(x)
            np.testing.assert_allclose(y.numpy(), expected, atol=1e-6)
            assert np.isfinite(tinynn.grad(y.sum(), x).numpy()).all()

    def test_softmax_family(self, device: str) -> None:
        x = leaf([1e4, 0.0, -1e4], device)
        assert F.softmax(x).tolist() == [1, 0, 0]
        assert F.log_softmax(x).tolist() == [0, -1e4, -2e4]
        assert F.logsumexp(x).item() == 1e4

    def test_losses(self, device: str) -> None:
        x, t = leaf([1e4, -1e4], device), tinynn.tensor([0.0, 1.0], device=device)
        assert F.binary_cross_entropy_with_logits(x, t).item() == 1e4
        assert F.sigmoid_focal_loss(x, t, alpha=-1).item() == 1e4
        assert F.cross_entropy(x, tinynn.tensor(1, device=device)).item() == 2e4


class TestInfinity:
    @pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # NumPy's, for log(0)
    def test_logsumexp_of_minus_infinity(self, device: str) -> None:
        x = tinynn.tensor([[-math.inf, -math.inf], [0.0, -math.inf]], device=device)
        assert F.logsumexp(x, 1).tolist() == [-math.inf, 0]

    def test_an_ignored_label_ignores_its_logits(self, device: str) -> None:
        x = leaf([[-math.inf, 0.0], [0.0, 0.0]], device)
        loss = F.cross_entropy(x, tinynn.tensor([-1, 1], device=device), ignore_index=-1)
        assert loss.item() == pytest.approx(math.log(2))
        assert tinynn.grad(loss, x).tolist() == [[0, 0], [0.5, -0.5]]


class TestKinks:
    def test_gradients_at_zero(self, device: str) -> None:
        assert gradient(F.relu, [0.0], device) == [0]
        assert gradient(F.absolute, [0.0], device) == [0]
        assert gradient(lambda x: x**2, [0.0], device) == [0]
        assert gradient(lambda x: x**1, [0.0], device) == [1]

    def test_equal_operands_share_the_gradient(self, device: str) -> None:
        assert gradient(lambda x: F.maximum(x, 1.0), [0.0, 1.0, 2.0], device) == [0, 0.5, 1]
        assert gradient(lambda x: F.minimum(x, 1.0), [0.0, 1.0, 2.0], device) == [1, 0.5, 0]

    def test_equal_elements_share_the_gradient(self, device: str) -> None:
        assert gradient(F.max, [3.0, 1.0, 3.0], device) == [0.5, 0, 0.5]

    def test_the_bounds_belong_to_the_inside_of_clip(self, device: str) -> None:
        assert gradient(lambda x: F.clip(x, 0, 1), [-1.0, 0.0, 1.0, 2.0], device) == [0, 1, 1, 0]

    def test_the_first_of_equal_pixels_wins(self, device: str) -> None:
        x = leaf(np.ones((1, 2, 2, 1)), device)
        F.max_pool2d(x, 2).sum().backward()
        assert x.grad is not None
        assert x.grad.numpy().ravel().tolist() == [1, 0, 0, 0]


class TestPooling:
    def test_padding_is_minus_infinity(self, device: str) -> None:
        x = tinynn.full((1, 3, 3, 1), -5.0, device=device)
        assert set(F.max_pool2d(x, 3, 1, padding=1).numpy().ravel()) == {-5}


class TestComparisons:
    def test_are_boolean_without_gradient(self, device: str) -> None:
        x = leaf([1.0, 2.0, 3.0], device)
        for result, expected in (
            (x <= 2, [True, True, False]),
            (x > 2, [False, False, True]),
            (x >= 2, [False, True, True]),
            (x == 2, [False, True, False]),
            (x != 2, [True, False, True]),
            (x < 2, [True, False, False]),
        ):
            assert result.tolist() == expected
            assert not result.requires_grad

    def test_argmax_is_the_first(self, device: str) -> None:
        x = tinynn.tensor([[1, 3, 3], [2, 0, 1]], device=device)
        assert F.argmax(x, 1).tolist() == [1, 0]
        assert F.argmax(x).item() == 1
        assert F.argmin(x, 0).tolist() == [0, 1, 1]


class TestNumbersOnly:
    def test_where_of_two_numbers(self, device: str) -> None:
        mask = tinynn.tensor([True, False], device=device)
        assert F.where(mask, 1.0, 0.0).tolist() == [1, 0]

    def test_integers_are_averaged_as_float32(self, device: str) -> None:
        x = tinynn.tensor([1, 2], device=device)
        assert F.mean(x).item() == 1.5
        assert F.mean(x).dtype == F.exp(x).dtype == F.var(x).dtype == np.float32
        assert F.sum(x).dtype == np.int64

    def test_sizes_may_be_numpys_integers(self, device: str) -> None:
        x = tinynn.zeros((1, 4, 4, 1), device=device)
        assert F.max_pool2d(x, np.int64(2)).shape == (1, 2, 2, 1)  # type: ignore[arg-type]
        assert x.reshape(np.int64(16)).shape == (16,)


class TestDropout:
    def test_its_own_generator_does_not_advance_the_default(self, device: str) -> None:
        tinynn.manual_seed(1)
        F.dropout(tinynn.ones(9, device=device), 0.5, generator=Generator(5))
        from tinynn.random import default_generator

        assert default_generator.state == (1, 0)


class TestBatchNorm:
    def test_evaluation_does_not_move_the_statistics(self, device: str) -> None:
        mean, var = tinynn.zeros(2, device=device), tinynn.ones(2, device=device)
        F.batch_norm(tinynn.ones((3, 2), device=device), mean, var)
        assert (mean.tolist(), var.tolist()) == ([0, 0], [1, 1])


class TestMasks:
    def test_combine(self, device: str) -> None:
        x = tinynn.tensor([-2.0, -1.0, 1.0, 2.0], device=device)
        assert ((x > -2) & (x < 2)).tolist() == [False, True, True, False]
        assert ((x < -1) | (x > 1)).tolist() == [True, False, False, True]
        assert ((x < 0) ^ (x < 2)).tolist() == [False, False, True, False]
        assert (~(x > 0)).tolist() == [True, True, False, False]
        assert x[~(x > 0)].tolist() == [-2, -1]

    def test_are_boolean(self, device: str) -> None:
        x = tinynn.tensor([1.0], device=device)
        for wrong in (lambda: x & x, lambda: ~x):
            with pytest.raises(DtypeError, match=r"logical_\w+ expects boolean.*x > 0"):
                wrong()


def test_smoothed_probabilities(device: str) -> None:
    logits = np.array([[1.0, 2.0, 4.0]])
    target = np.array([[0.2, 0.5, 0.3]])
    loss = F.cross_entropy(
        tinynn.tensor(logits, device=device),
        tinynn.tensor(target, device=device),
        label_smoothing=0.3,
    )
    log_probabilities = logits - np.log(np.exp(logits).sum())
    assert loss.item() == pytest.approx(-((target * 0.7 + 0.1) * log_probabilities).sum())


def test_floating_point_labels_are_an_error(device: str) -> None:
    with pytest.raises(ShapeError, match=r"astype\('int64'\)"):
        F.cross_entropy(tinynn.zeros((2, 3), device=device), tinynn.ones(2, device=device))
