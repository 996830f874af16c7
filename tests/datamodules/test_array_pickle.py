"""Pickles of strangers: arrays come through, nothing is executed."""

import builtins
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.array_pickle import load_arrays

CONTENT = {
    "image_data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "class_dict": OrderedDict(a=[0, np.int64(1)], b=range(2, 4), c=np.arange(2)),
    b"bytes": {"a", "b"},
    "names": np.array(["n01532829", "n03888605"]),
}

# {'image_data': uint8 array [[1, 2]], 'class_dict': {'n1': [0]}} as Python 2 and its numpy wrote
# it with protocol 2: strings of bytes (U), and the modules' names of then.
PYTHON_2 = (
    b"\x80\x02}q\x00(U\nimage_dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray"
    b"\nq\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x01K\x02\x86q\x08cnumpy\ndtype\nq\t"
    b"U\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
    b"\x00tq\x0eb\x89U\x02\x01\xfeq\x0ftq\x10bU\nclass_dictq\x11}q\x12U\x02n1q\x13]q\x14K\x00as"
    b"u."
)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_strings_and_containers_come_through(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "good.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    loaded = load_arrays(path)
    for name in ("image_data", "fortran", "names"):
        np.testing.assert_array_equal(loaded[name], CONTENT[name])
        assert loaded[name].dtype == CONTENT[name].dtype
    assert [list(v) for v in loaded["class_dict"].values()] == [[0, 1], [2, 3], [0, 1]]
    assert loaded[b"bytes"] == {"a", "b"}


def test_what_python_2_wrote_comes_through(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(PYTHON_2)
    loaded = load_arrays(path)
    np.testing.assert_array_equal(loaded["image_data"], np.array([[1, 254]], np.uint8))
    assert loaded["class_dict"] == {"n1": [0]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.mkdir, r"(posix|nt)\.mkdir"),
        (builtins.eval, r"builtins\.eval"),
        (builtins.getattr, r"builtins\.getattr"),
        (np.load, r"numpy\.load"),
        (pickle.loads, r"_?pickle\.loads"),
    ],
)
def test_nothing_is_executed(tmp_path: Path, protocol: int, function: Any, name: str) -> None:
    path, trace = tmp_path / "bad.pkl", tmp_path / "trace"
    content = dict(CONTENT, extra=Calls(function, str(trace)))
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=rf"bad\.pkl is not loaded: .* names the global {name}"):
        load_arrays(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps(CONTENT)[:-20],
        pickle.dumps({"x": np.array([{}], dtype=object)}),
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.",
    ],
    ids=["empty", "text", "cut off", "objects", "calls ndarray", "codec"],
)
def test_anything_else_is_an_error_with_the_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.pkl is not a complete pickle of arrays"):
        load_arrays(path)
