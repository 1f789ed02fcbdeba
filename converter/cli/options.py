"""Arguments and options that several commands take."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from converter.cli.program import fail
from converter.errors import UsageError
from converter.supervision import limits, temporary

__all__ = [
    "CustomOpsOption",
    "CustomOption",
    "DynamicOption",
    "ExampleOption",
    "NoCacheOption",
    "SeedOption",
    "SourceArgument",
    "TargetsOption",
    "TrustOption",
    "limited",
    "opening",
    "parted",
]

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="keras:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, a bare NAME (the first of these "
        "that has it), FILE.onnx, FILE.keras, FILE.h5, FILE.py:FACTORY, FILE.pth, FILE.pt2",
        show_default=False,
    ),
]
_WeightsOption = Annotated[
    str,
    typer.Option(
        help="pretrained; auto (pretrained, else random, marked UNTRAINED); random; or a weights file. "
        "A model file's own weights count as pretrained."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of random weights and of random samples.", min=0)]
ExampleOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Inputs of a PyTorch model: 1x3x224x224, ids=1x16:int64 (repeatable), or FILE.npz.",
        show_default=False,
    ),
]
DynamicOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Axes of a PyTorch model's inputs to leave symbolic besides the batch: image, sequence, or "
        "INPUT:AXIS=NAME (repeatable).",
        show_default=False,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Let the file run its author's code (Lambda, custom classes, pickles)."),
]
CustomOption = Annotated[
    Path | None,
    typer.Option(help="Python file with the model file's custom classes; needs --trust.", show_default=False),
]
CustomOpsOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Library of operators for ONNX Runtime to load (repeatable); it runs its code.",
        show_default=False,
    ),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Export anew, and keep nothing for later runs.")
]
_WholeOption = Annotated[
    bool,
    typer.Option("--cache-whole", help="Export the whole model, so that later cuts anywhere are quick."),
]
TargetsOption = Annotated[
    str,
    typer.Option(
        help="Artifacts to write, by commas: onnx, ort, openvino, tensorrt; keras, h5, savedmodel, "
        "checkpoint, tflite, tflite-fp16, tflite-int8; torch, pt2, state_dict, safetensors, coreml."
    ),
]


def parted(text: str) -> tuple[str, ...]:
    """The words of a list by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


# What `limited` gives to a command.
_LIMITS: dict[str, Any] = {
    "memory_limit": Annotated[
        str | None,
        typer.Option(
            help="End the run when it takes more memory: 8GB, 800MB, 1.5GiB (default: what this machine has "
            "left).",
            show_default=False,
        ),
    ],
    "timeout": Annotated[
        str | None,
        typer.Option(help="End the run when it takes longer: 90 (seconds), 10m, 2h.", show_default=False),
    ],
}


def limited(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that opens a source the options --memory-limit and --timeout."""

    @functools.wraps(command)
    def run(*, memory_limit: str | None, timeout: str | None, **others: Any) -> None:
        try:
            limits.keep(memory_limit, timeout)
            temporary.claim()
        except UsageError as error:
            fail(error)
        command(**others)

    added = [_option(name, annotation, None) for name, annotation in _LIMITS.items()]
    return _declared(run, [*inspect.signature(command, eval_str=True).parameters.values(), *added])


def opening(
    weights: str = "pretrained", *, custom_ops: bool = True, whole: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that say how to open a source, in the place of its parameter `how`.

    The command gets a `converter.sources.Opening`.

    Args:
        weights: the default of --weights.
        custom_ops: whether it runs anything, and takes --custom-ops.
        whole: whether it takes --cache-whole.
    """
    options = [
        _option("weights", _WeightsOption, weights),
        _option("seed", SeedOption, 0),
        _option("trust", TrustOption, False),
        _option("custom_objects", CustomOption, None),
        *([_option("custom_ops", CustomOpsOption, None)] if custom_ops else []),
        _option("example", ExampleOption, None),
        _option("dynamic", DynamicOption, None),
        _option("no_cache", NoCacheOption, False),
        *([_option("cache_whole", _WholeOption, False)] if whole else []),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            from converter.sources import Opening

            own: dict[str, Any] = {option.name: given.pop(option.name) for option in options}
            own |= {name: tuple(own.get(name) or ()) for name in ("dynamic", "custom_ops")}
            command(how=Opening(cache=not own.pop("no_cache"), **own), **given)

        before = inspect.signature(command, eval_str=True).parameters.values()
        return _declared(run, [p for old in before for p in (options if old.name == "how" else [old])])

    return decorate


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _declared(run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """A command whose options are these: typer reads them off its signature.

    Its help is in paragraphs without line breaks, which typer would keep, however wide the terminal is.
    """
    run.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(run.__doc__ or ""))
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    run.__annotations__ = {p.name: p.annotation for p in named} | {"return": None}
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return run
