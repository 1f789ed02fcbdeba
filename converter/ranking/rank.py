"""What each block does to its input, and what the model puts out without it, on samples, in ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import UsageError, ValidationError
from converter.model import Array, LayeredModel, Source, SourceInfo, TensorSpec
from converter.ranking.candidates import Candidate
from converter.ranking.measures import Change, Outputs, is_constant, is_float
from converter.ranking.stored import Stored
from converter.runtime import Session
from converter.samples import complete, count_of
from converter.scratch import Scratch
from converter.surgery import edges_of
from converter.validation.comparison import TOLERANCES

__all__ = ["Influence", "Ranking", "rank"]

# Bytes of the tensors around blocks that are looked at together, and samples at most.
_AT_ONCE, _MOST = 1 << 28, 64
Progress = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class Influence:
    """What one block does.

    Attributes:
        name: what to call it.
        drop: what to drop for it: names of layers, or a glob.
        kind: the layer's class or operator; `group` for several layers.
        depth: how far down it begins, from 0 to 1.
        parameters: elements of its weights.
        change: 1 − cosine between its input and its output (see `converter.ranking.measures.Change`).
        output_error: of the model without it against the whole model: max |a − b| over max |b|; None where it
            cannot be told.
        agreement: share of the samples whose largest score stays the same; None for no classifier.
        problem: why it is not to be compared with the others, where that is so.
    """

    name: str
    drop: tuple[str, ...]
    kind: str
    depth: float
    parameters: int
    change: float | None
    output_error: float | None
    agreement: float | None
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What every block of a model does.

    Attributes:
        source: where the model comes from.
        samples: how many samples it was measured on.
        outputs: names of the outputs that were compared.
        blocks: in order of depth.
        notes: what a reader should know besides.
    """

    source: SourceInfo
    samples: int
    outputs: tuple[str, ...]
    blocks: tuple[Influence, ...]
    notes: tuple[str, ...] = ()

    @property
    def least(self) -> tuple[Influence, ...]:
        """The blocks, the least influential first: by what the output loses, then by what the block changes.

        Each was left out alone; those that cannot be compared are missing.
        """
        known = [b for b in self.blocks if b.problem is None and b.output_error is not None]
        return tuple(sorted(known, key=lambda b: (b.output_error, b.change)))


def rank(
    source: Source,
    layered: LayeredModel,
    samples: Mapping[str, Array],
    candidates: Sequence[Candidate],
    *,
    provider: str = "CPUExecutionProvider",
    custom_ops: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Ranking:
    """Measure what each block does, and what the model is without it.

    All blocks' inputs and outputs are looked at in one session, as many samples at a time as memory is meant
    for; then the model is run once without each block. The model's own outputs are kept in memory.

    Args:
        source: where the model comes from.
        layered: the layered model, whole.
        samples: input → array, samples along axis 0 (see `converter.samples.read_samples`).
        candidates: blocks (see `converter.ranking.candidates`).
        provider: ONNX Runtime's execution provider.
        custom_ops: libraries of operators for ONNX Runtime.
        progress: told each block as it is left out.

    Raises:
        UsageError: samples that the model does not take.
        ValidationError: the model does not run, or puts out NaN, or the same whatever goes in.
    """
    step, fixed = _step(layered.inputs, samples)
    with Scratch() as folder:
        stored = Stored(layered, folder)
        bench = _Bench(stored, provider, tuple(custom_ops))
        if progress is not None:
            progress("rank", f"{len(candidates)} blocks on {count_of(samples)} samples")
        taps = [name for candidate in candidates for pair in candidate.bridges for name in pair]
        session = bench.session(stored.tapped(taps))
        if not fixed:
            step = _fitting(session.run(_part(samples, 0, step)), step)
        batches = [_part(samples, start, step) for start in range(0, count_of(samples), step)]
        changes, answers = _observed(session, batches, candidates, stored.outputs)
        del session
        names = {b.value: b.name for b in layered.outputs}
        reference, notes = _reference(answers, names)
        blocks = []
        for candidate, change in zip(candidates, changes, strict=True):
            if progress is not None:
                progress("without", candidate.name)
            blocks.append(bench.without(candidate, change, batches, reference))
    compared = tuple(names[value] for value in reference)
    notes += _warnings(layered, blocks, reference)
    return Ranking(source.info, count_of(samples), compared, tuple(blocks), notes)


def _warnings(
    layered: LayeredModel, blocks: Sequence[Influence], reference: Mapping[str, Sequence[Array]]
) -> tuple[str, ...]:
    """What makes the order of the blocks doubtful."""
    found = []
    if edges_of(layered.graph).random:
        found.append("the model draws random numbers: the figures differ from run to run")
    rounding = max(TOLERANCES.get(arrays[0].dtype.name, 0.0) for arrays in reference.values())
    errors = [block.output_error for block in blocks if block.output_error is not None]
    if errors and max(errors) <= rounding:
        found.append("without any one block the output is the same up to rounding: the order says nothing")
    return tuple(found)


@dataclasses.dataclass
class _Bench:
    """Runs variants of a model."""

    stored: Stored
    provider: str
    custom_ops: tuple[Path, ...]

    def session(self, model: bytes) -> Session:
        return Session(model, self.provider, folder=self.stored.folder, custom_ops=self.custom_ops)

    def without(
        self,
        candidate: Candidate,
        change: Change,
        batches: Sequence[Mapping[str, Array]],
        reference: Mapping[str, Sequence[Array]],
    ) -> Influence:
        """Run the model without a block."""
        outputs = Outputs(list(reference.values()))
        problem = None if change.finite else "NaN or infinity goes into it or comes out"
        got: list[list[Array]] = []
        try:
            session = self.session(self.stored.without(candidate.bridges))
            for number, batch in enumerate(batches):
                answer = session.run(batch, list(reference))
                got.append([answer[name] for name in reference])
                outputs.add(number, got[-1])
                if outputs.problem is not None:
                    break
        except ValidationError as error:
            outputs.problem = f"without it the model does not run: {error.message}"
        problem = problem or outputs.problem
        if problem is None and all(is_constant(arrays) for arrays in zip(*got, strict=True)):
            problem = "without it the model puts out the same for every sample"
        return Influence(
            name=candidate.name,
            drop=candidate.drop,
            kind=candidate.kind,
            depth=candidate.depth,
            parameters=candidate.parameters,
            change=change.value,
            output_error=outputs.error,
            agreement=outputs.agreement,
            problem=problem,
        )


def _observed(
    session: Session,
    batches: Sequence[Mapping[str, Array]],
    candidates: Sequence[Candidate],
    outputs: Sequence[str],
) -> tuple[list[Change], dict[str, list[Any]]]:
    """What each block changes, and what the model puts out for each batch."""
    changes = [Change() for _ in candidates]
    answers: dict[str, list[Any]] = {name: [] for name in outputs}
    for batch in batches:
        tensors = {**batch, **session.run(batch)}
        for change, candidate in zip(changes, candidates, strict=True):
            for given, out in candidate.bridges:
                change.add(tensors[given], tensors[out])
        for name in outputs:
            answers[name].append(tensors[name])
    return changes, answers


def _reference(
    answers: Mapping[str, Sequence[Any]], names: Mapping[str, str]
) -> tuple[dict[str, Sequence[Array]], tuple[str, ...]]:
    """The outputs that tell samples apart, and notes on those that do not.

    Raises:
        ValidationError: NaN, or no such output.
    """
    notes, kept = [], {}
    for value, arrays in answers.items():
        if not all(isinstance(array, np.ndarray) for array in arrays):
            notes.append(f"the output {names[value]} is no tensor and was left out")
        elif any(is_float(array) and np.isnan(array.astype(np.float64)).any() for array in arrays):
            raise ValidationError(
                f"the model itself puts out NaN at {names[value]} for these samples: blocks cannot be ranked",
                hint="samples have to be what the model was made for, preprocessed as in its training",
            )
        elif is_constant(arrays):
            notes.append(f"the output {names[value]} is the same for every sample and was left out")
        else:
            kept[value] = arrays
    if not kept:
        raise ValidationError(
            f"nothing tells blocks apart: {'; '.join(notes)}",
            hint="use several samples that differ, and a trained model",
        )
    return kept, tuple(notes)


# ---------------------------------------------------------------- samples


def _part(samples: Mapping[str, Array], start: int, size: int) -> dict[str, Array]:
    return {name: array[start : start + size] if array.ndim else array for name, array in samples.items()}


def _step(inputs: Sequence[TensorSpec], samples: Mapping[str, Array]) -> tuple[int, bool]:
    """How many samples go in together at least, and whether it must be so many.

    Raises:
        UsageError: an input without samples, or not as many as the model's fixed batch takes.
    """
    count = complete(inputs, samples)
    sizes = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if not sizes:
        return 1, False
    step = int(min(sizes))
    if len(sizes) > 1 or step < 1 or count % step:
        raise UsageError(
            f"the model takes {' and '.join(map(str, sorted(sizes)))} samples at a time, got {count}"
        )
    return step, True


def _fitting(tensors: Mapping[str, Any], step: int) -> int:
    """How many samples fit into the memory meant for them, by what `step` of them take."""
    size = sum(value.nbytes for value in tensors.values() if isinstance(value, np.ndarray))
    return max(1, min(_MOST, _AT_ONCE * step // max(size, 1)))
