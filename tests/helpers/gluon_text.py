"""Triton's and Gluon's text as Python on arrays of float64."""

from __future__ import annotations

import ast
import functools
from types import CodeType
from typing import Any

import numpy as np
from gluon_memory import Pointer
from renderings import top_level

CAST = "_cast"
"""Stands for the method ``to``, which arrays do not have."""

# The arithmetic is in float64: so are the states, and states in a tensor that is lent take as much of it as they need.
_WIDENED = {"torch.float32": "torch.float64", "4 * numel": "8 * numel"}


def plain(text: str) -> list[CodeType]:
    """The module's parts as code whose globals are to have what the text imports, and ``cast`` as ``CAST``."""
    return [_compiled(part) for part in top_level(text)]


@functools.cache
def _compiled(text: str) -> CodeType:
    """Once for all modules that a function is part of."""
    for narrow, wide in _WIDENED.items():
        text = text.replace(narrow, wide)
    return compile(_Plain().visit(ast.parse(text)), "<emulated>", "exec")


class _Plain(ast.NodeTransformer):
    """Triton as Python on arrays: no imports, casts by a function, and values that no augmented assignment changes."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            return _at(node, ast.Call(_at(node, ast.Name(CAST, ast.Load())), [node.func.value, *node.args], []))
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        assert isinstance(node.target, ast.Name)
        value = ast.BinOp(_at(node, ast.Name(node.target.id, ast.Load())), node.op, node.value)
        return _at(node, ast.Assign([node.target], _at(node, value)))


def _at(old: ast.AST, new: ast.AST) -> ast.AST:
    """In the old one's place; to look for places that are missing takes as long as all else."""
    return ast.copy_location(new, old)


def cast(value: Any, dtype: str) -> Any:
    """Values stay in float64, unless they become integers; pointers become those to fp32."""
    if isinstance(value, Pointer):
        return value.to_fp32()
    if dtype != "int32":
        return value
    return value.astype(int) if isinstance(value, np.ndarray) else int(value)
