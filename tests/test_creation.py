"""New tensors."""

import numpy as np
import pytest

import tinynn
from tinynn.backend.cpu import threads
from tinynn.errors import ArgumentError, DeviceError


class TestTensor:
    def test_numbers_and_lists(self, device: str) -> None:
        assert tinynn.tensor(2.5, device=device).dtype == np.float32
        assert tinynn.tensor([1, 2], device=device).dtype == np.int64
        assert tinynn.tensor([True], device=device).dtype == np.bool_
        assert tinynn.tensor([[1, 2.5]], device=device).tolist() == [[1, 2.5]]

    def test_arrays_keep_their_dtype(self, device: str) -> None:
        for dtype in ("float16", "float32", "float64", "int32", "uint8"):
            assert tinynn.tensor(np.ones(2, dtype), device=device).dtype == dtype

    def test_dtype_may_be_chosen(self, device: str) -> None:
        assert tinynn.tensor([1, 2], "float64", device).dtype == np.float64

    def test_copies(self, device: str) -> None:
        array = np.ones(2)
        x = tinynn.tensor(array, device=device)
        twin = tinynn.tensor(x, device=device)
        array[0] = 7
        x.data[1] = 8
        assert twin.tolist() == [1, 1]
        assert x.tolist() == [1, 8]

    @pytest.mark.parametrize("data", [[[1, 2], [3]], "ab", [None], 1j])
    def test_only_real_numbers_in_a_regular_shape(self, data: object) -> None:
        with pytest.raises(ArgumentError, match=r"tensor\(\) expects"):
            tinynn.tensor(data)

    def test_an_unknown_device(self) -> None:
        with pytest.raises(DeviceError, match="'tpu'"):
            tinynn.tensor(1.0, device="tpu")


def test_creation_on_a_cpu_leaves_blas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads._BlasLimit, "hold", lambda *_: pytest.fail("limits BLAS"))
    assert tinynn.zeros(2, device="cpu").tolist() == [0, 0]
    assert tinynn.full(2, 3.0, device="cpu").tolist() == [3, 3]


def test_from_numpy_shares_memory() -> None:
    array = np.zeros(2, np.float32)
    x = tinynn.from_numpy(array)
    array[0] = 5
    assert x.tolist() == [5, 0]
    with pytest.raises(ArgumentError, match="got list"):
        tinynn.from_numpy([1.0])  # type: ignore[arg-type]


def test_constants(device: str) -> None:
    assert tinynn.zeros((2, 1), device=device).tolist() == [[0], [0]]
    assert tinynn.ones(2, device=device).tolist() == [1, 1]
    assert tinynn.full((2,), 2.5, device=device).tolist() == [2.5, 2.5]
    assert tinynn.eye(2, device=device).tolist() == [[1, 0], [0, 1]]
    assert tinynn.ones(2, device=device, requires_grad=True).requires_grad
    for x in (tinynn.zeros(1), tinynn.ones(1), tinynn.full(1, 2), tinynn.eye(1)):
        assert x.dtype == np.float32


def test_like_another(device: str) -> None:
    x = tinynn.full((2, 3), 4.0, "float64", device)
    for twin, value in ((tinynn.zeros_like(x), 0), (tinynn.ones_like(x), 1)):
        assert (twin.shape, twin.dtype, twin.device) == (x.shape, x.dtype, x.device)
        assert (twin.numpy() == value).all()


def test_ranges(device: str) -> None:
    assert tinynn.arange(3, device=device).tolist() == [0, 1, 2]
    assert tinynn.arange(3).dtype == np.int64
    assert tinynn.arange(1, 2, 0.5, device=device).tolist() == [1, 1.5]
    assert tinynn.arange(1, 2, 0.5).dtype == np.float32
    assert tinynn.linspace(0, 1, 5, device=device).tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_random_numbers_are_the_same_on_every_device(device: str) -> None:
    for make in (tinynn.rand, tinynn.randn):
        tinynn.manual_seed(3)
        here = make((3, 5), device=device)
        tinynn.manual_seed(3)
        assert make((3, 5)).tolist() == here.tolist()
        assert here.dtype == np.float32
        assert make(4, "float64", device).shape == (4,)


def test_the_shape_is_one_argument() -> None:
    with pytest.raises(ArgumentError, match=r"zeros\(\(2, 3\)\)"):
        tinynn.zeros(2, 3)


def test_only_real_numbers_are_held() -> None:
    with pytest.raises(ArgumentError, match="complex64"):
        tinynn.zeros(2, "complex64")
    with pytest.raises(ArgumentError, match="real numbers"):
        tinynn.from_numpy(np.array(["a"]))
