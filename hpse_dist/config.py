"""Recipes: YAML plus dotted overrides become frozen dataclasses, and nothing else does.

A component is a frozen dataclass; a string under a field documents it. YAML holds differences from
the defaults. An unknown key, a wrong type or an impossible value is a `ConfigError` that says
where, what was found, what is allowed, and which known key is nearest.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from hpse_dist.safety import one_line

T = TypeVar("T")
MAX_BYTES = 1 << 20  # a recipe is a page of text; more is a mistake or an attack
_MOST_SHOWN = 200  # letters of a wrong value in an error


NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
"""What may become a folder's name."""


class ConfigError(ValueError):
    """A recipe that cannot be built; the message is one sentence for the user."""


@dataclass(frozen=True)
class Choice:
    """Marks a field whose YAML `{name: x, ...}` is built by the class that a table has under x."""

    table: Mapping[str, type]


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (they can explode) and with duplicate keys refused."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        _refuse_twice([key for key in keys if isinstance(key, Hashable)], node)
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 2026-11-21 for a date, and 2026_11_21, 0777 and 1:30 for other numbers than are
# written: these stay text, which is a run's name and of which a key that needs a number reads it
_NUMBERS = {
    "int": r"[-+]?(0|[1-9]\d*)$",
    "float": r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]\d+)?|\.inf|\.nan)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [one for one in found if one[0].rpartition(":")[2] not in (*_NUMBERS, "timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(_pattern, re.ASCII), list("-+.0123456789")
    )


class _OpenCVLoader(yaml.BaseLoader):
    """What OpenCV's FileStorage writes: matrices as mappings, every number as the text it is."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _OPENCV_TAGS:
            raise yaml.YAMLError(f"tag {node.tag} is not allowed, line {node.start_mark.line + 1}")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _refuse_twice([key.value for key, _ in node.value if isinstance(key.value, str)], node)
        return super().construct_mapping(node, deep)


_OPENCV_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "opencv-matrix")}


def _refuse_twice(keys: list[Any], node: yaml.Node) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise yaml.YAMLError(f"key {twice[0]!r} stands twice, line {node.start_mark.line + 1}")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; no tags, no aliases, no duplicate keys, at most 1 MiB."""
    return _read(Path(path), "recipe", _Loader)


def read_opencv_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file of OpenCV's; a matrix is one of rows, cols, dt and data.

    Its scalars are texts: an unquoted 01 is no number, as names of cameras are none. As `read_yaml`
    in all else. OpenCV's own reader ends the process at some damaged files.
    """
    return _read(Path(path), "calibration", _OpenCVLoader)


def _read(path: Path, what: str, loader: type[yaml.SafeLoader | yaml.BaseLoader]) -> dict[str, Any]:
    if not path.is_file():
        here = "" if path.is_absolute() else f", looked for in {Path.cwd()}"
        raise ConfigError(f"{path}: no such {what} file{here}")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: over {MAX_BYTES} bytes, which no {what} is")
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("%YAML:"):  # OpenCV's first line, which is not YAML's
            text = text.partition("\n")[2]
        values = yaml.load(text, loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {one_line(str(error))}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a {what} is a mapping of keys, found {type(values).__name__}")
    return values


def load(cls: type[T], path: Path | str, overrides: Iterable[str] = ()) -> T:
    """The recipe in a YAML file with dotted overrides (`schedule.lr=3e-4`) applied."""
    return build(cls, override(read_yaml(path), overrides), where=str(path))


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with each `a.b=value` set; the value is read as YAML."""
    result = json.loads(json.dumps(values, default=str))
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"override {text!r}: write it as key=value, such as schedule.lr=3e-4")
        place = result
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"override {text!r}: {parent} is a value, not a section")
        try:
            place[last] = yaml.load(value, _Loader) if value.strip() else ""
        except yaml.YAMLError:
            raise ConfigError(f"override {text!r}: the value is not readable as YAML") from None
    return result


def build(cls: type[T], values: Any, *, where: str = "recipe") -> T:
    """A `cls` from plain values; `where` opens every error message."""
    return typing.cast(T, _dataclass(cls, values, where, ""))


def _dataclass(cls: type, values: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(values) and isinstance(values, cls):
        return values
    if values is None:
        values = {}
    hints = typing.get_type_hints(cls, include_extras=True)
    known = {field.name: field for field in dataclasses.fields(cls)}
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{_at(where, key)}: a section of keys is needed, found {_shown(values)}; allowed: "
            f"{', '.join(known)}"
        )
    for name in values:
        if name not in known:
            raise ConfigError(_unknown(where, key, str(name), list(known)))
    built = {}
    for name, field in known.items():
        if name in values:
            built[name] = _value(hints[name], values[name], where, f"{key}.{name}" if key else name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_at(where, key)}: key {name!r} is missing and has no default")
    try:
        return cls(**built)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{_at(where, key)}: {error}") from None


def _unknown(where: str, key: str, name: str, known: list[str], what: str = "key") -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{_at(where, key)}: unknown {what} {name!r}{hint}; allowed: {', '.join(known)}"


def _shown(value: Any) -> str:
    """A value as it is written in Python, cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _at(where: str, key: str) -> str:
    return f"{where}, {key}" if key else where


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type a field asks for, or a ConfigError."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *marks = typing.get_args(hint)
        choice = next((mark for mark in marks if isinstance(mark, Choice)), None)
        return _choice(choice, value, where, key) if choice else _value(base, value, where, key)
    if origin in (Union, types.UnionType):
        return _union(hint, value, where, key)
    if origin is Literal:
        return _literal(hint, value, where, key)
    if origin in (tuple, dict):
        return _container(hint, value, where, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, value, where, key)
    return _scalar(hint, value, where, key)


def _choice(choice: Choice, value: Any, where: str, key: str) -> Any:
    if type(value) in choice.table.values():
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConfigError(
            f"{_at(where, key)}: needs a 'name', one of {', '.join(choice.table)}; found "
            f"{_shown(value)}"
        )
    name = value["name"]
    if not isinstance(name, str) or name not in choice.table:
        raise ConfigError(
            _unknown(where, key, str(name), list(choice.table)).replace("key", "name")
        )
    rest = {k: v for k, v in value.items() if k != "name"}
    return _dataclass(choice.table[name], rest, where, key)


def _union(hint: Any, value: Any, where: str, key: str) -> Any:
    kinds = typing.get_args(hint)
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return _value(kind, value, where, key)
            except ConfigError as error:
                errors.append(str(error))
    raise ConfigError(errors[0])


def _literal(hint: Any, value: Any, where: str, key: str) -> Any:
    allowed = typing.get_args(hint)
    for option in allowed:
        if value == option and type(value) is type(option):
            return option
    names = ", ".join(map(str, allowed))
    raise ConfigError(f"{_at(where, key)}: found {_shown(value)}, allowed is one of: {names}")


def _container(hint: Any, value: Any, where: str, key: str) -> Any:
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{_at(where, key)}: a section of keys is needed, found {_shown(value)}"
            )
        return {str(k): _value(kinds[1], v, where, f"{key}.{k}") for k, v in value.items()}
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{_at(where, key)}: a list is needed, found {_shown(value)}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if len(value) != len(kinds):
        raise ConfigError(
            f"{_at(where, key)}: {len(kinds)} values are needed, found {_shown(value)}"
        )
    pairs = zip(kinds, value, strict=True)
    return tuple(_value(k, v, where, f"{key}[{i}]") for i, (k, v) in enumerate(pairs))


def _scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    """Numbers are read by the field's type: 3e-4 and 1_000 are text in YAML."""
    if hint is Any or hint is object:
        return value
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int and isinstance(value, int) and number:
        return value
    if hint in (int, float) and (number or isinstance(value, str)):
        try:
            read = float(value)
            if hint is float or read.is_integer():
                return hint(read)
        except (ValueError, OverflowError):
            pass  # falls to the one error below
    elif hint is str and number:
        return str(value)
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    raise ConfigError(f"{_at(where, key)}: found {_shown(value)}, needed is a {_name(hint)}")


def _name(hint: Any) -> str:
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def check_name(name: str) -> None:
    """ValueError for the name of a run, a study or a collection that cannot be its folder's."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"name must be letters, digits, '.', '_' or '-', found {name!r}")


def to_dict(config: Any) -> Any:
    """Plain values of a recipe, defaults included; `build` of them gives an equal recipe."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        hints = typing.get_type_hints(type(config), include_extras=True)
        return {
            field.name: _plain(hints[field.name], getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
    if isinstance(config, (tuple, list)):
        return [to_dict(item) for item in config]
    if isinstance(config, Mapping):
        return {key: to_dict(item) for key, item in config.items()}
    return str(config) if isinstance(config, Path) else config


def _plain(hint: Any, value: Any) -> Any:
    """A field's plain value; a Choice's keeps the name it was chosen by."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    for mark in marks:
        if isinstance(mark, Choice):
            name = next(name for name, kind in mark.table.items() if kind is type(value))
            return {"name": name, **to_dict(value)}
    return to_dict(value)


def dump(config: Any) -> str:
    """A recipe as YAML text, every default written out."""
    plain = config if isinstance(config, dict) else to_dict(config)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def digest(config: Any, ignore: tuple[str, ...] = ("machine",)) -> str:
    """sha256 of what decides a recipe's result; the top-level keys in `ignore` do not."""
    plain = {key: value for key, value in to_dict(config).items() if key not in ignore}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def flat(values: Any, ignore: tuple[str, ...] = (), key: str = "") -> dict[str, Any]:
    """Nested plain values by their dotted keys; the top-level keys in `ignore` left out."""
    if not isinstance(values, Mapping):
        return {key: values}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in ignore:
            found |= flat(value, key=f"{key}.{name}" if key else name)
    return found
