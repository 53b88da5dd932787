"""How one kernel is generated and launched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Config:
    """One point of a search space.

    Attributes:
        algorithm: where a segment's starting state comes from; names the template.
        choices: template choices (structure of the source), sorted by name.
        constexprs: values of ``tl.constexpr`` parameters, sorted by name.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline over the loop's loads.
        options: further launch options as Triton spells them (``maxnreg``), sorted by name.
    """

    algorithm: str
    choices: tuple[tuple[str, str], ...] = ()
    constexprs: tuple[tuple[str, int], ...] = ()
    num_warps: int = 4
    num_stages: int = 2
    options: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(
        cls,
        algorithm: str,
        *,
        choices: Mapping[str, str] | None = None,
        constexprs: Mapping[str, int] | None = None,
        num_warps: int = 4,
        num_stages: int = 2,
        options: Mapping[str, int] | None = None,
    ) -> Config:
        """A config from mappings; the order of their keys does not matter."""
        return cls(
            algorithm=algorithm,
            choices=tuple(sorted((choices or {}).items())),
            constexprs=tuple(sorted((constexprs or {}).items())),
            num_warps=num_warps,
            num_stages=num_stages,
            options=tuple(sorted((options or {}).items())),
        )

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that depend on the values alone."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def values(self) -> dict[str, str | int]:
        """All values by name, flat: what constraints and templates see."""
        launch = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {"algorithm": self.algorithm, **dict(self.choices), **dict(self.constexprs), **launch, **dict(self.options)}

    def with_choices(self, **choices: str) -> Config:
        return replace(self, choices=tuple(sorted({**dict(self.choices), **choices}.items())))

    def with_constexprs(self, **constexprs: int) -> Config:
        return replace(self, constexprs=tuple(sorted({**dict(self.constexprs), **constexprs}.items())))

    def with_option(self, name: str, value: int) -> Config:
        return replace(self, options=tuple(sorted({**dict(self.options), name: value}.items())))

    def without_option(self, name: str) -> Config:
        return replace(self, options=tuple(option for option in self.options if option[0] != name))

    def to_json(self) -> dict[str, object]:
        return {
            "algorithm": self.algorithm,
            "choices": dict(self.choices),
            "constexprs": dict(self.constexprs),
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Config:
        """The inverse of ``to_json``.

        Raises:
            TypeError: a field is missing, unknown or of another type.
        """
        return cls.of(**fields)  # type: ignore[arg-type]

    def __str__(self) -> str:
        values = self.values()
        return " ".join([str(values.pop("algorithm")), *(f"{name}={value}" for name, value in values.items())])
