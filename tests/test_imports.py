"""What an import loads, measured in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = {"tensorflow", "keras", "torch", "tf2onnx", "onnxruntime", "h5py"}


def loaded_by(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint('\\n'.join({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import converter",
        "import converter.cli",
        "from typer.testing import CliRunner; from converter.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "assert CliRunner().invoke(app, ['convert', '--help']).exit_code == 0",
    ],
)
def test_help_loads_no_framework_and_not_even_numpy(code: str) -> None:
    assert not loaded_by(code) & (FRAMEWORKS | {"numpy", "onnx", "onnx_ir", "onnxscript"})


@pytest.mark.parametrize(
    "code",
    [
        "import converter.pipeline, converter.surgery, converter.finish, converter.targets",
        "from converter import load, Cut, Model",
    ],
)
def test_the_stages_load_no_framework(code: str) -> None:
    assert not loaded_by(code) & FRAMEWORKS


def test_all_names_are_there() -> None:
    import converter

    for module in (converter, *map(_import, PUBLIC)):
        names = module.__all__
        assert len(set(names)) == len(names)
        assert all(hasattr(module, name) for name in names), module.__name__


PUBLIC = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "converter").rglob("*.py"))
    # Snippets are not imported but copied into the text of models.
    if path.name not in ("__main__.py", "__init__.py") and path.parent.name != "snippets"
]


def _import(name: str) -> object:
    import importlib

    return importlib.import_module(name)


def test_no_module_is_too_long() -> None:
    for path in (ROOT / "converter").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path
