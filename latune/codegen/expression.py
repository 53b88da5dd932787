"""Expressions of search-space files: sandboxed Jinja over one problem, one GPU, one kernel and the values chosen so far."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import jinja2
from jinja2 import nodes
from jinja2.environment import TemplateExpression
from jinja2.sandbox import SandboxedEnvironment

from latune.errors import SpaceError
from latune.gpu import Gpu
from latune.plan import Kernel
from latune.problem import Problem, next_power_of_two, tile_width

_OBJECTS = {"problem": Problem, "gpu": Gpu, "kernel": Kernel}
_NUMBERS = ("D", "E", "PADDED_D", "PADDED_E", "dtype_bytes")
_FUNCTIONS = {
    "min": min,
    "max": max,
    "next_power_of_two": next_power_of_two,
    "cdiv": lambda value, divisor: -(-value // divisor),
}

CASE_NAMES = (*_OBJECTS, *_NUMBERS)
"""What every expression sees, besides parameters and functions."""

RESERVED_NAMES = frozenset((*CASE_NAMES, *_FUNCTIONS))
"""Names no parameter may take."""

_sandbox = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
_sandbox.globals = dict(_FUNCTIONS)
# Numbers need none; some are not even a function of their input.
_sandbox.filters, _sandbox.tests = {}, {}

# What arithmetic on the wrong thing, or on far too large a thing, raises.
_MISTAKES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def case_names(problem: Problem, gpu: Gpu, kernel: Kernel) -> dict[str, object]:
    """The values of ``CASE_NAMES``.

    D and E are the contracted and the output width as the kernel sees them, PADDED_D and PADDED_E the tiles that
    hold them whole.
    """
    d, e = kernel.dims(problem)
    return {
        "problem": problem,
        "gpu": gpu,
        "kernel": kernel,
        "D": d,
        "E": e,
        "PADDED_D": tile_width(d),
        "PADDED_E": tile_width(e),
        "dtype_bytes": problem.dtype_bytes,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A compiled expression.

    Attributes:
        text: as the file has it.
        origin: file and key, for messages.
        names: the names it reads, functions left out.
    """

    text: str
    origin: str
    names: frozenset[str]
    _compiled: TemplateExpression = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, *, origin: str, parameters: Collection[str]) -> Expression:
        """Compiles ``text``, which may read ``CASE_NAMES``, the functions and ``parameters``.

        Raises:
            SpaceError: it does not parse, or reads a name or an attribute that is not there.
        """
        try:
            compiled = _sandbox.compile_expression(text, undefined_to_none=False)
            tree = _sandbox.parse("{{ " + text + " }}")
        except _MISTAKES as error:
            raise SpaceError(f"{origin}: expected a Jinja expression, got {text!r}: {error}; mend its syntax") from error
        _check_names(tree, text, origin, parameters)
        read = {name.name for name in tree.find_all(nodes.Name)}
        return cls(text=text, origin=origin, names=frozenset(read - _FUNCTIONS.keys()), _compiled=compiled)

    def truth(self, names: Mapping[str, object]) -> bool:
        """Its value, which must be true or false.

        Raises:
            SpaceError: it cannot be evaluated, or gives another type.
        """
        value = self._value(names)
        if not isinstance(value, bool):
            raise SpaceError(f"{self.origin}: expected {self.text!r} to be true or false, got {value!r}; make it a comparison")
        return value

    def integer(self, names: Mapping[str, object]) -> int:
        """Its value, which must be an integer.

        Raises:
            SpaceError: it cannot be evaluated, or gives another type.
        """
        value = self._value(names)
        if type(value) is not int:
            raise SpaceError(f"{self.origin}: expected {self.text!r} to be an integer, got {value!r}; divide with // or cdiv")
        return value

    def _value(self, names: Mapping[str, object]) -> object:
        try:
            return self._compiled({name: names[name] for name in self.names if name in names})
        except _MISTAKES as error:
            raise SpaceError(f"{self.origin}: cannot evaluate {self.text!r}: {error}; mend the expression") from error

    def __str__(self) -> str:
        return self.text


def _check_names(tree: nodes.Template, text: str, origin: str, parameters: Collection[str]) -> None:
    known = RESERVED_NAMES.union(parameters)
    for name in tree.find_all(nodes.Name):
        if name.name not in known:
            raise SpaceError(f"{origin}: unknown name {name.name!r} in {text!r}; {_expected(name.name, known)}")
    for access in tree.find_all(nodes.Getattr):
        owner = _OBJECTS.get(access.node.name) if isinstance(access.node, nodes.Name) else None
        if owner and not hasattr(owner, access.attr):
            wrong = f"{access.node.name}.{access.attr}"
            public = [name for name in dir(owner) if not name.startswith("_")]
            raise SpaceError(f"{origin}: unknown name {wrong!r} in {text!r}; {_expected(access.attr, public)}")


def _expected(wrong: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"expected one of {', '.join(sorted(known))}{guess}"
