"""What an artifact put out on seeded samples, in few enough numbers to be kept inside of it.

Whoever gets the artifact draws the same samples again, runs them on a runtime and device of his own, and
holds statistics and some single elements against those that were noted when the artifact was proven.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from converter.errors import SourceError
from converter.model import Array, TensorSpec
from converter.samples import draw
from converter.validation.comparison import LOSSY, TOLERANCES

__all__ = ["Answer", "Match", "Record"]

# Elements that are noted one by one, evenly spaced over an output; statistics that are noted of all.
_PROBES = 16
_STATISTICS = ("mean", "std", "low", "high")
# Elements of all inputs together that somebody else's record may ask to be drawn.
_MOST_ELEMENTS = 1 << 28

# Ranges go no further: of floats, of integers.
_FURTHEST = (float(np.finfo(np.float32).max), 2.0**62)

Run = Callable[[Mapping[str, Array]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is noted of one output.

    Attributes:
        dtype, shape: of the array.
        sha256: of its bytes.
        finite: how many elements are finite.
        mean, std, low, high: of these.
        probes: elements at evenly spaced places of the flattened array, the first and the last among them.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    finite: int
    mean: float
    std: float
    low: float
    high: float
    probes: tuple[float, ...]

    @classmethod
    def of(cls, array: Array) -> Answer:
        """What to note of an array."""
        if array.dtype.kind in "OSU":
            return cls("string", array.shape, _digest(array), array.size, 0.0, 0.0, 0.0, 0.0, ())
        values = _floats(array)
        known = values[np.isfinite(values)]
        digits = 9 if array.dtype.itemsize <= 4 and array.dtype.kind not in "iu" else 17
        figures = (known.mean(), known.std(), known.min(), known.max()) if known.size else (0.0,) * 4
        mean, std, low, high = (_rounded(float(figure), digits) for figure in figures)
        places = np.linspace(0, max(values.size - 1, 0), min(_PROBES, values.size)).astype(np.int64)
        return cls(
            array.dtype.name,
            array.shape,
            _digest(array),
            int(known.size),
            mean,
            std,
            low,
            high,
            tuple(_rounded(float(values[place]), digits) for place in places),
        )

    def error(self, found: Answer) -> float:
        """The largest difference of a statistic or a probe, over this one's largest finite value.

        No statistic of these differs by more than the largest difference of an element does.
        """
        pairs = [(getattr(self, name), getattr(found, name)) for name in _STATISTICS]
        pairs += list(zip(self.probes, found.probes, strict=True))
        scale = max(abs(self.low), abs(self.high))
        largest = max((_distance(a, b) for a, b in pairs), default=0.0)
        return largest / scale if scale > 0 else (0.0 if largest == 0 else math.inf)


@dataclasses.dataclass(frozen=True)
class Match:
    """An output on the recorded samples, held against what was noted.

    Attributes:
        output: its name.
        error: the largest difference of a statistic or single element, of scale; NaN where none can be told.
        tolerance: what passes.
        exact: whether it is the same bit for bit.
        problem: what else is wrong.
    """

    output: str
    error: float
    tolerance: float
    exact: bool
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it is what was noted."""
        return self.exact or (self.problem is None and self.error <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Record:
    """Samples that can be drawn again, and what an artifact put out on them.

    Attributes:
        seed: of the samples.
        inputs: what was fed, with the ranges that samples are drawn from.
        tables: rows of the embeddings that integer inputs index.
        digests: input → SHA-256 of what was drawn for it.
        answers: output → what is noted of it; members of a sequence as `name[0]`, `name[1]`, …
        runtime: what ran.
        precision: what the artifact computes in, where that is less than its outputs' dtype.
    """

    seed: int
    inputs: tuple[TensorSpec, ...]
    tables: Mapping[str, int]
    digests: Mapping[str, str]
    answers: Mapping[str, Answer]
    runtime: str
    precision: str | None = None

    @classmethod
    def take(
        cls,
        run: Run,
        inputs: Sequence[TensorSpec],
        tables: Mapping[str, int],
        seed: int,
        runtime: str,
        precision: str | None = None,
    ) -> Record:
        """Draw samples, run them, and note what comes out.

        Raises:
            ValidationError: no samples can be drawn for these inputs, or they do not run.
        """
        used = {spec.name: tables[spec.name] for spec in inputs if spec.name in tables}
        feeds = draw(inputs, used, seed)[-1]
        digests = {name: _digest(array) for name, array in feeds.items()}
        answers = {name: Answer.of(array) for name, array in flat(run(feeds)).items()}
        return cls(seed, tuple(inputs), used, digests, answers, runtime, precision)

    def feeds(self) -> dict[str, Array]:
        """The samples, drawn again.

        Raises:
            SourceError: they cannot be, or are not those that were noted.
        """
        elements = sum(math.prod(s for s in spec.shape if isinstance(s, int)) for spec in self.inputs)
        if elements > _MOST_ELEMENTS:
            raise SourceError(f"the recorded samples have absurd shapes: {', '.join(map(str, self.inputs))}")
        feeds = draw(self.inputs, self.tables, self.seed)[-1]
        other = [name for name, array in feeds.items() if _digest(array) != self.digests.get(name)]
        if other:
            raise SourceError(
                f"the samples of {', '.join(other)} cannot be drawn again as they were recorded",
                hint="another version of this package or of NumPy draws others: use that of the certificate",
            )
        return feeds

    def match(self, outputs: Mapping[str, Any]) -> list[Match]:
        """Hold outputs against what was noted; never raises."""
        found = flat(outputs)
        return [
            self._match(name, answer, found.get(name), _tolerance(answer.dtype, self.precision))
            for name, answer in self.answers.items()
        ]

    def _match(self, name: str, wanted: Answer, array: Array | None, tolerance: float) -> Match:

        def failed(problem: str) -> Match:
            return Match(name, math.nan, tolerance, False, problem)

        if array is None:
            return failed("the output is missing")
        got = Answer.of(array)
        if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
            return failed(f"{got.dtype}{list(got.shape)}, recorded was {wanted.dtype}{list(wanted.shape)}")
        if len(got.probes) != len(wanted.probes):
            return failed(f"{len(wanted.probes)} elements were recorded, expected {len(got.probes)}")
        if got.sha256 == wanted.sha256:
            return Match(name, 0.0, tolerance, True)
        if tolerance == 0:
            return failed(f"values of {wanted.dtype} that are not the recorded ones")
        if got.finite != wanted.finite:
            return failed(f"{got.finite} finite values, recorded were {wanted.finite}")
        return Match(name, wanted.error(got), tolerance, False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        inputs = [
            {
                "name": spec.name,
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "range": None if spec.value_range is None else list(spec.value_range),
                "sha256": self.digests[spec.name],
                **({"rows": self.tables[spec.name]} if spec.name in self.tables else {}),
            }
            for spec in self.inputs
        ]
        outputs = {
            name: {key: _plain(value) for key, value in dataclasses.asdict(answer).items()}
            for name, answer in self.answers.items()
        }
        return {
            "seed": self.seed,
            "runtime": self.runtime,
            **({} if self.precision is None else {"precision": self.precision}),
            "inputs": inputs,
            "outputs": outputs,
        }

    @classmethod
    def from_dict(cls, facts: Any) -> Record:
        """What `as_dict` made.

        Raises:
            SourceError: it is something else.
        """
        try:
            inputs = tuple(map(_input, facts["inputs"]))
            if len({spec.name for spec in inputs}) < len(inputs):
                raise ValueError("two inputs of one name")
            precision = facts.get("precision")
            if precision is not None and precision not in LOSSY:
                raise ValueError(f"precision {precision!r}")
            return cls(
                _whole(facts["seed"]),
                inputs,
                {str(e["name"]): _whole(e["rows"], 1) for e in facts["inputs"] if "rows" in e},
                {str(e["name"]): str(e["sha256"]) for e in facts["inputs"]},
                {str(name): _answer(noted) for name, noted in facts["outputs"].items()},
                str(facts["runtime"]),
                precision,
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise SourceError(f"the recorded samples cannot be read: {error!r}") from error


def _tolerance(dtype: str, precision: str | None) -> float:
    """What passes, of an output's dtype: as for the proof of the artifact. Integers are exact."""
    own = TOLERANCES.get(dtype, 0.0)
    return max(own, LOSSY[precision][0]) if own and precision in LOSSY else own


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _input(noted: Mapping[str, Any]) -> TensorSpec:
    """What was noted of an input.

    Raises:
        ValueError, TypeError, KeyError: it is nothing that samples can be drawn for.
    """
    shape = tuple(_whole(size) if isinstance(size, (int, float)) else str(size) for size in noted["shape"])
    ends = noted["range"]
    known = None if ends is None else (float(ends[0]), float(ends[1]))
    spec = TensorSpec(str(noted["name"]), shape, str(noted["dtype"]), known)
    kind = _dtype(spec.dtype).kind
    if known is not None and not -_FURTHEST[kind in "iu"] <= known[0] <= known[1] <= _FURTHEST[kind in "iu"]:
        raise ValueError(f"range {known}")
    return spec


def _dtype(name: str) -> np.dtype[Any]:
    """A dtype of tensors by its name; strings are objects."""
    if name == "string":
        return np.dtype(object)
    dtype = TensorSpec("", (), name).numpy_dtype
    if dtype.kind not in "biufcV" or dtype.itemsize == 0:
        raise ValueError(f"dtype {name!r}")
    return dtype


def _whole(value: Any, least: int = 0) -> int:
    """A whole number, neither huge nor below the least that there can be."""
    if type(value) is not int or not least <= value < 1 << 62:
        raise ValueError(f"{value!r}: expected a whole number of at least {least}")
    return value


def _answer(noted: Mapping[str, Any]) -> Answer:
    return Answer(
        str(noted["dtype"]),
        tuple(map(_whole, noted["shape"])),
        str(noted["sha256"]),
        _whole(noted["finite"]),
        float(noted["mean"]),
        float(noted["std"]),
        float(noted["low"]),
        float(noted["high"]),
        tuple(map(float, noted["probes"])),
    )


def flat(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays among outputs; of sequences each member by itself, of empty optionals none."""
    found: dict[str, Array] = {}
    for name, value in outputs.items():
        if isinstance(value, (list, tuple)):
            found |= flat({f"{name}[{index}]": part for index, part in enumerate(value)})
        elif value is not None and not isinstance(value, dict):
            found[name] = np.asarray(value)
    return found


def _floats(array: Array) -> Array:
    parts = np.stack([array.real, array.imag], -1) if array.dtype.kind == "c" else array
    return parts.astype(np.float64).reshape(-1)


def _digest(array: Array) -> str:
    if array.dtype.kind in "OSU":
        data = json.dumps([str(element) for element in array.reshape(-1)]).encode()
    else:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).reshape(-1).view(np.uint8).tobytes()
    return hashlib.sha256(data).hexdigest()


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _distance(a: float, b: float) -> float:
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b)
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else math.inf
