"""Pickles of arrays, strings and containers, and of nothing else.

Data sets travel as pickle files of unknown authors, and an ordinary unpickler calls whatever
such a file names. This one replaces the few functions that rebuild an array by its own, and
refuses every other name before anything of it is imported.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle names something that is no array, string or container."""


def load_arrays(path: Path) -> Any:
    """The content of a pickle file, also one that Python 2 wrote.

    Raises:
        ValueError: naming the file, and the global it names if that is a forbidden one.
    """
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except ForbiddenGlobalError as error:
        raise ValueError(
            f"{path} is not loaded: it may hold arrays, strings and containers only, {error}."
        ) from error
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(f"{path} is not a complete pickle of arrays: {error!r}.") from error


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Our stand-in for a known name (numpy 1 and 2, Python 2 and 3 differ in the module)."""
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise ForbiddenGlobalError(f"but names the global {module}.{name}") from None


def _array(subtype: object, shape: object, dtype: object) -> np.ndarray:
    """An empty array; its state, which follows in the pickle, says all."""
    return np.empty(0, np.uint8)


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    dtype = np.dtype(code)
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not read")
    return dtype


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    scalar: np.generic = np.frombuffer(data, dtype)[0]
    return scalar


def _from_buffer(data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocols 0 to 2 spell them."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): "numpy.ndarray",  # an argument of _reconstruct, never to be called
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "range"): range,
    ("builtins", "xrange"): range,
    ("builtins", "bytearray"): bytearray,
}
