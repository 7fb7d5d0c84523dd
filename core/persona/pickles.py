"""Reading a foreign pickle as data: what it names is built as plain attributes, and only if it is on a short list.

A pickle is a program that calls whatever it names. Here a name is never imported. It is looked up in a table of a few
classes and functions, all ours, that rebuild NumPy arrays, torch tensors, scikit-learn's PCA and the two scalers of the
published persona assets; any other name is refused. Neither scikit-learn nor torch is needed, and none of it runs.

    plain pickle                     protocol 2 to 5
    torch.save's archive (zip)       <name>/data.pkl, and the numbers of its tensors in <name>/data/<key>

Only `convert` reads pickles, on a person's request.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from core.errors import InvalidRequest

Array = np.ndarray[Any, Any]
_Storage = tuple[str, bytes]

_TORCH_DTYPES: Final = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # widened when read
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
_KINDS: Final = frozenset("fiub")


class Bag:
    """A foreign object: its class's name and its attributes."""

    kind: ClassVar[str]
    attributes: dict[str, Any]

    def __new__(cls) -> Self:
        """Pickles fill an object that was never initialised."""
        bag = super().__new__(cls)
        bag.attributes = {}
        return bag

    def __setstate__(self, state: Any) -> None:
        """Takes the attributes."""
        if not isinstance(state, dict):
            raise _refused(f"{self.kind} with a state that is no table of attributes")
        self.attributes = {str(name): value for name, value in state.items()}

    def array(self, name: str) -> Array:
        """An attribute that is an array of numbers.

        Raises:
            InvalidRequest: It is missing or something else.
        """
        value = self.attributes.get(name)
        if isinstance(value, NumpyArray):
            value = value.value
        if not isinstance(value, np.ndarray):
            raise InvalidRequest(f"The pickle's {self.kind} has no array '{name}'.")
        return value


class Pca(Bag):
    """scikit-learn's PCA."""

    kind = "PCA"


class MeanScaler(Bag):
    """A scaler that subtracts a mean."""

    kind = "MeanScaler"


class L2MeanScaler(Bag):
    """A scaler that subtracts a mean and scales to length 1."""

    kind = "L2MeanScaler"


class NumpyArray:
    """An array that is being read."""

    def __init__(self) -> None:
        self.value: Array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        """Takes shape, dtype, order and numbers."""
        _, shape, dtype, fortran, data = state
        self.value = _shaped(data, dtype, shape, "F" if fortran else "C")


class NumpyDtype:
    """A number format that is being read."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code = code
        self._order = "<"

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order."""
        self._order = state[1] if state[1] in "<>" else "<"

    @property
    def value(self) -> np.dtype[Any]:
        """The format; only numbers are known."""
        dtype = np.dtype(f"{self._order}{self._code}")
        if dtype.kind not in _KINDS:
            raise _refused(f"an array of {dtype}")
        return dtype


def read_pickle(path: Path) -> Any:
    """Reads a file: a pickle, or what `torch.save` wrote.

    Returns:
        Numbers, text, lists, tables, arrays, `NumpyArray` and `Bag`s.

    Raises:
        InvalidRequest: The file is neither, or names something that is not on the list.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        return _Reader(io.BytesIO(path.read_bytes()), None).load()
    except (InvalidRequest, MemoryError):
        raise
    except Exception as error:  # a broken pickle may raise anything
        raise InvalidRequest(f"{path.name} can not be read: {type(error).__name__}: {error}") from error


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        programs = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(programs) != 1:
            raise InvalidRequest(f"{path.name} is an archive without data.pkl.", "Expected what torch.save writes.")
        folder = programs[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise InvalidRequest(f"{path.name} was written on a big-endian machine.")
        return _Reader(io.BytesIO(archive.read(programs[0])), lambda key: archive.read(f"{folder}data/{key}")).load()


class _Reader(pickle.Unpickler):
    """Resolves names by table."""

    def __init__(self, file: io.BytesIO, storage: Callable[[str], bytes] | None) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The stand-in for a name."""
        if module_name == "torch" and global_name in _TORCH_DTYPES:
            return global_name
        found = _KNOWN.get((module_name.replace("numpy._core.", "numpy.core."), global_name))
        if found is None:
            raise _refused(f"{module_name}.{global_name}")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """The numbers of a tensor."""
        if self._storage is None:
            raise _refused("an object outside of the file")
        kind, dtype, key, *_ = pid
        if kind != "storage" or not str(key).isdigit():
            raise _refused(f"a {kind} outside of the pickle")
        return str(dtype), self._storage(str(key))


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"The pickle asks for {what}, which a persona asset does not need.",
        "Only NumPy arrays, torch tensors, scikit-learn's PCA, MeanScaler and L2MeanScaler are read.",
    )


def _shaped(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, bytes | bytearray):
        raise _refused("an array of objects")
    return np.frombuffer(data, dtype=dtype.value).reshape(shape, order=order).copy()


def _new_array(*_: Any) -> NumpyArray:
    return NumpyArray()


def _array_of_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray()
    array.value = _shaped(bytes(data), dtype, shape, order)
    return array


def _number(dtype: Any, data: Any) -> Any:
    return _shaped(data, dtype, (), "C").item()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _refused(f"text in {encoding}")
    return text.encode("latin1")


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Array:
    name, raw = storage
    numbers = np.frombuffer(raw, dtype=_TORCH_DTYPES[name])
    if name == "BFloat16Storage":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    if math.prod(shape) == 0:
        return np.zeros(shape, numbers.dtype)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if min((offset, *stride), default=0) < 0 or last >= len(numbers):
        raise _refused("a tensor that is larger than its numbers")
    steps = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps).copy()


def _parameter(tensor: Array, *_: Any) -> Array:
    return tensor


_KNOWN: Final[dict[tuple[str, str], Any]] = {
    ("sklearn.decomposition._pca", "PCA"): Pca,
    ("__main__", "MeanScaler"): MeanScaler,
    ("__main__", "L2MeanScaler"): L2MeanScaler,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): NumpyDtype,
    ("_codecs", "encode"): _latin1,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
