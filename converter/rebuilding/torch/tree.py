"""The modules of a model, by path: how they are made, and how they are reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from converter.rebuilding.torch.text import statement

__all__ = ["RESERVED", "Tree", "access", "safe"]

# What nn.Module has under a name of its own; in the last line, what modules of torch.export have besides.
RESERVED = frozenset(
    "T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double "
    "dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half "
    "ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters "
    "register_backward_hook register_buffer register_forward_hook register_forward_pre_hook "
    "register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook "
    "register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook "
    "register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to "
    "to_empty train training type xpu zero_grad "
    "add_submodule code delete_submodule graph meta print_readable recompile to_folder".split()
)


def safe(path: str) -> str:
    """The path with `_` behind each name that nn.Module has a use for."""
    return ".".join(f"{part}_" if part in RESERVED or part == "self" else part for part in path.split("."))


def access(path: str) -> str:
    """How `forward` reaches a path: `layer1.0.conv1` as `self.layer1[0].conv1`."""
    first, *rest = path.split(".")
    text = f'self.get_submodule("{first}")' if first.isdigit() else f"self.{first}"
    return text + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)


@dataclasses.dataclass
class Tree:
    """What stands at a path: an expression, or what is below it."""

    made: str = ""
    below: dict[str, Tree] = dataclasses.field(default_factory=dict)

    def put(self, path: str, made: str) -> None:
        """Let a path hold what an expression makes."""
        node = self
        for part in path.split("."):
            node = node.below.setdefault(part, Tree())
        node.made = made

    def statements(self) -> Iterator[str]:
        """The lines of `__init__` that make all of it, indented by eight."""
        for name, child in self.below.items():
            made = child.expression()
            text = f'self.add_module("{name}", {made})' if name.isdigit() else f"self.{name} = {made}"
            yield from statement(text, 8)

    def expression(self) -> str:
        """What makes this."""
        if self.made:
            return self.made
        parts = {name: child.expression() for name, child in self.below.items()}
        count = len(parts)
        if set(parts) == {str(n) for n in range(count)} and all(
            not m.startswith(("nn.Parameter", "nn.Buffer")) for m in parts.values()
        ):
            return f"nn.ModuleList([{', '.join(parts[str(n)] for n in range(count))}])"
        if all(name.isidentifier() for name in parts):
            return f"Block({', '.join(f'{name}={made}' for name, made in parts.items())})"
        pairs = ", ".join(f'"{name}": {made}' for name, made in parts.items())
        return f"Block(**{{{pairs}}})"
