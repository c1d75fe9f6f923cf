"""docker-compose.yml as a program reads it: variables put in, services by name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\$|\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


class MissingVariableError(Exception):
    """A variable that must be set; its message is what the file says."""


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A value with `${NAME}`, `${NAME:-default}` and `${NAME:?complaint}` put in, and `$$` as `$`."""

    def put_in(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if name is None:
            return "$"
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise MissingVariableError(f"{name}: {rest}")
        return rest or ""

    if isinstance(value, dict):
        return {key: interpolated(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, variables) for inner in value]
    return _VARIABLE.sub(put_in, value) if isinstance(value, str) else value


NEEDED = {"FACEMARGIN_BUNDLE": "/path/to/bundle", "FACEMARGIN_DETECTOR": "/path/to/yunet_n_dynamic.onnx"}


def read(**variables: str) -> dict[str, Any]:
    """The file, with the variables that it needs and others."""
    return dict(interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), NEEDED | variables))


def started(services: Mapping[str, Any], profiles: Iterable[str], targets: Iterable[str] = ()) -> set[str]:
    """What `docker compose --profile … up TARGETS` starts; a target brings its own profile."""
    active = {*profiles, *(name for target in targets for name in services[target].get("profiles", ()))}
    enabled = {
        name for name, service in services.items() if not service.get("profiles") or active & {*service["profiles"]}
    }
    waiting = list(targets) or list(enabled)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        assert name in enabled, f"{name} is needed and not enabled"
        if name not in found:
            found.add(name)
            waiting += services[name].get("depends_on", ())
    return found
