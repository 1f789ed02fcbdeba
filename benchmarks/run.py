"""Every benchmark of this folder; tables go to stdout and into benchmarks/README.md.

python benchmarks/run.py        (make bench)
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "keras_export.py",
    "torch_export.py",
    "handoff.py latency",
    "handoff.py peer",
    "onnx_cut.py",
    "onnx_cut.py --scaling",
    "fit.py",
    "precision.py",
    "startup.py",
)


def main() -> None:
    readme = HERE / "README.md"
    for script in SCRIPTS:
        print(f"{script}:", flush=True)
        lines = []
        name, *options = script.split()
        command = [sys.executable, str(HERE / name), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            sys.exit(f"{script} failed")
        marked = re.compile(rf"(<!-- {re.escape(script)} -->\n).*?(<!-- end -->)", re.DOTALL)
        before, after = marked.sub(r"\1\0\2", readme.read_text()).split("\0")
        readme.write_text(before + "".join(lines) + after)


if __name__ == "__main__":
    main()
