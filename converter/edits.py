"""What is changed in a model, as plain data, and what the calls of its layers say about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from converter.errors import CutError

if TYPE_CHECKING:
    from converter.heads import Head
    from converter.model import Boundary, Layer

__all__ = ["Call", "Edits", "Region", "bridge", "expect_one_to_one", "regions", "within"]


@dataclasses.dataclass(frozen=True)
class Edits:
    """Changes to a model whose layers are known.

    Attributes:
        end: the model ends here; None for its own outputs.
        head: goes onto `end`: a `Head`, or a layer or module of the source's own framework.
        replaced: layers in whose places others are put, which take what these took.
        dropped: layers that are left out: what is put in goes on to whatever read what came out.
        frozen: names of the weights that are not to be trained.
        trained: names of those that are, though they may be frozen now.
        channels_last: where the channels of what new layers take are; None for where the framework has them.
        seed: of the initial weights of new layers.
    """

    end: Boundary | None = None
    head: Head | Any | None = None
    replaced: tuple[tuple[Layer, Head | Any], ...] = ()
    dropped: tuple[Layer, ...] = ()
    frozen: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()
    channels_last: bool | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer, or a node: the tensors it takes and puts out, by numbers."""

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Region:
    """Calls that hang together.

    Attributes:
        calls: their numbers, in running order.
        reads: tensors from outside that they take, in the order in which they take them.
        writes: tensors of theirs that something outside takes.
    """

    calls: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


def within(name: str, layer: str) -> bool:
    """Whether a layer is this one, one of its calls, or inside of it."""
    rest = name.removeprefix(layer)
    return name.startswith(layer) and (not rest or rest[0] in "/.@")


def regions(calls: Sequence[Call], chosen: Collection[int], ends: Collection[int]) -> list[Region]:
    """The chosen calls, parted into groups that no tensor connects.

    Args:
        calls: every call of the model in running order.
        chosen: numbers of calls.
        ends: tensors that the model puts out.
    """
    writer = {value: number for number in sorted(chosen) for value in calls[number].writes}
    group = {number: number for number in chosen}

    def leader(number: int) -> int:
        while group[number] != number:
            group[number] = group[group[number]]
            number = group[number]
        return number

    for number in chosen:
        for value in calls[number].reads:
            if value in writer:
                first, second = sorted((leader(number), leader(writer[value])))
                group[second] = first
    members: dict[int, list[int]] = {}
    for number in sorted(chosen):
        members.setdefault(leader(number), []).append(number)
    return [_region(calls, numbers, ends) for numbers in members.values()]


def _region(calls: Sequence[Call], numbers: Sequence[int], ends: Collection[int]) -> Region:
    inside = set(numbers)
    made = dict.fromkeys(value for number in numbers for value in calls[number].writes)
    taken = {v for number, call in enumerate(calls) if number not in inside for v in call.reads} | set(ends)
    reads = dict.fromkeys(v for number in numbers for v in calls[number].reads if v not in made)
    leaving = [value for value in made if value in taken]
    if not leaving:  # read by operators between layers, which are no calls
        inner = {value for number in numbers for value in calls[number].reads}
        leaving = [value for value in made if value not in inner]
    return Region(tuple(numbers), tuple(reads), tuple(leaving))


def expect_one_to_one(name: str, takes: int, puts_out: int) -> None:
    """Refuse to replace a layer by others unless it takes one tensor and puts out one.

    Raises:
        CutError: other numbers.
    """
    if (takes, puts_out) != (1, 1):
        raise CutError(
            f"{name} takes {takes} tensors and puts out {puts_out}: "
            "only a layer that takes one tensor and puts out one can be replaced"
        )


def bridge(names: Sequence[str], region: Region, specs: Any) -> tuple[int, int]:
    """The one tensor that goes in and the one that comes out, which have the same shape and dtype.

    Args:
        names: of the region's layers, for the message.
        region: the region.
        specs: tensor → (its name, shape and dtype as a text to show, shape and dtype to compare).

    Raises:
        CutError: they cannot be joined; the message says what disagrees.
    """
    what = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    if len(region.writes) != 1:
        found = ", ".join(specs(value)[0] for value in region.writes) or "nothing"
        raise CutError(
            f"{what} cannot be dropped: it puts out {found}, and one tensor alone can be joined to another",
            hint="drop a block as a whole, its last layer included",
        )
    out = region.writes[0]
    shown, kind = specs(out)
    fitting = [value for value in region.reads if specs(value)[1] == kind]
    if len(fitting) == 1:
        return fitting[0], out
    given = ", ".join(specs(value)[0] for value in region.reads) or "nothing"
    if fitting:
        raise CutError(
            f"{what} cannot be dropped: it takes {given}, and any of them could go on in its place"
        )
    raise CutError(f"{what} cannot be dropped: it takes {given} and puts out {shown}, which do not agree")
