"""The command line: arguments to the pipeline, errors to exit codes. The only place that prints."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from converter import __version__
from converter.errors import ConverterError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="converter",
    help="Cut a pretrained model at a layer named as its author named it, prove numerically that the "
    "piece computes what the original computes there, and hand it on as ONNX or as a native model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="keras:NAME, torchvision:NAME, timm:NAME, transformers:FOLDER, a bare NAME (the first of these "
        "that has it), FILE.onnx, FILE.keras, FILE.h5, FILE.py:FACTORY, FILE.pth, FILE.pt2",
        show_default=False,
    ),
]
WeightsOption = Annotated[
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
WholeOption = Annotated[
    bool,
    typer.Option("--cache-whole", help="Export the whole model, so that later cuts anywhere are quick."),
]


def _version(value: bool) -> None:
    if value:
        print(f"converter {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def convert(
    source: SourceArgument,
    to: Annotated[
        list[str] | None, typer.Option(help="Keep the trunk up to this layer (repeatable, globs).")
    ] = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", help="Keep the head after this layer; with --to, the segment between."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Write both trunk and head of a cut at this layer.")
    ] = None,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="With --from: accept whatever else crosses as inputs.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(
            help="Put new layers onto --to: flatten,dense(128,relu),dense(5,softmax). Words: flatten, gap, "
            "gmp, dense(units[,activation]), conv1x1(channels[,activation]), dropout(rate), batchnorm, relu, "
            "gelu, sigmoid, tanh, softmax. Or a FILE: .onnx, .keras, file.py:FACTORY.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            help="Put other layers in a layer's place: predictions=dense(5,softmax) (repeatable).",
            show_default=False,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave layers out and join the ends: names, globs, ranges such as encoder.layers.7..9 "
            "(repeatable).",
            show_default=False,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Take layers or weights out of training in native artifacts: names, globs, first:N "
            "(repeatable).",
            show_default=False,
        ),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="Train these all the same; without --freeze all others are frozen (repeatable).",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        str, typer.Option(help="Where the channels are of what new layers take: auto, first or last.")
    ] = "auto",
    surgery: Annotated[
        str | None,
        typer.Option(
            help="Your own rewrite of the piece: file.py:FUNCTION of an onnx_graphsurgeon.Graph; the result "
            "is checked by shape.",
            show_default=False,
        ),
    ] = None,
    surgery_preserves: Annotated[
        bool, typer.Option("--surgery-preserves", help="The rewrite claims to preserve values: prove it.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to [default: build/MODEL-CUT].", show_default=False),
    ] = None,
    targets: Annotated[
        str,
        typer.Option(
            help="Artifacts to write, by commas: onnx; of Keras sources keras; of PyTorch sources "
            "pt2, state_dict, safetensors."
        ),
    ] = "onnx",
    weights: WeightsOption = "pretrained",
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="Where to validate: auto, cpu or cuda.")] = "auto",
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX opset of the files [default: 18; of an ONNX file, its own].", show_default=False
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Validate on these inputs: .npz with an array an input.", show_default=False),
    ] = None,
    external_data: Annotated[
        str,
        typer.Option(help="Weights of .onnx files in a file beside: auto (above 1.5 GB), always or never."),
    ] = "auto",
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Refer to the external data of an ONNX source; --output must be its folder or one above.",
        ),
    ] = False,
    custom_ops: CustomOpsOption = None,
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Write without proof, marked UNVALIDATED.")
    ] = False,
    trust: TrustOption = False,
    custom_objects: CustomOption = None,
    example: ExampleOption = None,
    dynamic: DynamicOption = None,
    no_cache: NoCacheOption = False,
    cache_whole: WholeOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report and nothing else.")] = False,
) -> None:
    """Cut a model at named layers, prove the piece, write it.

    Without a cut the whole model is converted. With --head, --replace or --drop the model is changed first.

    Exit codes: 2 usage, 3 source, 4 cut, 5 validation, 6 target.
    """
    from converter.editing import Changes
    from converter.pipeline import Request
    from converter.pipeline import convert as run
    from converter.report import Terminal, Timings
    from converter.sources import Opening, resolve
    from converter.sources.functions import function_of

    terminal = Terminal(Console(stderr=as_json, quiet=as_json))
    timings = Timings()
    axes = tuple(dynamic or ())
    libraries = tuple(custom_ops or ())
    how = Opening(weights, seed, trust, custom_objects, example, axes, not no_cache, cache_whole, libraries)
    try:
        ends = tuple(to or ())
        changes = Changes(
            to=ends if head else (),
            head=head,
            replace=Changes.replacements(replace or []),
            drop=tuple(drop or ()),
            freeze=tuple(freeze or ()),
            train=tuple(train or ()),
            channels=channels,
        )
        request = Request(
            to=() if head else ends,
            from_=tuple(from_ or ()),
            split=tuple(split or ()),
            frontier=frontier,
            targets=tuple(part.strip() for part in targets.split(",") if part.strip()),
            opset=opset,
            device=device,
            samples=samples,
            seed=seed,
            validate=not no_validate,
            trust=trust,
            external_data=external_data,
            link=link,
            custom_ops=libraries,
            changes=changes,
            surgery=None if surgery is None else function_of(surgery),
            surgery_preserves=surgery_preserves,
        )
        with timings.stage("open"):
            terminal.stage("open", source)
            model = resolve(source, how)
            terminal.stage("source", f"{model.info.locator}, weights {model.info.weights}")
        folder = output or Path("build") / _folder_name(model.info.name, request)
        document = run(model, request, folder, terminal.stage, timings)
        terminal.report(document, str(folder))
    except ConverterError as error:
        report = getattr(error, "report", None)
        if report is not None:
            terminal.comparisons(report)
            if as_json:
                print(report.as_json(), end="")
        _fail(error)
    if as_json:
        print(document.as_json(), end="")


@app.command()
def layers(
    source: SourceArgument,
    weights: WeightsOption = "auto",
    seed: SeedOption = 0,
    trust: TrustOption = False,
    custom_objects: CustomOption = None,
    example: ExampleOption = None,
    dynamic: DynamicOption = None,
    no_cache: NoCacheOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List every layer: kind, output, parameters, and where a cut is legal.

    A trunk can end at any layer. A head that needs nothing but one layer's output can start where the
    last column says yes; elsewhere more tensors cross, which --frontier or --split take along.
    """
    from converter.pipeline import whole
    from converter.report import layer_table, layers_as_json
    from converter.sources import Opening, resolve
    from converter.surgery import legal_cuts

    how = Opening(weights, seed, trust, custom_objects, example, tuple(dynamic or ()), not no_cache)
    try:
        model = resolve(source, how)
        legal = legal_cuts(whole(model), model.outputs)
        if as_json:
            print(json.dumps(layers_as_json(model.layers, legal), indent=2, ensure_ascii=False))
        else:
            layer_table(Console(), model.layers, legal)
    except ConverterError as error:
        _fail(error)


@app.command()
def plan(
    source: SourceArgument,
    weights: WeightsOption = "auto",
    seed: SeedOption = 0,
    trust: TrustOption = False,
    custom_objects: CustomOption = None,
    example: ExampleOption = None,
    dynamic: DynamicOption = None,
    no_cache: NoCacheOption = False,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Sizes of an input to reckon with: NAME=1x3x224x224 (repeatable).", show_default=False
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Only cuts where one layer's tensor is all that crosses.")
    ] = False,
    device_macs: Annotated[
        float | None,
        typer.Option(
            help="Rank cuts for two machines: MACs a second where the trunk runs.", show_default=False
        ),
    ] = None,
    server_macs: Annotated[
        float | None, typer.Option(help="MACs a second where the head runs.", show_default=False)
    ] = None,
    link_mbps: Annotated[
        float | None, typer.Option(help="Megabits a second between the two.", show_default=False)
    ] = None,
    link_ms: Annotated[float, typer.Option(help="Milliseconds that any transfer takes besides.")] = 0.0,
    max_params: Annotated[
        int | None, typer.Option(help="Only trunks of at most so many parameters.", show_default=False)
    ] = None,
    max_macs: Annotated[
        float | None, typer.Option(help="Only trunks of at most so many MACs.", show_default=False)
    ] = None,
    feature_dim: Annotated[
        int | None,
        typer.Option(help="Only single tensors of so many elements a sample.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw depth against bytes and MACs: .svg, .png.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Say where a model may be cut, and what each cut costs on either side.

    Every cut in order of depth: what crosses for one sample; parameters, multiply-accumulate operations and
    the peak of activations of trunk and head. With --device-macs, --server-macs and --link-mbps, the quickest
    for two machines first.
    """
    from converter.pipeline import whole
    from converter.planning import Link, by_latency, fitting
    from converter.planning import plan as reckon
    from converter.report import plan_as_json, plan_table, plot_plan
    from converter.sources import Opening, resolve

    how = Opening(weights, seed, trust, custom_objects, example, tuple(dynamic or ()), not no_cache)
    rates = (device_macs, server_macs, link_mbps)
    try:
        if None in rates and any(rate is not None for rate in rates):
            raise UsageError("--device-macs, --server-macs and --link-mbps go together")
        limits = (*rates, max_macs)
        if any(limit is not None and not (0 < limit < math.inf) for limit in limits):
            raise UsageError("rates and limits are numbers above 0")
        model = resolve(source, how)
        made = reckon(whole(model), _sizes(shape or []), every=not single)
        cuts = fitting(
            made.cuts,
            max_params=max_params,
            max_macs=None if max_macs is None else int(max_macs),
            feature_dim=feature_dim,
        )
        rows: list[tuple[Any, float | None]] = [(cut, None) for cut in cuts]
        if device_macs and server_macs and link_mbps:
            rows = list(by_latency(cuts, Link(device_macs, server_macs, link_mbps, link_ms / 1e3)))
        if plot is not None:
            plot_plan(plot, model.info.locator, cuts)
        if as_json:
            print(json.dumps(plan_as_json(made, rows), indent=2, ensure_ascii=False))
        else:
            plan_table(Console(), made, rows)
    except ConverterError as error:
        _fail(error)


def _sizes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    sizes = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9][0-9]{0,9}(x[1-9][0-9]{0,9})*", numbers):
            raise UsageError(f"shape {text!r}: expected NAME=1x3x224x224")
        sizes[name] = tuple(map(int, numbers.split("x")))
    return sizes


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
) -> None:
    """Show the exports that are kept for later runs, or remove them.

    CONVERTER_CACHE_DIR says where they are, CONVERTER_CACHE_MB how large they may grow together; what was
    used longest ago goes first. No weights are kept.
    """
    from converter.report import cache_table
    from converter.sources.cache import Store

    store = Store()
    if clear:
        print(f"removed {store.clear()} exports from {store.folder}")
        return
    cache_table(Console(), store.folder, store.limit, [(e.path, e.header) for e in store.entries()])


def _folder_name(name: str, request: Any) -> str:
    changes = request.changes
    parts = [getattr(request, key) for key in ("from_", "to", "split")]
    parts += [
        changes.to,
        ("head",) if changes.head else (),
        changes.replace,
        [f"no-{d}" for d in changes.drop],
    ]
    cut = "-".join(part for names in parts for part in names)
    text = f"{name}-{cut}" if cut else name
    return "".join(c if c.isalnum() or c in "._-@" else "_" for c in text)[:100]


def _fail(error: ConverterError) -> NoReturn:
    console = Console(stderr=True)
    console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(error.exit_code)


def main() -> None:
    """Entry point of the console script."""
    app()
