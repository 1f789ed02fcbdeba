"""Files of PyTorch: weights, and Python files with a function that makes a model."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.model import SourceInfo
from converter.sources.digest import sha256_of, user_code
from converter.sources.functions import function_of
from converter.sources.torch import backend
from converter.sources.torch.exported import from_program
from converter.sources.torch.initial import keep_signal, seeded
from converter.sources.torch.signature import parse_examples, signature
from converter.sources.torch.source import TorchSource

__all__ = ["load_weights", "open_factory", "open_live", "open_pickle"]

_LONGEST_HEADER = 100 << 20  # as the package safetensors has it


def load_weights(model: Any, path: Path) -> None:
    """Load a state_dict from `.pth`, `.pt`, `.bin` or `.safetensors` into a model, each name and shape alike.

    Raises:
        SourceError: the file cannot be read, holds something else, or does not fit.
    """
    state = _read_state(path)
    wanted = model.state_dict()
    problems = [f"no {name}" for name in wanted if name not in state]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise SourceError(
            f"the weights in {path} do not fit {type(model).__name__}: {', '.join(problems[:4])}{more}"
        )
    model.load_state_dict(state)


def _read_state(path: Path) -> dict[str, Any]:
    torch = backend.torch()
    if not path.is_file():
        raise SourceError(
            f"no weights file {str(path)!r}", hint="expected pretrained, auto, random, or a file"
        )
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise SourceError(
                f"{path} needs the package safetensors", hint="pip install safetensors"
            ) from error
        try:
            _refuse_twice(path)
            return dict(load_file(path))
        except Exception as error:
            raise SourceError(f"{path} is not a readable .safetensors file: {error}") from error
    loaded = _load(path)
    for key in ("state_dict", "model"):  # checkpoints of training loops
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise SourceError(
            f"{path} holds {_told(loaded)}, expected a state_dict: tensors by name",
            hint="torch.save(model.state_dict(), …) writes one",
        )
    return dict(loaded)


def _told(loaded: Any) -> str:
    """What a file holds that is no state_dict."""
    if not isinstance(loaded, Mapping):
        return f"an object of {type(loaded).__name__}"
    tensor = backend.torch().Tensor
    key, value = next((k, v) for k, v in loaded.items() if not isinstance(v, tensor))
    return f"a {type(loaded).__name__} in which {str(key)[:60]!r} is of {type(value).__name__}"


def _load(path: Path, *, trust: bool = False) -> Any:
    if not path.is_file():
        raise SourceError(f"no file {str(path)!r}")
    with path.open("rb") as file:
        start = file.read(2)
    if start[:2] != b"PK" and start[:1] != b"\x80":  # a zip archive; before PyTorch 1.6, a bare pickle
        raise SourceError(f"{path} is not a readable file of PyTorch: neither an archive nor a pickle")
    try:
        _refuse_compressed(path)
        return backend.torch().load(path, map_location="cpu", weights_only=not trust)
    except SourceError:
        raise
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} holds more than tensors: loading it would run code from the file",
            hint="--trust loads it all the same; only do so with a file from somebody you trust",
        ) from error
    except Exception as error:  # a damaged pickle fails in whichever class its opcodes lead to
        raise SourceError(
            f"{path} is not a readable file of PyTorch: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _refuse_twice(path: Path) -> None:
    """Of two tensors of one name each reader takes another; the package takes the last.

    Raises:
        ValueError: there are two, or the header is none.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        if len(set(names)) < len(names):
            raise ValueError(f"it has two entries called {max(names, key=names.count)!r}")
        return dict(found)

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, _LONGEST_HEADER):
            raise ValueError(f"it declares a header of {length:,} bytes")
        json.loads(file.read(length), object_pairs_hook=pairs)


def _refuse_compressed(path: Path) -> None:
    """PyTorch stores its archives uncompressed; one that is compressed can become any number of bytes."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not archive.namelist():
            raise SourceError(f"{path} is not a readable file of PyTorch: an archive with nothing in it")
        declared, size = sum(info.file_size for info in archive.infolist()), path.stat().st_size
    if declared > size:
        raise SourceError(
            f"{path} declares {declared:,} bytes but is {size:,} bytes long: PyTorch does not compress"
        )


def open_pickle(path: Path, *, example: Any, dynamic: Sequence[str], trust: bool) -> TorchSource:
    """A whole module that `torch.save` pickled; refused without trust.

    Raises:
        SourceError: it is not trusted, or no module but weights alone.
    """
    loaded = _load(path, trust=trust)
    if not isinstance(loaded, backend.torch().nn.Module):
        raise SourceError(
            f"{path} holds weights without the model that they belong to",
            hint=f"name the model, and give it the file: converter convert torchvision:NAME --weights {path} "
            f"(or timm:NAME, or file.py:factory)",
        )
    info = SourceInfo("torch", path.stem, str(path), sha256_of(path), True)
    called = signature(loaded, _given(example, loaded), dynamic)
    return TorchSource(loaded, info, called, origin=f"{info.weights} {user_code()}")


def open_factory(place: str, *, weights: str, seed: int, example: Any, dynamic: Sequence[str]) -> TorchSource:
    """What a function of a Python file makes: `file.py:factory`. The file is run: it is the user's own.

    Raises:
        SourceError: no such function, it returns no module, or the weights do not fit.
    """
    name = place.rpartition(":")[2]
    with seeded(seed):
        model = function_of(place)()
    if not isinstance(model, backend.torch().nn.Module):
        raise SourceError(f"{place} returns a {type(model).__name__}, expected a torch.nn.Module")
    label, trained = "factory", True
    if weights not in ("pretrained", "auto", "random"):
        load_weights(model, Path(weights))
        label = sha256_of(Path(weights))
    called = signature(model, _given(example, model), dynamic)
    if weights == "random":
        keep_signal(model, called, seed)
        label, trained = f"random(seed={seed})", False
    info = SourceInfo("torch", name, place, label, trained)
    return TorchSource(model, info, called, origin=f"{name} seed={seed} {user_code()}")


def _given(example: Any, model: Any) -> Any:
    if example is None or (isinstance(example, (list, tuple)) and not example):
        raise SourceError(
            f"the inputs of {type(model).__name__} are not known",
            hint="--example 1x3x224x224 says so, or --example ids=1x16:int64, or --example file.npz "
            "(in Python example=tensor, a tuple, or a dict of tensors)",
        )
    if isinstance(example, (list, tuple)) and all(isinstance(text, str) for text in example):
        return parse_examples(example)
    return example


def open_live(model: Any, *, example: Any, dynamic: Sequence[str]) -> TorchSource:
    """A live `nn.Module` or `ExportedProgram`, with whatever weights it has.

    Raises:
        SourceError: it is compiled, or no example of its inputs was given.
    """
    if isinstance(model, backend.torch().jit.ScriptModule):
        raise SourceError(
            "a TorchScript module has no Python code to follow", hint="give the module it was made of"
        )
    name = type(model).__name__
    info = SourceInfo("torch", name, f"live:{name}", "live", True)
    if isinstance(model, backend.torch().export.ExportedProgram):
        if example is not None or dynamic:
            raise SourceError("a program knows its inputs: neither example nor dynamic apply")
        return from_program(model, info)
    return TorchSource(model, info, signature(model, _given(example, model), dynamic))
