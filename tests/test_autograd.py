"""Tensors, the computational graph, and the backward pass."""

import asyncio
import copy
import gc
import inspect
import pickle
import re
import textwrap
import threading
import weakref
from collections.abc import Callable, Generator

import numpy as np
import pytest

import tinynn
from tinynn import functional as F
from tinynn.autograd import Tensor, record, record_jointly, record_with_output
from tinynn.errors import ArgumentError, DeviceError, DtypeError, GradientError, ShapeError

DEEP = 100_000


def leaf(values: object, device: str, dtype: str = "float32") -> Tensor:
    return tinynn.tensor(values, dtype, device, requires_grad=True)


def assert_equal(tensor: Tensor | None, expected: object) -> None:
    assert tensor is not None
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6)


class TestBackward:
    def test_fills_grad_of_leaves_only(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        middle = x * 3
        (middle * middle).sum().backward()
        assert_equal(x.grad, [18, 36])
        assert middle.grad is None

    def test_accumulates_into_grad(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        (x * 3).sum().backward()
        (x * x).sum().backward()
        assert_equal(x.grad, [5, 7])

    def test_takes_an_upstream_gradient(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        (x * x).backward(tinynn.tensor([10.0, 1.0], device=device))
        assert_equal(x.grad, [20, 4])

    def test_gradients_of_several_uses_add_up(self, device: str) -> None:
        x = leaf(3.0, device)
        y = x * x + x * x * x - x
        y.backward()
        assert_equal(x.grad, 2 * 3 + 3 * 9 - 1)

    def test_both_operands_may_be_the_same_tensor(self, device: str) -> None:
        x = leaf([2.0, 3.0], device)
        (x / x + x**x - (x - x)).sum().backward()
        expected = np.array([2.0, 3.0]) ** [2, 3] * (np.log([2.0, 3.0]) + 1)
        assert_equal(x.grad, expected)

    def test_from_a_leaf_itself(self, device: str) -> None:
        x = leaf(3.0, device)
        x.backward()
        assert_equal(x.grad, 1)

    def test_leaves_without_requires_grad_stay_without(self, device: str) -> None:
        x, y = leaf([1.0], device), tinynn.ones(1, device=device)
        (x * y).sum().backward()
        assert y.grad is None

    def test_frees_the_graph(self, device: str) -> None:
        y = (leaf([1.0], device) * 2).sum()
        y.backward()
        with pytest.raises(GradientError, match=r"second time through .* retain_graph=True"):
            y.backward()

    def test_retains_the_graph_on_request(self, device: str) -> None:
        x = leaf([1.0], device)
        y = (x * 2).sum()
        y.backward(retain_graph=True)
        y.backward()
        assert_equal(x.grad, [4])

    def test_the_same_array_may_be_the_gradient_of_several(self, device: str) -> None:
        a, b = leaf([1.0, 2.0], device), leaf([3.0, 4.0], device)
        (a + b).backward(tinynn.ones(2, device=device))
        (a * 2).sum().backward()
        assert_equal(a.grad, [3, 3])
        assert_equal(b.grad, [1, 1])

    def test_the_upstream_gradient_is_not_modified(self, device: str) -> None:
        x, seed = leaf([1.0, 2.0], device), tinynn.ones(2, device=device)
        (x + 0).backward(seed)
        (x * 2).sum().backward()
        assert_equal(seed, [1, 1])

    def test_from_several_elements_needs_a_gradient(self, device: str) -> None:
        with pytest.raises(GradientError, match=r"\(2,\) needs a gradient.*\.mean\(\)"):
            (leaf([1.0, 2.0], device) * 2).backward()

    def test_gradient_has_the_shape_of_the_tensor(self, device: str) -> None:
        y = leaf([1.0, 2.0], device) * 2
        with pytest.raises(ShapeError, match=r"\(2,\), got \(3,\)"):
            y.backward(tinynn.ones(3, device=device))

    def test_without_a_graph_is_an_error(self, device: str) -> None:
        with pytest.raises(GradientError, match=r"requires_grad=True.*no_grad, or detached"):
            tinynn.ones(1, device=device).sum().backward()
        with pytest.raises(GradientError, match="without a graph"):
            leaf([1.0], device).detach().backward()

    def test_an_unneeded_vjp_is_not_computed(self, device: str) -> None:
        calls: list[str] = []

        def double(x: Tensor, name: str) -> Tensor:
            def vjp(grad: Tensor) -> Tensor:
                calls.append(name)
                return grad * 2

            return record("double", x.data * 2, (x, vjp))

        images, weight = tinynn.ones(2, device=device), leaf([1.0, 2.0], device)
        (double(images, "images") * double(weight, "weight")).sum().backward()
        assert calls == ["weight"]

    def test_a_wrong_gradient_names_the_function(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        y = record("wrong", x.data, (x, lambda grad: grad.sum()))
        with pytest.raises(GradientError, match=r"gradient of wrong should be float32 \(2,\)"):
            y.sum().backward()

    @pytest.mark.parametrize("wrong", [None, 1.0, np.ones(2, "float32")])
    def test_a_vjp_returns_a_tensor(self, wrong: object, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        y = record("wrong", x.data, (x, lambda grad: wrong))
        with pytest.raises(GradientError, match=r"gradient of wrong should be a tensor, got"):
            y.sum().backward()

    def test_a_function_that_widens_names_itself(self, device: str) -> None:
        x = leaf([1.0], device)
        with pytest.raises(DtypeError, match=r"widen would widen float32 to float64"):
            record("widen", x.data.astype("float64"), (x, lambda grad: grad))


class TestRecord:
    """Differentiable functions of a user."""

    def test_the_example_of_the_docstring(self, device: str) -> None:
        documentation = inspect.getdoc(record) or ""
        example = re.search(r"^    from .*?(?=^\S)", documentation, re.MULTILINE | re.DOTALL)
        assert example is not None
        names: dict[str, Callable[[Tensor], Tensor]] = {}
        exec(textwrap.dedent(example[0]), names)
        x = leaf([2.0, 3.0], device)
        y = names["cube"](x)
        assert_equal(y, [8, 27])
        slope = tinynn.grad(y.sum(), x, create_graph=True)
        assert_equal(slope, [12, 27])
        assert_equal(tinynn.grad(slope.sum(), x), [12, 18])

    def test_with_output(self, device: str) -> None:
        x = leaf([1.0, 4.0], device)
        root = record_with_output("root", x.data**0.5, (x, lambda grad, out: grad * 0.5 / out))
        slope = tinynn.grad(root.sum(), x, create_graph=True)
        assert_equal(slope, [0.5, 0.25])
        assert_equal(tinynn.grad(slope.sum(), x), [-0.25, -1 / 32])

    def test_jointly(self, device: str) -> None:
        asked = []

        def vjps(grad: Tensor, needs_grad: tuple[bool, ...]) -> list[Tensor | None]:
            asked.append(needs_grad)
            return [grad * y, grad * x]

        x, y = leaf([2.0], device), leaf([3.0], device)
        product = record_jointly("product", x.data * y.data, (x, y), vjps)
        gradients = tinynn.grad(product, [x, y], retain_graph=True)
        assert [g.item() for g in gradients] == [3, 2]
        tinynn.grad(product, y)
        assert asked == [(True, True), (False, True)]


class TestDeepGraphs:
    def test_a_hundred_thousand_operations(self, device: str) -> None:
        x = leaf(1.0, device, "float64")
        y = x
        for _ in range(DEEP):
            y = y + 1
        y.backward(retain_graph=True)
        assert_equal(y, DEEP + 1)
        assert_equal(x.grad, 1)
        watched = weakref.ref(x)
        del x, y  # the whole graph at once
        assert watched() is None

    def test_are_freed_during_the_backward_pass(self, device: str) -> None:
        x = leaf(1.0, device)
        first = x * 1
        watched = weakref.ref(first)
        y = first * 1
        del first
        y.backward()
        assert watched() is None


class TestGrad:
    def test_does_not_change_grad_attributes(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        assert_equal(tinynn.grad((x * x).sum(), x), [2, 4])
        assert x.grad is None

    def test_of_a_sequence_is_a_tuple(self, device: str) -> None:
        x, y = leaf(2.0, device), leaf(5.0, device)
        gradients = tinynn.grad(x * y, [x, y])
        assert isinstance(gradients, tuple)
        assert [g.item() for g in gradients] == [5, 2]

    def test_of_several_outputs_is_their_sum(self, device: str) -> None:
        x = leaf(2.0, device)
        assert_equal(tinynn.grad([x * x, x * 3], x), 7)

    def test_with_respect_to_an_intermediate_tensor(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        middle = x * 3
        assert_equal(tinynn.grad((middle * middle).sum(), middle), [6, 12])

    def test_the_graph_behind_an_input_is_retained(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        middle = x * 3
        slope = tinynn.grad((middle * middle).sum(), middle)
        middle.backward(slope)
        assert_equal(x.grad, [18, 36])

    def test_of_both_ends_of_a_chain(self, device: str) -> None:
        x = leaf(2.0, device)
        middle = x * x
        gradients = tinynn.grad(middle * 5, [x, middle])
        assert [g.item() for g in gradients] == [20, 5]

    def test_of_every_order(self, device: str) -> None:
        x = leaf(2.0, device)
        slope = x**4
        for factor in (4 * 8, 12 * 4, 24 * 2, 24):
            slope = tinynn.grad(slope, x, create_graph=True)
            assert_equal(slope, factor)

    def test_computes_no_other_gradients(self, device: str) -> None:
        x, other = leaf(2.0, device), leaf(3.0, device)
        visited: list[bool] = []
        y = record("probe", other.data, (other, lambda grad: visited.append(True) or grad))
        tinynn.grad(x * y, x)
        assert visited == []

    def test_of_anything_but_tensors_is_an_error(self, device: str) -> None:
        x = leaf(2.0, device)
        for outputs, inputs in ((1.0, x), (x * 2, 1.0), (x * 2, ["x"]), ([x * 2, None], x)):
            with pytest.raises(ArgumentError, match=r"grad expects tensors as (in|out)puts, got"):
                tinynn.grad(outputs, inputs)
        with pytest.raises(ArgumentError, match="grad expects 2 grad_outputs, got 1"):
            tinynn.grad([x * 2, x * 3], x, [tinynn.tensor(1.0, device=device)])

    def test_of_an_unused_input_is_an_error(self, device: str) -> None:
        x, unused = leaf(2.0, device), leaf([1.0, 1.0], device)
        with pytest.raises(GradientError, match=r"do not depend .*\(2,\).*allow_unused=True"):
            tinynn.grad(x * 2, [x, unused])
        assert tinynn.grad(x * 2, [x, unused], allow_unused=True)[1] is None

    def test_without_outputs(self, device: str) -> None:
        x = leaf([1.0], device)
        with pytest.raises(ArgumentError, match="at least one output"):
            tinynn.grad([], x)

    def test_of_a_constant_is_an_error(self, device: str) -> None:
        x = leaf(2.0, device)
        with pytest.raises(GradientError, match=r"shape \(3,\) does not require grad"):
            tinynn.grad(x * 2, tinynn.ones(3, device=device))

    def test_gradients_have_no_graph_by_default(self, device: str) -> None:
        x = leaf(2.0, device)
        assert not tinynn.grad(x * x, x).requires_grad
        assert tinynn.grad(x * x, x, create_graph=True).requires_grad


class TestGradMode:
    def test_no_grad_can_be_entered_again(self) -> None:
        quiet = tinynn.no_grad()
        with quiet:
            with quiet:
                pass
            assert not tinynn.is_grad_enabled()
        assert tinynn.is_grad_enabled()

    def test_no_grad_records_nothing(self, device: str) -> None:
        x = leaf(2.0, device)
        with tinynn.no_grad():
            assert not (x * 2).requires_grad
            with tinynn.enable_grad():
                assert (x * 2).requires_grad
            assert not tinynn.is_grad_enabled()
        assert (x * 2).requires_grad

    def test_is_restored_after_an_error(self) -> None:
        with pytest.raises(ZeroDivisionError), tinynn.no_grad():
            _ = 1 / 0
        assert tinynn.is_grad_enabled()

    def test_decorates_functions(self, device: str) -> None:
        @tinynn.no_grad()
        def double(x: Tensor) -> Tensor:
            return x * 2

        assert not double(leaf(1.0, device)).requires_grad
        assert not double(leaf(1.0, device)).requires_grad
        assert tinynn.is_grad_enabled()

    def test_decorates_without_parentheses(self) -> None:
        assert tinynn.no_grad(tinynn.is_grad_enabled)() is False
        with tinynn.no_grad():
            assert tinynn.enable_grad(tinynn.is_grad_enabled)() is True

    def test_decorates_generators(self) -> None:
        seen = []

        @tinynn.no_grad()
        def steps() -> Generator[object, object, str]:
            try:
                seen.append((yield tinynn.is_grad_enabled()))
                yield tinynn.is_grad_enabled()
            except KeyError:
                yield tinynn.is_grad_enabled()
            finally:
                seen.append(tinynn.is_grad_enabled())
            return "result"

        def consume() -> Generator[object, object, None]:
            seen.append((yield from steps()))

        for _ in consume():
            assert tinynn.is_grad_enabled()
        generator = steps()
        values = [next(generator), generator.send("sent"), generator.throw(KeyError())]
        assert (values, tinynn.is_grad_enabled()) == ([False] * 3, True)
        generator.close()
        assert seen == [None, False, "result", "sent", False]

    def test_decorates_coroutines(self) -> None:
        @tinynn.no_grad()
        async def quiet() -> list[bool]:
            before = tinynn.is_grad_enabled()
            await asyncio.sleep(0)
            return [before, tinynn.is_grad_enabled()]

        async def usual() -> bool:
            return tinynn.is_grad_enabled()

        async def main() -> list[object]:
            return await asyncio.gather(quiet(), usual(), quiet(), usual())

        assert asyncio.run(main()) == [[False, False], True, [False, False], True]

    def test_does_not_decorate_classes(self) -> None:
        with pytest.raises(ArgumentError, match=r"decorate functions.*class"):
            tinynn.no_grad()(type("Net", (), {}))

    def test_one_object_on_several_threads(self) -> None:
        """Each thread gets back what it had."""
        quiet, entered, left = tinynn.no_grad(), threading.Event(), threading.Event()
        seen = []

        def other() -> None:
            with tinynn.no_grad():
                with quiet:
                    entered.set()
                    left.wait(10)
                seen.append(tinynn.is_grad_enabled())

        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(10)
        with quiet:
            left.set()
            thread.join()
        assert seen == [False]
        assert tinynn.is_grad_enabled()

    def test_belongs_to_a_thread(self) -> None:
        seen: list[bool] = []
        with tinynn.no_grad():
            thread = threading.Thread(target=lambda: seen.append(tinynn.is_grad_enabled()))
            thread.start()
            thread.join()
        assert seen == [True]


class TestIntegers:
    def test_have_no_gradient(self, device: str) -> None:
        with pytest.raises(GradientError, match=r"only floating-point.*int64.*astype\('float32'\)"):
            tinynn.tensor([1, 2], device=device, requires_grad=True)
        with pytest.raises(GradientError, match="floating-point"):
            tinynn.tensor([1, 2], device=device).requires_grad_()

    def test_are_promoted_to_floats(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        y = x * tinynn.tensor([2, 3], device=device)
        assert y.dtype == np.float32
        y.sum().backward()
        assert_equal(x.grad, [2, 3])

    def test_divide_to_float32(self, device: str) -> None:
        x = tinynn.tensor([1, 2], device=device)
        assert (x / 2).dtype == (1 / x).dtype == (x / x).dtype == np.float32
        assert_equal(1 / x, [1, 0.5])

    def test_times_a_float_are_float32(self, device: str) -> None:
        assert_equal(tinynn.tensor([1, 2], device=device) * 0.5, [0.5, 1])


class TestDtypes:
    def test_two_floating_point_dtypes_do_not_mix(self, device: str) -> None:
        a, b = tinynn.ones(2, "float32", device), tinynn.ones((3, 2), "float64", device)
        with pytest.raises(
            DtypeError, match=r"add: got float32 of shape \(2,\) and float64 .*\.astype"
        ):
            a + b
        with pytest.raises(DtypeError, match=r"matmul: got float64 .* and float32"):
            b @ a

    def test_numbers_do_not_widen(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        for number in (2, 2.0, np.float64(2), np.float32(2), np.int64(2), True):
            for y in (x * number, number * x, x**number, x + number, number - x, x / number):
                assert y.dtype == np.float32

    def test_astype_carries_the_gradient(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        (x.astype("float64") * 3).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == np.float32
        assert x.astype("float32") is x
        assert not x.astype("int64").requires_grad


class TestShapeErrors:
    def test_broadcasting_names_both(self, device: str) -> None:
        a, b = tinynn.ones((2, 3), device=device), tinynn.ones((4, 3), device=device)
        with pytest.raises(ShapeError, match=r"multiply: shapes \(2, 3\) and \(4, 3\)"):
            a * b

    def test_item_expects_one_element(self, device: str) -> None:
        with pytest.raises(ShapeError, match=r"one element, got shape \(2,\)"):
            tinynn.ones(2, device=device).item()

    def test_the_truth_value_of_many_elements_is_ambiguous(self, device: str) -> None:
        with pytest.raises(ShapeError, match=r"truth .* \(2,\) is ambiguous"):
            bool(tinynn.ones(2, device=device) > 0)


class TestConversions:
    def test_numbers(self, device: str) -> None:
        x = tinynn.tensor([2.5], device=device)
        assert (float(x), int(x), bool(x), x.item()) == (2.5, 2, True, 2.5)
        assert [10, 20, 30][tinynn.tensor(1, device=device)] == 20
        with pytest.raises(TypeError, match="only an integer tensor"):
            [1, 2][x]

    def test_format(self, device: str) -> None:
        x = tinynn.tensor([2.5], device=device)
        assert f"{x:.2f} {x.sum():6.1f}" == "2.50    2.5"
        assert f"{x}" == str(x)

    def test_lists_of_results_are_stacked(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        for values in ([x.sum(), x.mean()], [[0.0, x[0]]], ([1.0], (x.sum(),))):
            with pytest.raises(GradientError, match=r"lose the gradient.*F\.stack"):
                tinynn.tensor(values)
        y = leaf([1.0, 2.0], "cpu")
        with tinynn.no_grad():
            assert tinynn.tensor([y.sum(), 1.0]).tolist() == [3, 1]

    def test_lists(self, device: str) -> None:
        assert tinynn.tensor([[1, 2], [3, 4]], device=device).tolist() == [[1, 2], [3, 4]]

    def test_length_and_iteration(self, device: str) -> None:
        x = leaf([[1.0, 2.0], [3.0, 4.0]], device)
        assert len(x) == 2
        assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
        with pytest.raises(TypeError, match="without axes"):
            len(tinynn.tensor(1.0, device=device))

    def test_repr(self, device: str) -> None:
        x = leaf([1.0, 2.5], device)
        assert repr(x).startswith("Tensor([1. , 2.5], shape=(2,), dtype=float32, device='")
        assert "requires_grad=True" in repr(x)
        assert "function='multiply'" in repr(x * 2)
        assert len(repr(tinynn.zeros((1000, 1000), device=device))) < 1000

    def test_detach_shares_values_without_a_graph(self, device: str) -> None:
        x = leaf([1.0], device)
        assert not (x * 2).detach().requires_grad
        assert x.detach().data is x.data

    def test_copies_stay_on_their_device(self, device: str) -> None:
        x = leaf([1.0, 2.0], device)
        for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
            assert twin.requires_grad
            assert_equal(twin * x, [1, 4])
            twin.data[0] = 9
            assert_equal(x, [1, 2])

    def test_to_the_same_device_is_the_same_tensor(self, device: str) -> None:
        x = leaf([1.0], device)
        assert x.to(device) is x
        with pytest.raises(DeviceError, match=r'"cpu", "cuda".*got .gpu'):
            x.to("gpu")

    def test_a_round_trip_keeps_the_gradient(self, device: str) -> None:
        x = leaf([1.0, 2.0], "cpu")
        (x.to(device) * 3).to("cpu").sum().backward()
        assert_equal(x.grad, [3, 3])

    def test_requires_grad_is_switched_on_leaves_only(self, device: str) -> None:
        x = leaf([1.0], device)
        assert not (x.requires_grad_(False) * 2).requires_grad
        x.requires_grad_()
        with pytest.raises(GradientError, match="leaves only"):
            (x * 2).requires_grad_(False)

    def test_tensors_wrap_arrays_only(self) -> None:
        with pytest.raises(ArgumentError, match=r"got list; tinynn.tensor\(\)"):
            Tensor([1.0])


class TestNumpyProtocols:
    """On the CPU: elsewhere NumPy cannot read the array in place."""

    def test_asarray_shares_memory(self) -> None:
        x = leaf([1.0, 2.0], "cpu")
        assert np.shares_memory(np.asarray(x), x.data)
        assert np.asarray(x, dtype="float64").dtype == np.float64
        assert not np.shares_memory(np.array(x), x.data)

    def test_ufuncs_stay_in_the_graph(self) -> None:
        x = leaf([1.0, 4.0], "cpu")
        np.sqrt(x).sum().backward()
        assert_equal(x.grad, [0.5, 0.25])
        assert isinstance(np.exp(x), Tensor)
        assert isinstance(np.maximum(x, 2), Tensor)

    def test_an_array_is_a_left_operand(self) -> None:
        x = leaf([1.0, 4.0], "cpu")
        array = np.array([2.0, 3.0], dtype=np.float32)
        for y in (array * x, array + x, array - x, array / x, array @ x):
            assert isinstance(y, Tensor)
            assert y.requires_grad
        assert (array < x).tolist() == [False, True]

    def test_other_ufuncs_suggest_functions(self) -> None:
        x = leaf([1.0], "cpu")
        with pytest.raises(TypeError, match=r"np\.arctan .*tinynn.functional, or x\.numpy\(\)"):
            np.arctan(x)
        with pytest.raises(TypeError, match=r"np\.add"):
            np.add.reduce(x)

    def test_dlpack_shares_memory(self) -> None:
        x = tinynn.tensor([1.0, 2.0])
        assert np.shares_memory(np.from_dlpack(x), x.data)
        assert np.shares_memory(tinynn.from_dlpack(x.numpy()).data, x.data)


def test_dlpack_round_trip(device: str) -> None:
    x = tinynn.tensor([[1.0, 2.0]], device=device)
    twin = tinynn.from_dlpack(x)
    assert twin.device == x.device
    assert twin.tolist() == [[1, 2]]
    twin.data[0, 0] = 5
    assert x.tolist() == [[5, 2]]


def test_numpy_cannot_read_a_gpu_in_place(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs a tensor elsewhere")
    with pytest.raises(DeviceError, match=r"call \.numpy\(\), which copies"):
        np.asarray(tinynn.ones(2, device=device))


def test_devices_do_not_mix(device: str) -> None:
    if device == "cpu":
        pytest.skip("needs a second device")
    a, b = tinynn.ones(2, device=device), tinynn.ones(3)
    with pytest.raises(DeviceError, match=r"add: .*\(2,\) is on cuda.*\(3,\) on cpu.*\.to\("):
        a + b


def test_a_training_loop_leaves_nothing_to_the_garbage_collector(device: str) -> None:
    weight = leaf(np.ones((3, 2)), device)
    images, labels = tinynn.ones((4, 3), device=device), tinynn.zeros(4, "int64", device)
    watched = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            loss = F.cross_entropy(F.relu(images @ weight), labels)
            watched.append(weakref.ref(loss))
            loss.backward()
            weight.grad = None
        del loss
        assert [ref() for ref in watched] == [None, None, None]
    finally:
        gc.enable()


class TestLeavesOwnTheirGradients:
    def test_two_leaves_do_not_share_one(self, device: str) -> None:
        x, y = (tinynn.ones(3, device=device, requires_grad=True) for _ in range(2))
        (x + y).sum().backward()
        x.grad.data *= 2
        assert x.grad.tolist() == [2, 2, 2]
        assert y.grad.tolist() == [1, 1, 1]

    def test_nor_views_of_one(self, device: str) -> None:
        x = tinynn.ones((2, 2), device=device, requires_grad=True)
        y = tinynn.ones(4, device=device, requires_grad=True)
        (x.reshape(4) + y).backward(tinynn.ones(4, device=device))
        x.grad.data *= 2
        assert y.grad.tolist() == [1, 1, 1, 1]

    def test_nor_the_gradient_of_the_caller(self, device: str) -> None:
        x = tinynn.ones(2, device=device, requires_grad=True)
        seed = tinynn.ones(2, device=device)
        (x + 0.0).backward(seed)
        x.grad.data *= 2
        assert seed.tolist() == [1, 1]
