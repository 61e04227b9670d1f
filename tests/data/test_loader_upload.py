"""Uploads of the data loader: contents, order, and synchronization with the host."""

import threading

import numpy as np
import pytest

from tinynn.backend import get_backend
from tinynn.data import ArrayDataset, DataLoader


def numbered(count: int) -> ArrayDataset:
    """Images of 2 x 2 pixels filled with their index, which is also their label."""
    images = np.arange(count, dtype=np.float32).repeat(4).reshape(count, 2, 2, 1)
    return ArrayDataset(images, np.arange(count))


@pytest.mark.parametrize("prefetch", [0, 1, 2, 20])
def test_batches_arrive_whole_and_in_order(device: str, prefetch: int) -> None:
    loader = DataLoader(numbered(30), 4, prefetch=prefetch, device=device, shuffle=True)
    order = loader.order(0)
    for number, (images, labels) in enumerate(loader):
        chosen = order[4 * number : 4 * number + 4]
        np.testing.assert_array_equal(labels.numpy(), chosen)
        np.testing.assert_array_equal(images.numpy()[:, 1, 1, 0], chosen)
    assert number == 7


def test_batches_that_are_kept_do_not_change(device: str) -> None:
    kept = list(DataLoader(numbered(100), 2, device=device))
    for number, (images, labels) in enumerate(kept):
        assert labels.numpy().tolist() == [2 * number, 2 * number + 1]
        assert images.numpy()[:, 0, 0, 0].tolist() == [2 * number, 2 * number + 1]


def test_labels_know_their_batch(device: str) -> None:
    loader = DataLoader(numbered(6), 2, device=device)
    assert [labels.origin for _, labels in loader.batches(3, first=1)] == [
        "batch 1 of epoch 3",
        "batch 2 of epoch 3",
    ]


def test_two_loops_at_once_are_independent(device: str) -> None:
    loaders = [DataLoader(numbered(40), 2, device=device) for _ in range(2)]
    for (_, one), (_, other) in zip(*loaders, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_leaving_a_loop_early_does_not_affect_the_next(device: str) -> None:
    loader = DataLoader(numbered(40), 2, device=device)
    for _ in range(5):
        next(iter(loader))
    assert [labels.numpy()[0] for _, labels in loader] == list(range(0, 40, 2))


def test_rows_without_features_are_uploaded(device: str) -> None:
    empty = ArrayDataset(np.zeros((3, 0), np.float32), np.zeros(3, np.int64))
    assert next(iter(DataLoader(empty, 3, device=device)))[0].shape == (3, 0)


def test_strided_images_are_uploaded_correctly(device: str) -> None:
    images = np.arange(96, dtype=np.float32).reshape(2, 4, 4, 3)
    loader = DataLoader(
        ArrayDataset(images, [0, 1]), 2, device=device, augment=lambda x, _: x[:, ::-1, ::2]
    )
    np.testing.assert_array_equal(next(iter(loader))[0].numpy(), images[:, ::-1, ::2])


class TestCounted:
    """CUDA calls, by the counters of an emulated device."""

    @pytest.fixture(autouse=True)
    def emulated(self, device: str) -> None:
        self.cpucuda = pytest.importorskip("cpucuda", reason="only an emulated device counts")
        if device == "cpu":
            pytest.skip("nothing is uploaded to the CPU")
        list(DataLoader(numbered(40), 4, device=device))  # fills the pools

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_a_batch_is_two_copies_and_no_synchronization(self, device: str, prefetch: int) -> None:
        with self.cpucuda.count() as counts:
            for _ in DataLoader(numbered(40), 4, device=device, prefetch=prefetch):
                pass
        assert counts["h2d_copies"] == 20
        assert counts["h2d_bytes"] == 40 * (4 * 4 + 8)
        waits = ("stream_syncs", "device_syncs", "event_syncs", "d2h_copies", "launches")
        assert [counts[name] for name in waits] == [0] * len(waits)

    def test_pinned_memory_is_reused(self, device: str) -> None:
        with self.cpucuda.count() as counts:
            list(DataLoader(numbered(400), 4, device=device))
        assert counts["pinned_allocs"] <= 2

    def test_copies_wait_for_the_kernels_that_may_read_the_memory(
        self, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The copy stream waits for the compute stream, which then waits for the copy."""
        import cupy

        calls: list[tuple[str, int]] = []

        class Event(cupy.cuda.Event):  # type: ignore[misc]
            def record(self, stream: object = None) -> None:
                calls.append(("record", stream.ptr))  # type: ignore[attr-defined]
                super().record(stream)

        class Stream(cupy.cuda.Stream):  # type: ignore[misc]
            def wait_event(self, event: object) -> None:
                calls.append(("wait", self.ptr))
                super().wait_event(event)

        compute = Stream(non_blocking=True)
        monkeypatch.setattr(cupy.cuda, "Event", Event)
        monkeypatch.setattr(cupy.cuda, "Stream", Stream)
        monkeypatch.setattr(get_backend(device).upload_engine, "_stream", None)
        with compute:
            bringing = get_backend(device).uploads()
        images = np.ones(4, np.float32)
        started: list[object] = []
        thread = threading.Thread(target=lambda: started.append(bringing.start(images)))
        thread.start()
        thread.join()
        (arrived,) = bringing.receive(started[0])
        upload = calls[1][1]
        assert upload != compute.ptr
        assert calls == [
            ("record", compute.ptr),
            ("wait", upload),
            ("record", upload),
            ("wait", compute.ptr),
        ]
        np.testing.assert_array_equal(cupy.asnumpy(arrived), images)
