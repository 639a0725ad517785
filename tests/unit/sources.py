"""Source files as tests of the house read them: each is parsed once in a process."""

from __future__ import annotations

import ast
import functools
from pathlib import Path


@functools.cache
def tree(path: Path) -> ast.Module:
    """The parsed module. Not to be changed."""
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of the module, as ``ast.walk`` gives them."""
    return tuple(ast.walk(tree(path)))
