"""Read JSON that may be damaged or hostile; every complaint names the file and the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pyferrum_kv.errors import BundleCorrupt

MAX_COUNT = 2**31 - 1
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")


def parse_json(raw: bytes, file: str) -> Fields:
    """Parse a JSON object; duplicate keys, NaN and nesting without end are refused."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"field {twice[:80]!r} is given twice")
        return result

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is no number")

    try:
        value = json.loads(raw, object_pairs_hook=no_duplicates, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{file}: not readable as JSON: {error}") from None
    return Fields(value, file, "")


class Fields:
    """One JSON object; each getter checks the field it returns. Unknown fields are left alone."""

    def __init__(self, value: Any, file: str, path: str) -> None:
        self.file, self.path = file, path
        if not isinstance(value, dict):
            raise self._corrupt(path or "the whole", value, "an object")
        self.value: dict[str, Any] = value

    def text(self, name: str, *, pattern: str = r".{0,1000}", wanted: str = "a string") -> str:
        value = self._get(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
            raise self.wrong(name, value, wanted)
        return value

    def sha256(self, name: str) -> str:
        return self.text(name, pattern=r"[0-9a-f]{64}", wanted="64 lower-case hex digits")

    def version(self, name: str) -> tuple[int, int]:
        found = _VERSION.fullmatch(self.text(name, wanted='"major.minor"'))
        if found is None:
            raise self.wrong(name, "malformed", '"major.minor"')
        return int(found[1]), int(found[2])

    def count(self, name: str) -> int:
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
            raise self.wrong(name, value, f"an integer from 0 to {MAX_COUNT}")
        return value

    def optional_count(self, name: str) -> int | None:
        return None if self.value.get(name) is None else self.count(name)

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def counts(self, name: str, length: int) -> tuple[int, ...]:
        values = self._list(name)
        if len(values) != length or not all(
            isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= MAX_COUNT for v in values
        ):
            raise self.wrong(name, values, f"{length} integers from 0 to {MAX_COUNT}")
        return tuple(values)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._list(name)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, values, "a list of strings")
        return tuple(values)

    def list_of_fields(self, name: str) -> Iterator[Fields]:
        for index, value in enumerate(self._list(name)):
            yield Fields(value, self.file, f"{self._path(name)}[{index}]")

    def fields(self, name: str) -> Fields:
        return Fields(self._get(name), self.file, self._path(name))

    def wrong(self, name: str, value: object, wanted: str) -> BundleCorrupt:
        return self._corrupt(self._path(name), value, wanted)

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self.wrong(name, value, "a list")
        return value

    def _get(self, name: str) -> Any:
        if name not in self.value:
            raise BundleCorrupt(f"{self.file}: {self._path(name)} is missing")
        return self.value[name]

    def _path(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _corrupt(self, path: str, value: object, wanted: str) -> BundleCorrupt:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return BundleCorrupt(f"{self.file}: {path} is {shown}; wanted {wanted}")
