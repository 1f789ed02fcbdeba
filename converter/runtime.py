"""ONNX Runtime: the judge of what is written, the framework of ONNX files. No other module imports it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.cuda import settings
from converter.errors import UsageError, ValidationError
from converter.placement import Assigned, Placement

__all__ = [
    "PROVIDERS",
    "KernelRun",
    "ProfiledSession",
    "Session",
    "loads",
    "onnxruntime",
    "save_graph",
    "save_ort",
    "version",
]

# Types that neither go into a session from NumPy nor come out as what they are.
_NO_ARRAYS = frozenset(
    f"tensor({name})"
    for name in "bfloat16 float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz float8e8m0 float4e2m1".split()
) | {"tensor(int4)", "tensor(uint4)", "tensor(int2)", "tensor(uint2)"}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def onnxruntime() -> Any:
    """The package.

    Raises:
        ValidationError: it does not import.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ValidationError(
            f"validation needs ONNX Runtime, which does not import: {error}",
            hint="install exactly one of: pip install 'converter[cpu]' (onnxruntime), "
            "or 'converter[gpu]' (onnxruntime-gpu) on a machine with an NVIDIA GPU",
        ) from error


def version() -> str:
    """ONNX Runtime's version."""
    return str(onnxruntime().__version__)


def loads(model: bytes, provider: str, *, alone: bool = False) -> bool:
    """Whether a serialised model loads on a provider: there is a kernel for each operator and dtype.

    Args:
        model: the model.
        provider: the execution provider.
        alone: the CPU's kernels do not count, which stand in for another provider's missing ones.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if alone and provider != PROVIDERS["cpu"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        runtime.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception:  # ONNX Runtime has a class of exceptions for each of its status codes
        return False
    return True


def save_graph(
    model: Path | bytes, scratch: Path, *, folder: Path | None = None, custom_ops: Sequence[Path] = ()
) -> Path:
    """Save what ONNX Runtime makes of a model before it gives nodes to providers, without its weights.

    Args:
        model, folder, custom_ops: as of `Session`.
        scratch: an empty folder.

    Returns:
        An ONNX file with the types of its values; weights over 1 KB are missing.

    Raises:
        ValidationError: the model does not load.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    found = _saves_graph(options, scratch)
    content = str(model) if isinstance(model, Path) else model
    try:
        for library in custom_ops:
            options.register_custom_ops_library(str(library.resolve()))
        runtime.InferenceSession(content, options, providers=[PROVIDERS["cpu"]])
    except Exception as error:
        raise ValidationError(f"ONNX Runtime cannot save the graph: {error}") from error
    return found


def _saves_graph(options: Any, scratch: Path) -> Path:
    """Let a session save its optimised graph; where to."""
    path = scratch / "optimized.onnx"
    options.optimized_model_filepath = str(path)
    # Only the graph is wanted. Its weights would be as large as the model's, and more than 2 GB do not
    # fit into one message: they go to a file of their own, which throws them away.
    (scratch / "weights").symlink_to(os.devnull)
    for key, value in (("file_name", "weights"), ("min_size_in_bytes", "1024")):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    return path


def save_ort(model: Path, path: Path) -> None:
    """Optimise an ONNX file and save it in ONNX Runtime's own format, for any CPU.

    Optimised as the official tool does by default for a device that it does not know
    (`onnxruntime.tools.convert_onnx_models_to_ort`): everything but the layout that suits this machine's
    vectors, NCHWc, whose nodes other CPUs cannot run.

    Raises:
        ValidationError: the model does not load, or the format cannot hold it.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    try:
        runtime.InferenceSession(
            str(model), options, providers=[PROVIDERS["cpu"]], disabled_optimizers=["NchwcTransformer"]
        )
    except Exception as error:
        raise ValidationError(f"ONNX Runtime cannot convert {model.name}: {error}") from error


class Session:
    """A model loaded for inference on one provider, with no silent fallback.

    Attributes:
        inputs: names of what has to be fed.
        outputs: names of what comes out.
        types: input or output → ONNX Runtime's word for its type (`tensor(float)`), and its sizes.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: str = PROVIDERS["cpu"],
        *,
        folder: Path | None = None,
        optimize: bool = True,
        custom_ops: Sequence[Path] = (),
        threads: int = 0,
        blocked: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: a file, or a serialised model.
            provider: the execution provider.
            folder: where external data of a serialised model lie.
            optimize: let ONNX Runtime rewrite the graph.
            custom_ops: libraries of operators to load.
            threads: threads of one operator; 0 leaves it to ONNX Runtime (one for each physical core).
            blocked: let it turn images to blocks of channels (NCHWc) on CPUs; ONNX Runtime 1.31 crashes then
                on some models in float16, vit_b_16 among them.

        Raises:
            ValidationError: the model does not load, or another provider than the asked-for one would run.
        """
        runtime = onnxruntime()
        options = self._options(runtime, folder, optimize=optimize, threads=threads)
        chosen: dict[str, str] = {}
        if provider == PROVIDERS["cuda"]:
            chosen = settings()
            options.use_deterministic_compute = True
        name = model.name if isinstance(model, Path) else "the model"
        try:
            for library in custom_ops:
                options.register_custom_ops_library(str(library.resolve()))
            content = str(model) if isinstance(model, Path) else model
            without = [] if blocked else ["NchwcTransformer"]
            self._session = runtime.InferenceSession(
                content,
                options,
                providers=[(provider, chosen)],
                disabled_optimizers=without,
                enable_fallback=0,  # else a provider that fails in a run is silently put out for the CPU
            )
        except Exception as error:
            unknown = "is not a registered" in str(error)
            words = str(error).replace(str(model), name) if isinstance(model, Path) else str(error)
            raise ValidationError(
                f"ONNX Runtime cannot load {name}: {words}",
                hint="--custom-ops LIB names a library with its operators" if unknown else None,
            ) from error
        self._provider = provider
        got = self._session.get_providers()[0]
        if got != provider:
            raise ValidationError(f"{name} was to run on {provider}, but {got} took it")
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        strange = [f"{value.name} ({value.type})" for value in ends if value.type in _NO_ARRAYS]
        if strange:
            raise ValidationError(
                f"ONNX Runtime's Python interface has no arrays of these types: {', '.join(strange)}",
                hint="cut at a tensor of another type, or write without proof: --no-validate",
            )
        self.types = {value.name: (value.type, value.shape) for value in ends}
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def _options(self, runtime: Any, folder: Path | None, *, optimize: bool, threads: int) -> Any:
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
        if not optimize:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    @property
    def placement(self) -> Placement:
        """Which provider each node was given to, without reasons.

        Bodies of If, Loop and Scan are part of it. Copies between the host and a device are not: they are
        put in afterwards.
        """
        nodes = [
            Assigned(part.ep_name, _operator(node.domain, node.op_type), node.name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]
        return Placement(self._provider, tuple(nodes))

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] = ()) -> dict[str, Any]:
        """Outputs by name, all of them unless some are asked for; sequences are lists, empty optionals None.

        Raises:
            ValidationError: ONNX Runtime refuses the inputs or fails inside the graph.
        """
        wanted = list(outputs) or self.outputs
        given = {name: _fed(feeds[name]) for name in self.inputs}
        with _within() as options:
            try:
                values = self._session.run(wanted, given, options)
            except Exception as error:
                if options.terminate:
                    raise ValidationError(
                        f"ONNX Runtime takes longer than {_seconds():g} seconds for one run, and was stopped",
                        hint="CONVERTER_RUN_SECONDS allows for more; a loop in the graph may have no end",
                    ) from error
                full = any(words in str(error) for words in _FULL)
                raise ValidationError(
                    f"ONNX Runtime fails inside the graph: {error}",
                    hint="the device's memory is too small or held by others: --device cpu" if full else None,
                ) from error
        return dict(zip(wanted, values, strict=True))


# A loop of some bytes can run for centuries; models of billions of weights take minutes.
_RUN_SECONDS = "1800"
_deadlines: dict[int, tuple[float, Any]] = {}


def _seconds() -> float:
    text = os.environ.get("CONVERTER_RUN_SECONDS") or _RUN_SECONDS
    if not text.isdigit() or not int(text):
        raise UsageError(f"CONVERTER_RUN_SECONDS={text}: expected a whole number of seconds")
    return float(text)


@functools.cache
def _watchdog() -> threading.Thread:
    """What stops runs at their deadlines: one thread for all, since starting one would be seen in timings."""

    def watch() -> None:
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            for deadline, options in list(_deadlines.values()):
                if now > deadline:
                    options.terminate = True

    thread = threading.Thread(target=watch, name="converter-deadlines", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def _within() -> Iterator[Any]:
    """Options of one run, which is stopped between two nodes once it takes too long."""
    options = onnxruntime().RunOptions()
    seconds = _seconds()
    _watchdog()
    _deadlines[id(options)] = time.monotonic() + seconds, options
    try:
        yield options
    finally:
        del _deadlines[id(options)]


# What ONNX Runtime says when an arena is at its limit, or the device has no more memory.
_FULL = ("Available memory of", "Failed to allocate memory", "out of memory")


def _operator(domain: str, kind: str) -> str:
    return kind if domain in ("", "ai.onnx") else f"{domain}::{kind}"


def _fed(value: Any) -> Any:
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


@dataclasses.dataclass(frozen=True, slots=True)
class KernelRun:
    """One run of one node of the optimised graph.

    Attributes:
        run: which of the runs since the session was made, from 0.
        name: the node's name; operator and number (`Relu_7`) where it has none.
        operator: its operator.
        microseconds: how long the kernel took, as the host sees it.
        outputs: element type in ONNX Runtime's words (`float`) and shape of each tensor that it put out.
    """

    run: int
    name: str
    operator: str
    microseconds: int
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


class ProfiledSession(Session):
    """A session that times every kernel until `finish`, and from then on runs as any other.

    Attributes:
        optimized: the graph that runs, after ONNX Runtime's optimisations; an ONNX file without its weights.
    """

    def __init__(
        self,
        model: Path | bytes,
        scratch: Path,
        provider: str = PROVIDERS["cpu"],
        *,
        folder: Path | None = None,
        custom_ops: Sequence[Path] = (),
        threads: int = 0,
    ) -> None:
        """Load a model.

        Args:
            model, provider, folder, custom_ops, threads: as of `Session`.
            scratch: an empty folder for the optimised graph and the profile.

        Raises:
            ValidationError: as of `Session`.
        """
        self._scratch = scratch
        self.optimized = scratch / "optimized.onnx"
        super().__init__(model, provider, folder=folder, custom_ops=custom_ops, threads=threads)

    def _options(self, runtime: Any, folder: Path | None, *, optimize: bool, threads: int) -> Any:
        options = super()._options(runtime, folder, optimize=optimize, threads=threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(self._scratch / "profile")
        _saves_graph(options, self._scratch)
        return options

    def finish(self) -> list[KernelRun]:
        """End profiling and say what ran, in the order in which it began.

        Nodes inside the bodies of If, Loop and Scan are left out: their time is in that of the node around
        them.

        Raises:
            ValidationError: the runs had more events than ONNX Runtime keeps.
        """
        events = json.loads(Path(self._session.end_profiling()).read_text())
        found: list[tuple[dict[str, Any], int]] = []
        run = 0
        for event in events:
            if event["name"] == "model_run":
                run += 1
            elif event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                found.append((event, run))
        # ONNX Runtime stops noting events at a million, which cuts off the last runs.
        if len(events) >= _MOST_EVENTS:
            raise ValidationError(
                "ONNX Runtime's profiler keeps a million events, and this model has more",
                hint="fewer --runs",
            )
        found.sort(key=lambda pair: (pair[0]["ts"], -pair[0]["dur"]))
        return [_kernel_run(event, number) for event, number in _outermost(found)]


# What the profiler adds to a node's name for the time of its kernel; the operators whose bodies are nodes.
_KERNEL = "_kernel_time"
_BODIES = frozenset(["If", "Loop", "Scan"])
_MOST_EVENTS = 1_000_000


def _outermost(found: Sequence[tuple[dict[str, Any], int]]) -> list[tuple[dict[str, Any], int]]:
    kept, until = [], -1
    for event, run in found:
        stop = event["ts"] + event["dur"]
        if stop <= until:
            continue
        if event["args"].get("op_name") in _BODIES:
            until = stop
        kept.append((event, run))
    return kept


def _kernel_run(event: Mapping[str, Any], run: int) -> KernelRun:
    args = event["args"]
    shapes = [next(iter(entry.items())) for entry in args.get("output_type_shape", ()) if entry]
    return KernelRun(
        run=run,
        name=event["name"].removesuffix(_KERNEL),
        operator=args.get("op_name", ""),
        microseconds=event["dur"],
        outputs=tuple((kind, tuple(sizes)) for kind, sizes in shapes),
    )
