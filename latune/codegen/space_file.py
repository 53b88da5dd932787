"""The form of a search-space file, and its mistakes in words."""

from __future__ import annotations

import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from latune.errors import SpaceError


def _text_or_integer(value: object) -> object:
    if type(value) not in (str, int):
        raise ValueError(f"expected text or an integer, got {value!r}; quote it if text is meant")
    return value


_LARGEST_POWER = 2**20

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Value = Annotated[str | int, BeforeValidator(_text_or_integer)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ParameterEntry(_Strict):
    """One parameter: its values in full, or the powers of two from the first to the last of two numbers."""

    kind: Literal["algorithm", "choice", "constexpr", "launch"]
    about: Text
    values: Annotated[list[Value], Field(min_length=1)] | None = None
    powers_of_two: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    when: Text | None = None

    @model_validator(mode="after")
    def _one_list_of_one_type(self) -> ParameterEntry:
        if (self.values is None) == (self.powers_of_two is None):
            raise ValueError("expected either values or powers_of_two; give exactly one of them")
        if self.powers_of_two is not None:
            _check_powers(*self.powers_of_two)
        expected = int if self.numeric else str
        wrong = [value for value in self.listed() if type(value) is not expected]
        if wrong:
            raise ValueError(f"expected {'integers' if self.numeric else 'text'} for kind {self.kind}, got {wrong[0]!r}")
        _check_order(self.listed(), self.numeric)
        return self

    @property
    def numeric(self) -> bool:
        return self.kind in ("constexpr", "launch")

    def listed(self) -> tuple[str | int, ...]:
        if self.powers_of_two is None:
            return tuple(self.values or ())
        first, last = self.powers_of_two
        return tuple(1 << exponent for exponent in range(first.bit_length() - 1, last.bit_length()))


def _check_powers(first: int, last: int) -> None:
    if first < 1 or first & (first - 1) or last & (last - 1) or not first <= last <= _LARGEST_POWER:
        raise ValueError(
            "expected powers_of_two: [first, last], two powers of two in ascending order "
            f"of at most {_LARGEST_POWER}, got {reprlib.repr([first, last])}"
        )


def _check_order(values: tuple[Any, ...], numeric: bool) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"expected each value once, got {list(values)}")
    if numeric and list(values) != sorted(values):
        raise ValueError(f"expected numbers in ascending order, got {list(values)}")


class ConstraintEntry(_Strict):
    """What must hold, why (the message users see), and for which configs."""

    require: Text
    why: Text
    when: Text | None = None


class SpaceFile(_Strict):
    """A whole file."""

    kernel: Text
    parameters: Annotated[dict[str, ParameterEntry], Field(min_length=1)]
    constraints: list[ConstraintEntry] = []
    default: dict[str, Value]
    starts: list[dict[str, Value]] = []


# libyaml's takes a fifteenth of the time; PyYAML may have been built without it.
class _UniqueKeyLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):
    """YAML that refuses a key given twice, where PyYAML would keep the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_space_file(path: Path) -> SpaceFile:
    """The file's content, checked against the form.

    Raises:
        SpaceError: it cannot be read, is no YAML, or strays from the form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpaceError(f"{path}: cannot read the search space: {error.strerror}; give the path of a YAML file") from error
    except ValueError as error:
        raise _no_yaml(path, error) from error
    return parse_space_file(text, path)


def parse_space_file(text: str, path: Path) -> SpaceFile:
    """As ``read_space_file``, from the text of a space that ``path`` holds.

    Raises:
        SpaceError: it is no YAML, or strays from the form.
    """
    try:
        content = yaml.load(text, _UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _no_yaml(path, error) from error
    if not isinstance(content, dict):
        keys = ", ".join(SpaceFile.model_fields)
        raise SpaceError(f"{path}: expected a mapping with the keys {keys}, got {type(content).__name__}; write those keys")
    try:
        return SpaceFile.model_validate(content)
    except ValidationError as error:
        raise SpaceError(f"{path}: {_sentence(error.errors()[0])}{_others(error.error_count())}") from error


def _no_yaml(path: Path, error: Exception) -> SpaceError:
    return SpaceError(f"{path}: expected YAML in UTF-8, got: {' '.join(str(error).split())}; mend its syntax")


def _sentence(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of {', '.join(_fields_beside(error['loc']))}"
    if error["type"] == "missing":
        return f"{key}: missing; add it"
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}; mend this value"


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    form = {"parameters": ParameterEntry, "constraints": ConstraintEntry}.get(str(location[0]), SpaceFile)
    return list(form.model_fields)


def _others(count: int) -> str:
    return f" (and {count - 1} more to mend)" if count > 1 else ""
