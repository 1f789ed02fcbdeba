"""What can be rebuilt: the onnx package's cases of single operators, through both frameworks.

    python benchmarks/support.py [--write] [--tables] [--workers N]

Each case (`fixtures/node_cases.py`) is rebuilt in PyTorch and in Keras and run on the inputs that come with
it. --write makes docs/support.md of the outcome, --tables prints the operators and their versions alone.
Cases run in processes of their own kind, one after the other; one that takes over a minute, or that takes
its process down, has failed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pickle
import queue
import re
import select
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

PAGE = HERE.parent / "docs" / "support.md"
TITLES = {"torch": "PyTorch", "keras": "Keras"}
TIMEOUT, START = 60, 180
PASSED, FIXED = "passed", "passed with constants"
NONE = "none"

# ---------------------------------------------------------------- cases in processes of their own


class Worker:
    """A child that answers one line of JSON for each, until it dies or is too slow."""

    def __init__(self, command: Sequence[str], threads: int | None = 1) -> None:
        env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
        if threads is not None:
            env["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            bufsize=0,
        )
        self._limit = START  # the first answer comes after the imports

    def ask(self, question: Any) -> Any:
        """The answer; a string where there is none.

        Raises:
            ChildProcessError: the child is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except BrokenPipeError:
            raise ChildProcessError("the process does not start") from None
        answer, end = b"", time.monotonic() + self._limit
        while not answer.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise ChildProcessError(f"takes over {self._limit} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise ChildProcessError(f"its process dies (exit status {self._process.wait()})")
            answer += part
        self._limit = TIMEOUT
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def in_processes(command: Sequence[str], questions: Sequence[Any], workers: int) -> list[Any]:
    """Answers to questions, in their order, from `serve` in a few child processes.

    A question that a child dies of is answered with a string that says so, and a new child goes on.
    """
    answers: list[Any] = [None] * len(questions)
    pending: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(questions)):
        pending.put(number)

    def work() -> None:
        worker: Worker | None = None
        while True:
            try:
                number = pending.get_nowait()
            except queue.Empty:
                break
            worker = worker or Worker(command)
            try:
                answers[number] = worker.ask(questions[number])
            except ChildProcessError as error:
                answers[number] = str(error)
                worker.close()
                worker = None
        if worker is not None:
            worker.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer lines of stdin on stdout until they end; what else is printed goes nowhere."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


# ---------------------------------------------------------------- rebuilding a case


def runner(direction: str) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """What rebuilds a plain graph as a function from inputs to outputs, and how it is to be drawn."""
    if direction == "torch":
        from converter.rebuilding.torch import rebuild as to_torch
        from converter.rebuilding.torch import table as torch_table

        return lambda plain: to_torch(plain).run, {"known": torch_table.__contains__}
    from converter.rebuilding.keras import rebuild as to_keras
    from converter.rebuilding.keras import table as keras_table

    def run_of(plain: Any) -> Any:
        return functools.partial(_called, to_keras(plain), plain)

    return run_of, {"known": keras_table.__contains__, "channels_last": True}


def _called(model: Any, plain: Any, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """A Keras model's outputs by name."""
    import numpy as np

    given = [feeds[spec.name] for spec in plain.inputs]
    results = model(given[0] if len(given) == 1 else given, training=False)
    results = results if isinstance(results, (list, tuple)) else [results]
    return {spec.name: np.asarray(result) for spec, result in zip(plain.outputs, results, strict=True)}


def examine(case: Any, direction: str) -> str:
    """`PASSED`, `FIXED` where inputs had to be constants, or what went wrong."""
    from fixtures.node_cases import attempt

    run_of, options = runner(direction)
    finished: list[bool] = []

    def rebuild(plain: Any) -> Any:
        run = run_of(plain)
        constants = len(plain.graph.graph.inputs) < len(case.model.graph.input)

        def noted(feeds: Mapping[str, Any]) -> Any:
            results = run(feeds)
            finished.append(constants)
            return results

        return noted

    outcome = attempt(case, rebuild, **options)
    if outcome != "passed":
        return outcome
    return FIXED if finished[-1] else PASSED


def _child(direction: str, path: Path) -> None:
    cases = pickle.loads(path.read_bytes())  # the parent's own file
    serve(lambda number: examine(cases[number], direction))


def outcomes(cases: Sequence[Any], direction: str, workers: int) -> list[str]:
    """What became of each case in a direction."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases"
        path.write_bytes(pickle.dumps(list(cases)))
        command = [sys.executable, str(HERE / "support.py"), "--child", direction, str(path)]
        return in_processes(command, range(len(cases)), workers)


def passes(outcome: str) -> bool:
    """Whether an outcome counts as passed."""
    return outcome in (PASSED, FIXED)


# ---------------------------------------------------------------- operators and versions


def _history() -> dict[tuple[str, str], dict[int, Any]]:
    import onnx

    found: dict[tuple[str, str], dict[int, Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            found.setdefault(("", schema.name), {})[schema.since_version] = schema
    return found


# What a definition may need to know of its inputs: they are of rank 4 otherwise.
_SHAPES = {"CausalConvWithState": (4, 4, 4)}


def _definition(schema: Any) -> Any:
    """The function body of a version of an operator; None where ONNX has none.

    Bodies that depend on a node's types and attributes are those of a node without attributes on float32.
    """
    import onnx

    body = onnx.FunctionProto()
    if schema.has_function:
        body.ParseFromString(schema.get_function_with_opset_version(max(schema.function_opset_versions)))
    elif schema.has_context_dependent_function:
        names = [f"x{place}" for place in range(max(schema.min_input, 1))]
        node = onnx.helper.make_node(schema.name, names, ["y"])
        kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, _SHAPES.get(schema.name, (4,) * 4))
        try:
            built = schema.get_context_dependent_function_with_opset_version(
                max(schema.context_dependent_function_opset_versions),
                node.SerializeToString(),
                [kind.SerializeToString()] * len(names),
            )
        except ValueError:  # it needs an attribute: a body to map
            return None
        body.ParseFromString(built)
    return body if body.node else None


def _spelled_out(key: tuple[str, str, int], table: Any, history: Mapping[Any, Any]) -> bool:
    """Whether an operator's definition comes down to operators with rules."""
    import onnx

    schema = history[key[:2]].get(key[2])
    body = None if schema is None else _definition(schema)
    if body is None:
        return False
    opset = next((imported.version for imported in body.opset_import if imported.domain == ""), key[2])
    for node in body.node:
        if node.domain or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            return False
        inner = ("", node.op_type, onnx.defs.get_schema(node.op_type, opset).since_version)
        if inner not in table and node.op_type != "Constant" and not _spelled_out(inner, table, history):
            return False
    return True


def _versions(key: tuple[str, str], table: Any, history: Mapping[Any, Any]) -> str:
    """`1, 6, 13`, with `by its definition` for what ONNX spells out; `none` where there is neither."""
    ruled = [version for domain, op, version in table if (domain, op) == key]
    spelled = [
        version
        for version in sorted(history.get(key, ()))
        if version not in ruled and _spelled_out((*key, version), table, history)
    ]
    parts = [", ".join(map(str, ruled))] if ruled else []
    if spelled:
        parts.append(f"{', '.join(map(str, spelled))} by its definition")
    return "; ".join(parts) or NONE


def _tables() -> dict[str, Any]:
    from converter.rebuilding.keras import table as keras_table
    from converter.rebuilding.torch import table as torch_table

    return {"torch": torch_table, "keras": keras_table}


def _operators() -> dict[str, str]:
    """Operator → the head of its line: its name, and its versions in each framework."""
    history = _history()
    tables = _tables()
    keys = {key[:2] for table in tables.values() for key in table} | set(history)
    found = {}
    for domain, op in sorted(keys, key=lambda key: (key[0], key[1].lower())):
        versions = [_versions((domain, op), table, history) for table in tables.values()]
        if (domain, op) != ("", "Constant") or versions != [NONE, NONE]:
            title = f"{domain}.{op}" if domain else op
            found[title] = f"| {title} | {' | '.join(versions)} |"
    return found


def table_lines() -> list[str]:
    """The operators with their versions, as docs/support.md begins its lines on them."""
    return list(_operators().values())


# ---------------------------------------------------------------- the page


ABOUT = """\
# What can be rebuilt

Written by `python benchmarks/support.py --write`, not by hand. Which operators of ONNX become PyTorch modules
and Keras layers, by version, and how the onnx package's own cases of single operators (onnx {onnx}) come
out. Each case is drawn plainly (`converter/finish/plain.py`), rebuilt, run on the inputs that it comes with,
and compared with its outputs: shape, dtype, and values by the case's own tolerances.

## What counts

Of the {all} cases of `onnx.backend.test.case.node` that come with arrays, {counted} are inference on floats:
an input or output is float32 or float64, and none is a sequence, an optional or left out. Another
{no_float} have no such array: integers, bool, half precision and below, strings, sequences. Left out are,
too, of cases that do have floats:

- training and what is different each time: `training_mode`, `Dropout` with its third input, `Bernoulli` and
  the like, losses, optimizers;
- control flow (`If`, `Loop`, `Scan`), also within an operator that is spelled out, sequences, optionals,
  strings, images;
- quantized arithmetic, operators on bits;
- operators of another domain than ONNX's own.

In numbers: {left}.

Cases in which an operator is spelled out as ONNX defines it (`…_expanded`) count otherwise, under the
operator that they are about.

The cases give every input at run time. Sizes, axes and kernels are constants in real models, and layers need
some of them to be: a case that is refused or fails as it stands is tried once more with all inputs but the
first as constants, and is counted below as `with constants` where that passes. A case that runs as it
stands but gives wrong values counts as failed, even where it is right with constants: who is refused can help
it, who gets a wrong number does not know.
"""


def _left_out(cases: Iterable[Any]) -> tuple[int, str]:
    """How many cases have no floats at all, and how many are left out for each of the other operators."""
    import numpy as np

    plain, other = 0, Counter[str]()
    for case in cases:
        if case.float_inference:
            continue
        arrays = [*case.feeds.values(), *case.expected.values()]
        if any(isinstance(a, np.ndarray) and a.dtype in (np.float32, np.float64) for a in arrays):
            domain = next((n.domain for n in case.model.graph.node if n.domain not in ("", "ai.onnx")), "")
            other[domain or case.op] += 1
        else:
            plain += 1
    listed = ", ".join(f"{op} ({count})" for op, count in sorted(other.items()))
    return plain, "\n".join(textwrap.wrap(listed, 109, break_long_words=False))


def _share(good: int, total: int) -> str:
    return f"{good} of {total}" if total else "no case"


def _reason(outcome: str) -> str:
    """An outcome on a line of its own, the same each time."""
    text = re.sub(r"0x[0-9a-f]{6,}|\x1b\[\d+m", "", " ".join(outcome.split()))
    text = re.sub(r"by (\d[\d.e+-]*)$", lambda m: f"by {float(m[1]):.0e}", text)
    text = re.sub(r"^refused: (\w+) \(node '[^']*'\): ", r"refused: \1: ", text)
    return (text if len(text) <= 160 else text[:159] + "…").replace("|", r"\|")


def page(cases: Sequence[Any], found: Mapping[str, Sequence[str]], everything: Sequence[Any]) -> str:
    """The text of docs/support.md."""
    import onnx

    no_float, left = _left_out(everything)
    counts = {"all": len(everything), "counted": len(cases), "no_float": no_float, "left": left}
    lines = [ABOUT.format(onnx=onnx.__version__, **counts), "## Totals", ""]
    lines += ["| direction | passed | percent | of these with constants |", "| --- | ---: | ---: | ---: |"]
    for direction, outcomes_ in found.items():
        good, fixed = sum(map(passes, outcomes_)), sum(o == FIXED for o in outcomes_)
        share = 100 * good / len(cases)
        # Rounded down: 100.0 is for all.
        lines.append(
            f"| {TITLES[direction]} | {_share(good, len(cases))} | {int(share * 10) / 10:.1f} | {fixed} |"
        )
    lines += ["", "## Operators", ""]
    lines += [
        "Versions are the opsets that a definition of the operator came with; `none`: refused, by name.",
        "`by its definition`: no rule of its own, ONNX's function body takes its place",
        "(`converter/finish/expand.py`), and all operators in it have rules.",
        "",
        "| operator | PyTorch, versions | Keras, versions | PyTorch, cases | Keras, cases |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for op, head in _operators().items():
        cells = []
        for outcomes_ in found.values():
            own = [o for case, o in zip(cases, outcomes_, strict=True) if case.op == op]
            cells.append(_share(sum(map(passes, own)), len(own)))
        lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join([*lines, *_failures(cases, found), ""])


def _failures(cases: Sequence[Any], found: Mapping[str, Sequence[str]]) -> list[str]:
    lines = ["", "## Cases that fail"]
    for direction, outcomes_ in found.items():
        failed = sorted(
            f"- `{case.name}`: {_reason(o)}"
            for case, o in zip(cases, outcomes_, strict=True)
            if not passes(o)
        )
        lines += ["", f"{TITLES[direction]}: {len(failed) or 'none.'}", *([""] if failed else []), *failed]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/support.md")
    parser.add_argument("--tables", action="store_true", help="print operators and versions alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child[0], Path(options.child[1]))
        return
    if options.tables:
        print("\n".join(table_lines()))
        return
    from fixtures.node_cases import node_cases

    everything = list(node_cases())
    cases = [case for case in everything if case.float_inference]
    found = {}
    for direction in TITLES:
        start = time.monotonic()
        found[direction] = outcomes(cases, direction, options.workers)
        good, took = sum(map(passes, found[direction])), time.monotonic() - start
        print(f"{TITLES[direction]}: {good} of {len(cases)} in {took:.0f} s", file=sys.stderr, flush=True)
    text = page(cases, found, everything)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
