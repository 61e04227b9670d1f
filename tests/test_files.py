"""Safetensors files, nested state as JSON, and atomic writes."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.numpy import load
from safetensors.numpy import save as reference

from tinynn.errors import ArgumentError, FileFormatError
from tinynn.files import (
    entries_to_json,
    from_bytes,
    read_metadata,
    read_only,
    safetensors_content,
    to_json,
    write_atomically,
)

DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "float16",
    "int32",
    "uint32",
    "float32",
    "int64",
    "uint64",
    "float64",
]
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.dictionaries(
    st.text(max_size=4).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES)),
    max_size=6,
)


class TestSafetensors:
    @given(ARRAYS)
    def test_the_data_is_where_the_safetensors_package_puts_it(
        self, arrays: dict[str, np.ndarray]
    ) -> None:
        content = b"".join(safetensors_content(arrays, {"key": "värde"}))
        own, expected = (
            c[8 + int.from_bytes(c[:8], "little") :] for c in (content, reference(arrays))
        )
        assert own == expected
        loaded = load(content)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)
            assert loaded[name].dtype == array.dtype
        metadata, again = from_bytes(content, "file")
        assert metadata == {"key": "värde"}
        assert again.keys() == arrays.keys()

    def test_arrays_that_are_not_contiguous(self) -> None:
        array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-3]
        _, arrays = from_bytes(b"".join(safetensors_content({"a": array}, {})), "file")
        np.testing.assert_array_equal(arrays["a"], array)

    def test_a_dtype_that_safetensors_does_not_have(self) -> None:
        with pytest.raises(ArgumentError, match="cannot store a: its dtype is complex128"):
            list(safetensors_content({"a": np.zeros(2, dtype=complex)}, {}))

    def test_the_content_is_not_copied(self) -> None:
        arrays = {"a": np.ones(3_000_000, dtype=np.float32)}
        tracemalloc.start()
        try:
            assert sum(map(len, safetensors_content(arrays, {}))) > 12_000_000
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_metadata_without_the_arrays(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomically(path, safetensors_content({"a": np.ones(100)}, {"key": "value"}))
        assert read_metadata(path) == {"key": "value"}
        content = bytearray(path.read_bytes())
        path.write_bytes(content.replace(b'"value"', b'"other"'))
        with pytest.raises(FileFormatError, match="header does not match its checksum"):
            read_metadata(path)
        for cut in (b"", content[:5], content[:40], content[:-1]):
            path.write_bytes(cut)
            with pytest.raises(FileFormatError, match="not an intact safetensors file"):
                read_metadata(path)


class TestReadOnly:
    def test_a_copy_that_cannot_change(self) -> None:
        array = np.ones((2, 3)).T
        copied = read_only(array)
        array[...] = 0
        assert copied.sum() == 6
        with pytest.raises(ValueError, match="read-only"):
            copied[...] = 0

    def test_no_second_copy(self) -> None:
        copied = read_only(np.ones(3))
        assert read_only(copied) is copied

    def test_a_read_only_view_is_copied(self) -> None:
        array = np.ones(3)
        view = array[:]
        view.flags.writeable = False
        assert not np.shares_memory(read_only(view), array)


class TestNestedState:
    VALUES = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )

    @given(VALUES)
    def test_json_comes_back(self, value: Any) -> None:
        def encode(value: Any, path: str) -> Any:
            return entries_to_json(value, encode, path)

        assert json.loads(json.dumps(to_json(value, encode))) == value

    def test_paths(self) -> None:
        paths = []

        def encode(value: Any, path: str) -> Any:
            if isinstance(value, dict):
                return entries_to_json(value, encode, path)
            paths.append(path)
            return None

        to_json({"a": [1, {"b": 2j}, 3j]}, encode)
        assert paths == ["a.1.b", "a.2"]


class TestAtomicWrites:
    def test_bytes_or_pieces(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "a", b"12")
        write_atomically(tmp_path / "b", iter([b"1", memoryview(b"2")]))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"12"

    def test_content_that_fails_leaves_the_old_file(self, tmp_path: Path) -> None:
        def fails() -> Any:
            yield b"new"
            raise OSError("disk full")

        write_atomically(tmp_path / "a", b"old")
        with pytest.raises(OSError, match="disk full"):
            write_atomically(tmp_path / "a", fails())
        assert (tmp_path / "a").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
