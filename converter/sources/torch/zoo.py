"""Models by name: of torchvision, of timm, and of transformers from a folder or a hub."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converter.errors import SourceError, UnknownModelError
from converter.model import SourceInfo
from converter.sources.digest import sha256_of
from converter.sources.torch import backend
from converter.sources.torch.files import load_weights
from converter.sources.torch.folder import check_folder
from converter.sources.torch.initial import keep_signal, seeded
from converter.sources.torch.signature import signature
from converter.sources.torch.source import TorchSource

__all__ = ["open_timm", "open_torchvision", "open_transformers", "torchvision_names"]

# What the mean and deviation of ImageNet make of an image's values in 0..1.
_IMAGE_RANGE = (-2.1179, 2.64)
_FRAMES, _TOKENS = 16, 16
Builder = Callable[[bool], Any]


def open_torchvision(name: str, *, weights: str, seed: int, dynamic: Sequence[str] = ()) -> TorchSource:
    """A model of `torchvision.models`: classification, segmentation, video.

    Raises:
        SourceError: no such model, or weights that cannot be had or do not fit.
    """
    models = backend.torchvision().models
    key = _named(name, models.list_models(), "torchvision")

    def build(pretrained: bool) -> Any:
        extra = (
            {}
            if pretrained or "weights_backbone" not in _arguments(models, key)
            else {"weights_backbone": None}
        )
        return models.get_model(key, weights="DEFAULT" if pretrained else None, **extra)

    def shape_of(model: Any) -> tuple[int, ...]:
        return _torchvision_shape(models, key, getattr(model, "image_size", None))

    return _open("torchvision", key, build, weights, seed, dynamic, {"shape_of": shape_of})


def _arguments(models: Any, key: str) -> Sequence[str]:
    return list(inspect.signature(models.get_model_builder(key)).parameters)


def torchvision_names(module: str | None = None) -> list[str]:
    """The models of torchvision, or of one of its modules (`segmentation`)."""
    models = backend.torchvision().models
    return list(models.list_models(module=getattr(models, module) if module else None))


def _torchvision_shape(models: Any, key: str, side: int | None) -> tuple[int, ...]:
    """The input that the published weights were trained on; `side` where the model is built for one size."""
    preset = models.get_model_weights(key).DEFAULT.transforms()
    sizes = list(getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None) or [224])
    height, width = (sizes * 2)[:2] if side is None else (side, side)
    if key in models.list_models(module=models.video):
        return (1, 3, _FRAMES, height, width)
    return (1, 3, height, width)


def open_timm(name: str, *, weights: str, seed: int, dynamic: Sequence[str] = ()) -> TorchSource:
    """A model of timm.

    Raises:
        SourceError: timm is missing, no such model, or weights that cannot be had or do not fit.
    """
    timm = backend.timm()
    bare = name.partition(".")[0]
    if not timm.is_model(bare):
        _named(bare, timm.list_models(), "timm")

    def build(pretrained: bool) -> Any:
        return timm.create_model(name, pretrained=pretrained)

    def shape_of(model: Any) -> tuple[int, ...]:
        return (1, *timm.data.resolve_model_data_config(model)["input_size"])

    return _open("timm", name, build, weights, seed, dynamic, {"shape_of": shape_of})


def open_transformers(place: str, *, weights: str, seed: int, dynamic: Sequence[str] = ()) -> TorchSource:
    """A model of transformers, from a folder that `save_pretrained` made or a name on its hub.

    No code that such a folder brings along is run.

    Raises:
        SourceError: transformers is missing, there is no such model, or its weights cannot be had.
    """
    library = backend.transformers()
    name = Path(place).name
    if Path(place).is_dir():
        check_folder(Path(place))
    try:
        config = library.AutoConfig.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        raise SourceError(
            f"transformers finds no model in {place!r}: {_first_line(error)}",
            hint="give the folder that save_pretrained made, or a name on its hub",
        ) from error
    cls = _class_of(library, config)
    for setting in ("use_cache", "output_attentions", "output_hidden_states"):
        if hasattr(config, setting):
            setattr(config, setting, False)

    def build(pretrained: bool) -> Any:
        if pretrained:
            return cls.from_pretrained(place, config=config, trust_remote_code=False)
        return cls.from_config(config) if cls is library.AutoModel else cls(config)

    return _open("transformers", name, build, weights, seed, dynamic, {"config": config}, locator=place)


def _class_of(library: Any, config: Any) -> Any:
    """The class of models that a config names; it may name anything that the package has."""
    named = (config.architectures or [""])[0]
    found = getattr(library, named, None) if isinstance(named, str) else None
    is_model = inspect.isclass(found) and issubclass(found, library.PreTrainedModel)
    return found if is_model else library.AutoModel


def _named(name: str, known: Sequence[str], package: str) -> str:
    folded = {key.casefold(): key for key in known}
    if name.casefold() in folded:
        return folded[name.casefold()]
    near = difflib.get_close_matches(name.casefold(), folded, n=4, cutoff=0.4)
    raise UnknownModelError(
        f"{package} has no model {name!r}",
        hint=f"the nearest names are {', '.join(near)}" if near else None,
    )


def _open(
    kind: str,
    name: str,
    build: Builder,
    weights: str,
    seed: int,
    dynamic: Sequence[str],
    inputs: dict[str, Any],
    locator: str | None = None,
) -> TorchSource:
    label, model = "pretrained", None
    if weights in ("pretrained", "auto"):
        try:
            with backend.quiet():
                model = build(True)
        except Exception as error:  # damaged weights fail in classes of pickle, safetensors and more
            if weights == "pretrained":
                raise SourceError(
                    f"the pretrained weights of {kind}:{name} are neither cached nor to be downloaded: "
                    f"{_first_line(error)}",
                    hint="--weights FILE takes weights from a file, --weights random seeded initial ones; "
                    "--weights auto falls back to initial ones and marks everything UNTRAINED",
                ) from error
    fresh = model is None
    if model is None:
        label = f"random(seed={seed})"
        with seeded(seed):
            model = build(False)
    model.eval()
    if fresh and weights not in ("auto", "random"):
        load_weights(model, Path(weights))
        label, fresh = sha256_of(Path(weights)), False
    example, ranges = _example(model, **inputs)
    called = signature(model, example, dynamic, ranges)
    if fresh:
        keep_signal(model, called, seed)
    info = SourceInfo("torch", name, f"{kind}:{locator or name}", label, not fresh)
    return TorchSource(model, info, called, origin=f"{info.locator} {inputs.get('config')}")


def _example(
    model: Any,
    shape_of: Callable[[Any], tuple[int, ...]] | None = None,
    config: Any = None,
) -> tuple[Any, dict[str, tuple[float, float]]]:
    """An example of the model's inputs, and the ranges of their values."""
    torch = backend.torch()
    if shape_of is not None:
        return torch.zeros(shape_of(model)), {
            next(iter(inspect.signature(model.forward).parameters)): _IMAGE_RANGE
        }
    main = model.main_input_name
    if main == "pixel_values":
        vision = getattr(config, "vision_config", config)
        side = vision.image_size
        sides = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
        return {main: torch.zeros(1, vision.num_channels, *sides)}, {main: _IMAGE_RANGE}
    if main != "input_ids":
        raise SourceError(
            f"{type(model).__name__} takes {main!r}, which is neither text nor images",
            hint="a file.py:factory with --example says what its inputs are",
        )
    text = config.get_text_config()
    tokens = torch.zeros(1, _TOKENS, dtype=torch.int64)
    example = {"input_ids": tokens, "attention_mask": tokens + 1}
    ranges = {"input_ids": (0.0, text.vocab_size - 1.0), "attention_mask": (0.0, 1.0)}
    if config.is_encoder_decoder:
        example["decoder_input_ids"] = tokens
        ranges["decoder_input_ids"] = ranges["input_ids"]
    return example, ranges


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
