"""What is asked of every rendering, whatever it is of."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

LINE_LENGTH = 128


def write(texts: Iterable[str], folder: Path) -> Path:
    """Every rendering in a file of its own."""
    for number, text in enumerate(texts):
        (folder / f"module_{number}.py").write_text(text, encoding="utf-8")
    return folder


def body(text: str) -> str:
    """The text without the module's docstring, which names the problem and the plan."""
    _, _, rest = text.removeprefix('"""').partition('\n"""\n')
    return rest


def top_level(text: str) -> list[str]:
    """Its functions, and what stands between."""
    return body(text).split("\n\n\n")


def signature(chunk: str) -> ast.FunctionDef:
    """The function of a chunk, without its body: to parse those of all renderings would take half a minute."""
    head, end, _ = chunk.partition("):\n")
    return only_function(f"{head}{end}    pass\n")


def only_function(chunk: str) -> ast.FunctionDef:
    (function,) = (node for node in ast.parse(chunk).body if isinstance(node, ast.FunctionDef))
    return function


def check_formatted(folder: Path) -> None:
    _ruff("format", "--check", "--isolated", "--no-cache", "--line-length", str(LINE_LENGTH), folder)


def check_names(folder: Path) -> None:
    """None is undefined, or unused."""
    _ruff("check", "--isolated", "--no-cache", "--select", "E,F,I,W", "--ignore", "E501", folder)


def check_line_length(texts: Iterable[str]) -> None:
    assert max(len(line) for text in texts for line in body(text).splitlines()) <= LINE_LENGTH


def _ruff(*arguments: str | Path) -> None:
    finished = subprocess.run([sys.executable, "-m", "ruff", *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-4000:]
