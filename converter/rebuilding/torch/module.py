"""The whole text of a rebuilt model: docstring, imports, helper functions, class, `load`."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from converter.model import Plain, TensorSpec
from converter.rebuilding.torch.writer import Writer, lines

__all__ = ["source"]

_IGNORE = re.compile(r"\s*# (type: ignore|noqa)\S*.*$")


def source(plain: Plain, writer: Writer) -> str:
    """The text of `<role>.py`."""
    body = lines(writer.write(), 8)
    made = list(writer.tree.statements())
    if any("Block(" in line for line in made):
        writer.helpers["Block"] = None
    helpers = _pasted(tuple(writer.helpers))
    name = plain.role.capitalize()
    arguments = ", ".join(f"{name}: Tensor" for name in writer.arguments)
    returned = "Tensor" if len(plain.outputs) == 1 else "tuple[Tensor, ...]"
    from converter.rebuilding.torch.text import statement

    head = statement(f"def forward(self{', ' if arguments else ''}{arguments}) -> {returned}:", 4)
    init = [f"class {name}(nn.Module):", *_docstring(plain, writer)]
    if made or writer.frozen:
        init += ["    def __init__(self) -> None:", "        super().__init__()", *made, *_freeze(writer), ""]
    rest = "\n".join([*helpers, *init, *head, *body, "", "", *_load(name, plain.role)])
    return "\n".join([*_preamble(plain, rest), rest, ""])


def _preamble(plain: Plain, rest: str) -> list[str]:
    def read(word: str) -> bool:
        return re.search(rf"\b{word}\.", rest) is not None

    title = {"model": "A model"}.get(plain.role, f"The {plain.role} of a model")
    standard = ["import math"] * read("math") + ["from collections.abc import Sequence"] * (
        "Sequence[" in rest
    )
    return [
        f'"""{title}, as trainable PyTorch layers; `load()` gives it its weights."""',
        "",
        "from __future__ import annotations",
        "",
        *standard,
        "from pathlib import Path",
        "",
        *["import torch"] * read("torch"),
        *["import torch.nn.functional as F"] * read("F"),
        "from safetensors.torch import load_file",
        "from torch import Tensor, nn",
        "",
        "",
    ]


def _docstring(plain: Plain, writer: Writer) -> list[str]:
    def entry(name: str, spec: TensorSpec) -> str:
        sizes = ", ".join(map(str, spec.shape))
        return f"        {name}: {spec.dtype}[{sizes}]"

    takes = [entry(name, spec) for name, spec in zip(writer.arguments, plain.inputs, strict=True)]
    gives = [entry(spec.name, spec) for spec in plain.outputs]
    return [
        f'    """{plain.role.capitalize()}.',
        "",
        *(["    Inputs:", *takes, ""] if takes else []),
        "    Outputs:",
        *gives,
        '    """',
        "",
    ]


def _freeze(writer: Writer) -> list[str]:
    """Statements that switch off the training of what the source does not train."""
    trained = {
        key
        for key in writer.state
        if key not in writer.frozen and key not in writer.constants and _learns(key)
    }
    frozen = [key for key in writer.frozen if _learns(key) and writer.state[key].dtype.kind not in "iub"]
    if not frozen:
        return []
    if not trained:
        return ["        self.requires_grad_(False)"]
    names = [f'            "{key}",' for key in frozen]
    return [
        "        for name in (",
        *names,
        "        ):",
        "            self.get_parameter(name).requires_grad_(False)",
    ]


def _learns(key: str) -> bool:
    return not key.endswith((".running_mean", ".running_var"))


def _load(name: str, stem: str) -> list[str]:
    return [
        f"def load(path: str | Path | None = None) -> {name}:",
        f'    """The {stem} with the weights of `{stem}.safetensors` beside this file, or of another one."""',
        f"    model = {name}()",
        f'    file = Path(__file__).with_name("{stem}.safetensors") if path is None else path',
        "    model.load_state_dict(load_file(file))",
        "    return model.eval()",
    ]


@functools.cache
def _snippets() -> dict[str, tuple[str, frozenset[str]]]:
    """Name → its source, and the names that it reads."""
    found = {}
    folder = Path(__file__).with_name("snippets")
    for path in sorted(folder.glob("*.py")):
        text = path.read_text("utf-8")
        rows = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                part = [_IGNORE.sub("", row) for row in rows[node.lineno - 1 : node.end_lineno]]
                words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {node.name}
                found[node.name] = "\n".join(part), frozenset(words)
    return found


def _pasted(names: tuple[str, ...]) -> list[str]:
    known = _snippets()
    wanted: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += sorted(known[name][1] & known.keys())
    order = [name for name in known if name in wanted]
    return [text for name in order for text in (known[name][0], "", "")]
