"""DataLoader: batches, their order, the worker thread and its errors."""

import gc
import threading
import time

import numpy as np
import pytest

from tinynn import Tensor, zeros
from tinynn.data import ArrayDataset, DataLoader
from tinynn.errors import ArgumentError, DataError, DtypeError, ShapeError
from tinynn.random import numpy_generator


def numbered(count, dtype=np.uint8):
    """Images of one pixel whose value is their index, as is the label."""
    return ArrayDataset(np.arange(count, dtype=dtype).reshape(count, 1, 1, 1), np.arange(count))


def labels_of(batches):
    return [labels.numpy().tolist() for _, labels in batches]


def loader_threads():
    return [thread for thread in threading.enumerate() if "tinynn-loader" in thread.name]


class Broken(ArrayDataset):
    """Raises at example 5."""

    def __init__(self):
        super().__init__(np.zeros((10, 1, 1, 1), np.uint8), np.zeros(10, int))

    def __getitem__(self, index):
        if 5 in index:
            raise DataError("photo-5.jpg is not a readable image")
        return super().__getitem__(index)


class Returning:
    """A dataset of length four that returns the given arrays for any index."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.images, self.labels


class TestBatches:
    def test_images_are_float32_tensors_in_0_to_1(self):
        images, labels = next(iter(DataLoader(numbered(256), 256)))
        assert isinstance(images, Tensor)
        assert isinstance(labels, Tensor)
        assert images.shape == (256, 1, 1, 1)
        assert images.numpy().dtype == np.float32
        assert np.array_equal(images.numpy().ravel(), np.arange(256, dtype=np.float32) / 255)
        assert labels.numpy().dtype == np.int64

    def test_float32_images_stay_as_they_are(self):
        images, _ = next(iter(DataLoader(numbered(4, np.float32), 4)))
        assert images.numpy().ravel().tolist() == [0, 1, 2, 3]

    def test_the_dataset_is_not_changed_by_what_is_done_to_a_batch(self):
        dataset = numbered(4, np.float32)
        images, labels = next(iter(DataLoader(dataset, 4)))
        images.numpy()[...] = 7
        labels.numpy()[...] = 7
        assert dataset.images.ravel().tolist() == dataset.labels.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("prefetch", [0, 1, 2, 10])
    def test_every_example_comes_once_and_in_order(self, prefetch):
        assert labels_of(DataLoader(numbered(5), 2, prefetch=prefetch)) == [[0, 1], [2, 3], [4]]

    def test_the_last_batch_can_be_dropped(self):
        loader = DataLoader(numbered(5), 2, drop_last=True)
        assert labels_of(loader) == [[0, 1], [2, 3]]

    @pytest.mark.parametrize(("count", "drop_last", "batches"), [
        (5, False, 3), (5, True, 2), (6, False, 3), (6, True, 3), (1, False, 1),
    ])  # fmt: skip
    def test_the_length_is_the_number_of_batches(self, count, drop_last, batches):
        loader = DataLoader(numbered(count), 2, drop_last=drop_last)
        assert len(loader) == len(list(loader)) == batches

    def test_tensors_are_moved_to_the_device(self, device):
        images, labels = next(iter(DataLoader(numbered(3), 3, device=device)))
        assert images.device == labels.device == zeros(1, device=device).device
        assert np.array_equal(images.numpy().ravel(), np.arange(3, dtype=np.float32) / 255)
        assert labels.numpy().tolist() == [0, 1, 2]


class TestOrder:
    def test_shuffling_is_a_permutation(self):
        visited = np.concatenate(labels_of(DataLoader(numbered(50), 7, shuffle=True)))
        assert visited.tolist() != list(range(50))
        assert sorted(visited) == list(range(50))

    def test_the_order_depends_on_seed_and_epoch_only(self):
        first, second = (DataLoader(numbered(50), 7, shuffle=True, seed=3) for _ in range(2))
        second.epoch = 1
        epochs = [labels_of(first), labels_of(first)]
        assert epochs[0] != epochs[1]
        assert labels_of(second) == epochs[1]
        assert np.array_equal(np.concatenate(epochs[1]), first.order(1))

    def test_seeds_differ(self):
        orders = [DataLoader(numbered(50), 7, shuffle=True, seed=s).order(0) for s in (0, 1)]
        assert not np.array_equal(*orders)

    def test_epoch_is_the_one_being_iterated_and_then_the_next(self):
        loader = DataLoader(numbered(4), 2)
        assert loader.epoch == 0
        assert [loader.epoch for _ in loader] == [0, 0]
        assert loader.epoch == 1

    def test_leaving_half_way_ends_the_epoch(self):
        loader = DataLoader(numbered(4), 2)
        for _ in loader:
            break
        assert loader.epoch == 1

    def test_a_run_resumes_in_the_middle_of_an_epoch(self):
        def noise(images, rng):
            return images + rng.random(images.shape, np.float32)

        def batches(**place):
            loader = DataLoader(numbered(50), 7, shuffle=True, seed=3, augment=noise)
            return [images.numpy().tolist() for images, _ in loader.batches(**place)]

        assert batches(epoch=2, first=4) == batches(epoch=2)[4:]


class TestAugmentation:
    def test_it_gets_floats_and_the_generator_of_its_batch(self):
        def add_noise(images, rng):
            assert images.dtype == np.float32
            return images + rng.random(images.shape, np.float32)

        loader = DataLoader(numbered(4), 2, seed=5, augment=add_noise)
        loader.epoch = 7
        for batch, (images, labels) in enumerate(loader):
            noise = numpy_generator(5, 7, batch).random((2, 1, 1, 1), np.float32)
            clean = labels.numpy().reshape(2, 1, 1, 1) / np.float32(255)
            assert np.allclose(images.numpy(), clean + noise)

    def test_it_may_change_the_size_of_the_images(self):
        loader = DataLoader(
            ArrayDataset(np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), 2,
            augment=lambda images, rng: images[:, :5, :5],
        )  # fmt: skip
        assert next(iter(loader))[0].shape == (2, 5, 5, 3)

    def test_it_must_return_float32(self):
        loader = DataLoader(numbered(2), 2, augment=lambda images, rng: images.astype(np.float64))
        with pytest.raises(
            DtypeError, match=r"2 float32 images .*lambda.*, got .* of dtype float64"
        ):
            next(iter(loader))

    def test_it_must_return_every_image(self):
        loader = DataLoader(numbered(2), 2, augment=lambda images, rng: images[:1])
        with pytest.raises(
            DtypeError, match=r"2 float32 images .*, got shape \(1, 1, 1, 1\) of dtype float32"
        ):
            next(iter(loader))


class TestThread:
    def test_batches_are_made_ahead(self):
        started = []
        second = threading.Event()

        def watch(images, rng):
            started.append(len(started))
            if len(started) == 2:
                second.set()
            return images

        batches = iter(DataLoader(numbered(20), 2, augment=watch, prefetch=2))
        next(batches)
        assert second.wait(10)
        batches.close()

    def test_at_most_prefetch_batches_wait(self):
        started = []

        def watch(images, rng):
            started.append(1)
            return images

        batches = iter(DataLoader(numbered(20), 1, augment=watch, prefetch=3))
        next(batches)
        time.sleep(0.1)
        assert len(started) <= 4
        batches.close()

    def test_it_is_another_thread_unless_prefetch_is_0(self):
        for prefetch, same in [(0, True), (1, False)]:
            threads = []

            def note(images, rng, threads=threads):
                threads.append(threading.current_thread())
                return images

            list(DataLoader(numbered(2), 2, augment=note, prefetch=prefetch))
            assert (threads == [threading.current_thread()]) is same

    def test_it_ends_with_the_epoch(self):
        list(DataLoader(numbered(20), 2))
        assert not loader_threads()

    def test_it_ends_when_the_loop_is_left(self):
        def slow(images, rng):
            time.sleep(0.02)
            return images

        began = time.monotonic()
        for _ in DataLoader(numbered(200), 1, augment=slow, prefetch=50):
            break
        assert not loader_threads()
        assert time.monotonic() - began < 1

    def test_it_ends_when_the_loop_fails(self):
        def train():
            for _ in DataLoader(numbered(20), 2):
                raise FloatingPointError("the loss is not finite")

        with pytest.raises(FloatingPointError) as failure:
            train()
        del failure  # its traceback holds the loop, and the loop the thread
        gc.collect()
        assert not loader_threads()

    def test_nothing_waits_for_it_where_another_thread_ends_the_loop(self):
        """As the garbage collector may, on a thread that holds a lock of the interpreter."""
        calls, go_on = [], threading.Event()

        def slow(images, rng):
            calls.append(0)
            if len(calls) > 1:
                go_on.wait(20)
            return images

        batches = iter(DataLoader(numbered(20), 1, augment=slow))
        next(batches)
        ending = threading.Thread(target=batches.close)
        ending.start()
        ending.join(5)
        waits = ending.is_alive()
        go_on.set()
        ending.join()
        for thread in loader_threads():
            thread.join()
        assert not waits


class TestErrors:
    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_an_error_keeps_its_type_and_names_file_and_batch(self, prefetch):
        loader = DataLoader(Broken(), 2, prefetch=prefetch)
        seen = []
        with pytest.raises(DataError, match=r"photo-5.jpg is not a readable image") as failure:
            seen.extend(loader)
        assert failure.value.__notes__ == ["in batch 2 of epoch 0, examples [4, 5]"]
        assert not loader_threads()

    def test_batches_before_the_error_are_delivered(self):
        seen = []
        with pytest.raises(DataError):
            seen.extend(labels for _, labels in DataLoader(Broken(), 2))
        assert len(seen) == 2

    def test_an_empty_dataset_is_refused(self):
        empty = ArrayDataset(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64))
        with pytest.raises(DataError, match="the dataset is empty: there is nothing to load"):
            DataLoader(empty, 2)

    def test_dropping_the_only_batch_is_refused(self):
        with pytest.raises(ArgumentError, match=r"leaves no batch: 3 examples .*batch_size=4"):
            DataLoader(numbered(3), 4, drop_last=True)

    @pytest.mark.parametrize("batch_size", [0, -1, 2.0, "2"])
    def test_the_batch_size_is_a_positive_whole_number(self, batch_size):
        with pytest.raises(ArgumentError, match="batch_size must be an integer >= 1, got"):
            DataLoader(numbered(3), batch_size)

    def test_prefetch_is_not_negative(self):
        with pytest.raises(ArgumentError, match="prefetch must be an integer >= 0, got -1"):
            DataLoader(numbered(3), 2, prefetch=-1)

    def test_images_of_another_dtype_are_refused(self):
        loader = DataLoader(Returning(np.zeros((4, 1, 1, 1)), np.zeros(4, int)), 4)
        with pytest.raises(DtypeError, match=r"uint8 .* or float32 .*, got float64"):
            next(iter(loader))

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            (np.zeros((3, 1, 1, 1), np.uint8), np.zeros(4, int)),
            (np.zeros((4, 1, 1, 1), np.uint8), np.zeros((3, 4))),
            (np.zeros((4, 1, 1, 1), np.uint8), np.zeros(())),
        ],
    )
    def test_images_and_labels_come_in_pairs(self, images, labels):
        with pytest.raises(ShapeError, match=r"expected 4 images and 4 labels"):
            next(iter(DataLoader(Returning(images, labels), 4)))
