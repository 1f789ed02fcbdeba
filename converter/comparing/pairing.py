"""Which tensor of B is which of A's: by hand, by name, by the only way that they fit, by order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from converter.comparing.turns import AS_IT_STANDS, Turn, readings, words
from converter.errors import UsageError
from converter.model import TensorSpec

__all__ = ["Asked", "Pair", "Paired", "pair_inputs", "pair_outputs", "parse_turns"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the user decides by hand.

    Attributes:
        inputs: A's name → B's.
        outputs: A's name → B's; where there are any, no others are compared.
        turns: A's name → the permutation that takes its tensor to B's, the empty one for none; None for
            whichever fits besides none.
    """

    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    turns: Mapping[str, Turn | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A tensor of A and the tensor of B that is held against it.

    Attributes:
        a: A's.
        b: B's.
        how: how they were paired: `by hand`, `by name`, `the only ones`, `by shape and dtype`, `by order`.
        turn: the permutation that takes A's tensor to B's; empty for none.
        unsure: the sizes would let it be turned otherwise, too.
    """

    a: TensorSpec
    b: TensorSpec
    how: str
    turn: Turn = AS_IT_STANDS
    unsure: bool = False


@dataclasses.dataclass(frozen=True)
class Paired:
    """Pairs in A's order, and what found no partner on either side."""

    pairs: tuple[Pair, ...]
    left_a: tuple[TensorSpec, ...]
    left_b: tuple[TensorSpec, ...]


def pair_inputs(a: Sequence[TensorSpec], b: Sequence[TensorSpec], asked: Asked) -> tuple[Pair, ...]:
    """A partner for every input.

    Raises:
        UsageError: inputs without a partner, or more than one way to pair or turn them.
    """
    found = _matched("input", a, b, asked.inputs)
    if found.left_a or found.left_b:
        raise UsageError(
            f"the inputs do not fit one another\n{_lists('input', a, b)}",
            hint="both artifacts must take the same inputs; --input A_NAME=B_NAME pairs two of other names",
        )
    return _turned(found.pairs, asked.turns, ())


def pair_outputs(
    a: Sequence[TensorSpec], b: Sequence[TensorSpec], asked: Asked, inputs: Sequence[Pair]
) -> Paired:
    """Partners for outputs, as they came out; what has none is left over.

    Args:
        a: A's outputs.
        b: B's.
        asked: where outputs are named, the others are neither paired nor left over.
        inputs: how the inputs were turned.

    Raises:
        UsageError: nothing pairs, or there is more than one way to pair or turn them.
    """
    found = _matched("output", a, b, asked.outputs)
    if asked.outputs:
        found = dataclasses.replace(found, left_a=(), left_b=())
    if not found.pairs:
        raise UsageError(
            f"no output of B fits one of A\n{_lists('output', a, b)}",
            hint="--output A_NAME=B_NAME pairs two of other names; their shapes and dtypes must agree",
        )
    return dataclasses.replace(found, pairs=_turned(found.pairs, asked.turns, inputs))


def parse_turns(texts: Iterable[str]) -> dict[str, Turn | None]:
    """What `--turn` says: `NAME`, `NAME=no`, `NAME=0,3,1,2`.

    Raises:
        UsageError: no such thing.
    """
    found: dict[str, Turn | None] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals:
            found[text] = None
            continue
        axes = tuple(map(int, value.split(","))) if re.fullmatch(r"\d(,\d)*", value) else ()
        if not name or (value != "no" and (not axes or sorted(axes) != list(range(len(axes))))):
            raise UsageError(f"turn {text!r}: expected NAME, NAME=no, or NAME=0,3,1,2: A's axes in B's order")
        found[name] = axes
    return found


# ---------------------------------------------------------------- partners


def _matched(what: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec], asked: Mapping[str, str]) -> Paired:
    """Partners, each step for what the one before left over; turns are not decided yet."""
    partners: dict[str, tuple[TensorSpec, str]] = {}
    _by_hand(what, a, b, asked, partners)
    if asked and what == "output":
        return _as_pairs(a, b, partners)
    for spelling, how in ((str, "by name"), (_respelt, "by name, spelt otherwise")):
        left_a, left_b = _left(a, b, partners)
        unique = _unique(left_b, spelling)
        for name, spec in _unique(left_a, spelling).items():
            if name in unique:
                if what == "input":  # an output of another shape is compared, and fails
                    _refuse_unfit(what, spec, unique[name])
                partners[spec.name] = unique[name], how
    left_a, left_b = _left(a, b, partners)
    if left_a and left_b:
        for spec, partner, how in _by_fit(what, left_a, left_b):
            partners[spec.name] = partner, how
    return _as_pairs(a, b, partners)


def _as_pairs(
    a: Sequence[TensorSpec], b: Sequence[TensorSpec], partners: Mapping[str, tuple[TensorSpec, str]]
) -> Paired:
    left_a, left_b = _left(a, b, partners)
    pairs = tuple(Pair(spec, *partners[spec.name]) for spec in a if spec.name in partners)
    return Paired(pairs, tuple(left_a), tuple(left_b))


def _by_hand(
    what: str,
    a: Sequence[TensorSpec],
    b: Sequence[TensorSpec],
    asked: Mapping[str, str],
    partners: dict[str, tuple[TensorSpec, str]],
) -> None:
    specs_a, specs_b = ({spec.name: spec for spec in side} for side in (a, b))
    for name_a, name_b in asked.items():
        for name, specs, side in ((name_a, specs_a, "A"), (name_b, specs_b, "B")):
            if name not in specs:
                raise UsageError(
                    f"--{what} {name_a}={name_b}: {side} has no {what} {name!r}\n{_lists(what, a, b)}"
                )
        if name_b in [partner.name for partner, _ in partners.values()]:
            raise UsageError(f"--{what} {name_a}={name_b}: B's {name_b!r} is paired twice")
        if what == "input":
            _refuse_unfit(what, specs_a[name_a], specs_b[name_b])
        partners[name_a] = specs_b[name_b], "by hand"


def _refuse_unfit(what: str, a: TensorSpec, b: TensorSpec) -> None:
    if not readings(a, b):
        raise UsageError(
            f"A's {what} {a} and B's {what} {b} do not fit, not with their channels at the other end either",
            hint=f"two artifacts of the same sizes can be compared; --{what} A_NAME=B_NAME pairs others",
        )


def _by_fit(
    what: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]
) -> list[tuple[TensorSpec, TensorSpec, str]]:
    """The only way to pair what fits; of several ways the order, where everything fits as it stands."""
    if len(a) == 1 == len(b):
        if what == "input":
            _refuse_unfit(what, a[0], b[0])
        return [(a[0], b[0], "the only ones")]
    fits = {x.name: [y for y in b if readings(x, y)] for x in a}
    some = [x for x in a if fits[x.name]]
    found = _only_way(some, fits)
    if found is not None:
        return [(x, y, "by shape and dtype") for x, y in found]
    if len(a) == len(b) and all(AS_IT_STANDS in readings(x, y) for x, y in zip(a, b, strict=True)):
        return [(x, y, "by order") for x, y in zip(a, b, strict=True)]
    raise UsageError(
        f"there is more than one way to pair the {what}s\n{_lists(what, a, b)}",
        hint=f"--{what} A_NAME=B_NAME (repeatable) decides",
    )


def _only_way(
    rows: Sequence[TensorSpec], fits: Mapping[str, Sequence[TensorSpec]]
) -> list[tuple[TensorSpec, TensorSpec]] | None:
    """The one perfect matching of these with all that fits any of them; None where there is none, or another.

    A bipartite graph with one perfect matching alone has a vertex of one edge on either side (Lovász and
    Plummer, Matching Theory, 1986): such rows are taken one after the other. A partner left over that
    fits one of them would have given that row a second edge.
    """
    open_rows = list(rows)
    free = {y.name for row in rows for y in fits[row.name]}
    found = []
    while open_rows:
        choices = ((row, [y for y in fits[row.name] if y.name in free]) for row in open_rows)
        sure = next(((row, ys[0]) for row, ys in choices if len(ys) == 1), None)
        if sure is None:
            return None
        found.append(sure)
        open_rows.remove(sure[0])
        free.remove(sure[1].name)
    return found


def _left(
    a: Sequence[TensorSpec], b: Sequence[TensorSpec], partners: Mapping[str, tuple[TensorSpec, str]]
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    taken = {partner.name for partner, _ in partners.values()}
    return [x for x in a if x.name not in partners], [y for y in b if y.name not in taken]


def _respelt(name: str) -> str:
    """A name without what frameworks add or cannot spell: `serving_default_Enc/x:0` is `enc_x`."""
    bare = re.sub(r":0$", "", name.removeprefix("serving_default_"))
    return re.sub(r"[^a-z0-9]+", "_", bare.lower()).strip("_")


def _unique(specs: Sequence[TensorSpec], spelling: Callable[[str], str]) -> dict[str, TensorSpec]:
    names = [spelling(spec.name) for spec in specs]
    return {name: spec for name, spec in zip(names, specs, strict=True) if names.count(name) == 1}


def _lists(what: str, a: Sequence[TensorSpec], b: Sequence[TensorSpec]) -> str:
    sides = (
        f"{side}'s {what}s: {', '.join(map(str, specs)) or 'none'}" for side, specs in (("A", a), ("B", b))
    )
    return "\n".join(sides)


# ---------------------------------------------------------------- turns


def _turned(
    pairs: Sequence[Pair], asked: Mapping[str, Turn | None], inputs: Sequence[Pair]
) -> tuple[Pair, ...]:
    """The pairs with their turns; refused where sizes leave it open and other tensors are turned."""
    options = {pair.a.name: readings(pair.a, pair.b) for pair in pairs}
    sure = [turns[0] for turns in options.values() if len(turns) == 1 and turns[0]]
    sure += [pair.turn for pair in inputs if pair.turn]
    return tuple(_decided(pair, options[pair.a.name], asked, sure) for pair in pairs)


def _decided(
    pair: Pair, options: Sequence[Turn], asked: Mapping[str, Turn | None], sure: Sequence[Turn]
) -> Pair:
    rank = len(pair.a.shape)
    alike = {turn for turn in sure if len(turn) == rank}
    name = next((name for name in (pair.a.name, pair.b.name) if name in asked), None)
    if name is not None:
        return dataclasses.replace(pair, turn=_asked_turn(pair, options, asked[name], alike))
    if len(options) < 2:  # of outputs that do not fit there are none
        return dataclasses.replace(pair, turn=options[0] if options else AS_IT_STANDS)
    if AS_IT_STANDS not in options or alike:
        raise UsageError(
            f"the sizes of {pair.a} and {pair.b} do not tell whether one is the other turned",
            hint=f"--turn {pair.a.name} turns it, --turn {pair.a.name}=no leaves it as it stands",
        )
    return dataclasses.replace(pair, turn=AS_IT_STANDS, unsure=True)


def _asked_turn(pair: Pair, options: Sequence[Turn], asked: Turn | None, alike: set[Turn]) -> Turn:
    turns = [turn for turn in options if turn]
    if asked is None:
        fitting = [turn for turn in turns if turn in alike] if len(turns) > 1 else turns
        if len(fitting) == 1:
            return fitting[0]
        ways = " or ".join(f"{pair.a.name}={words(turn)}" for turn in turns)
        raise UsageError(
            f"--turn {pair.a.name}: "
            + (f"say which way: {ways}" if ways else f"{pair.a} turned does not fit {pair.b}")
        )
    if asked not in options:
        raise UsageError(f"--turn {pair.a.name}={words(asked) or 'no'}: {pair.a} so does not fit {pair.b}")
    return asked
