"""Sections of a configuration: immutable, checked, with errors that name the field, the rule and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from maskrcnn.errors import ConfigError, did_you_mean, printable

MOST_ERRORS = 10
LONGEST_VALUE = 200
"""Characters that an error repeats of a value or a key."""


class Fields(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values are checked, nothing mutates."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


FieldsT = TypeVar("FieldsT", bound=Fields)


def checked(section: type[FieldsT], values: Mapping[str, Any], where: str = "") -> FieldsT:
    """Return `section` built from plain values, turning validation errors into one `ConfigError`."""
    try:
        return section.model_validate(values)
    except ValidationError as e:
        errors = e.errors()
        told = [_readable(section, error, where) for error in errors[:MOST_ERRORS]]
        if len(errors) > MOST_ERRORS:
            told.append(f"And {len(errors) - MOST_ERRORS} more.")
        raise ConfigError("\n".join(told)) from None


def _readable(section: type[Fields], error: Any, where: str) -> str:
    path = [str(p) for p in error["loc"] if p not in ("resnet", "vgg")]
    dotted = where + printable(".".join(path), LONGEST_VALUE)
    if error["type"] == "extra_forbidden":
        known = _field_names(section, path[:-1])
        hint = did_you_mean(path[-1], known) or (f" Known are: {', '.join(known)}." if known else "")
        return f"Unknown configuration key {dotted!r}.{hint}"
    if error["type"] == "value_error":
        return f"{dotted + ': ' if dotted else ''}{error['ctx']['error']}."
    if error["type"] == "missing":
        return f"The configuration lacks {dotted!r}."
    rule = error["msg"].removeprefix("Input ").removesuffix(".").replace("a valid tuple", "a list")
    got = error["input"]
    return f"{dotted or 'The configuration'} {rule}; got {_short(got)}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _field_names(section: type[Fields], path: list[str]) -> list[str]:
    current: Any = section
    for name in path:
        annotation = current.model_fields[name].annotation if name in getattr(current, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            return []
        if len(models) > 1:
            return sorted({f for m in models for f in m.model_fields})
        current = models[0]
    return list(current.model_fields)


def set_dotted(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `values["a"]["b"]` for the key "a.b"; raise `ConfigError` for a path that is not there."""
    *parents, last = dotted.split(".")
    place: Any = values
    for i, name in enumerate(parents):
        if not isinstance(place, dict) or name not in place:
            known = list(place) if isinstance(place, dict) else []
            raise ConfigError(f"Unknown configuration key {'.'.join(parents[: i + 1])!r}.{did_you_mean(name, known)}")
        place = place[name]
    if not isinstance(place, dict) or (last not in place):
        if place is None:
            raise ConfigError(f"{dotted!r} cannot be set: {'.'.join(parents)} is None in this network.")
        known = list(place) if isinstance(place, dict) else []
        hint = did_you_mean(last, known)
        raise ConfigError(
            f"Unknown configuration key {dotted!r}.{hint}"
            + ("" if hint or not known else f" Known are: {', '.join(known)}.")
        )
    place[last] = value
