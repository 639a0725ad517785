"""Mutation of inputs: bytes, lines and tokens of any text, and values of JSON. The same seed gives the same inputs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

LARGEST = 64 << 10
"""Bytes of an input. What a bomb does shows at this size, within the limits of one input."""

_BYTES = tuple(bytes([value]) for value in (0, 9, 10, 13, 27, 32, 34, 39, 45, 46, 47, 58, 92, 123, 125, 127, 128, 255))
_WORDS = (
    *(b"..", b"../", b"/", b"//", b"~", b"~x", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"true", b"null", b"[]", b"{}", b"''", b'""'),
    *(
        "²".encode(),
        "\u202e".encode(),
        "\u2028".encode(),
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\x1b[31m",
        b"\r\n",
        b"\x00",
        b"%s",
        b"${A}",
        b"{{",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        2**63,
        10**400,
        "",
        "x",
        "²",
        "..",
        "../x",
        "/x",
        "\x00",
        "\x1b",
        "\ud800",
    ),
    *([], {}, [None], [[]], {"a": None}, "9" * 50, "x" * 300, "sha256:" + "0" * 64, "~x"),
)
_DEEPEST = 300


class Mutator:
    """Makes new inputs of old ones. ``tokens`` are words of the input's language."""

    def __init__(self, seed: int, tokens: Sequence[bytes] = ()) -> None:
        self.chance = random.Random(seed)
        self._words = (*_WORDS, *tokens, *tokens)

    def mutate(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """``data`` with one to eight things in it changed; ``others`` are inputs that parts are taken from."""
        made = data
        for _ in range(1 << self.chance.randint(0, 3)):
            made = self.chance.choice(_MUTATIONS)(self, made, others)
        return made[:LARGEST]

    def _place(self, data: bytes) -> int:
        return self.chance.randint(0, len(data))

    def _span(self, data: bytes) -> tuple[int, int]:
        begin = self._place(data)
        return begin, min(len(data), begin + self.chance.choice((1, 1, 2, 4, 16, 64, 512)))

    def flip(self, data: bytes, _: Sequence[bytes]) -> bytes:
        if not data:
            return data
        place = self.chance.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << self.chance.randrange(8)]) + data[place + 1 :]

    def insert(self, data: bytes, _: Sequence[bytes]) -> bytes:
        place = self._place(data)
        return data[:place] + self.chance.choice(_BYTES) + data[place:]

    def word(self, data: bytes, _: Sequence[bytes]) -> bytes:
        begin, end = self._span(data)
        return data[:begin] + self.chance.choice(self._words) + data[self.chance.choice((begin, end)) :]

    def remove(self, data: bytes, _: Sequence[bytes]) -> bytes:
        begin, end = self._span(data)
        return data[:begin] + data[end:]

    def repeat(self, data: bytes, _: Sequence[bytes]) -> bytes:
        begin, end = self._span(data)
        times = self.chance.choice((2, 2, 3, 10, 100, 1000, 20_000))
        return data[:begin] + (data[begin:end] * times)[:LARGEST] + data[end:]

    def splice(self, data: bytes, others: Sequence[bytes]) -> bytes:
        other = self.chance.choice(others) if others else data
        begin, end = self._span(other)
        place = self._place(data)
        return data[:place] + other[begin : self.chance.choice((end, len(other)))] + data[place:]

    def lines(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Lines moved, doubled, dropped, or taken from another input."""
        rows = data.split(b"\n")
        other = (self.chance.choice(others) if others else data).split(b"\n")
        place = self.chance.randrange(len(rows))
        row = self.chance.choice((rows[self.chance.randrange(len(rows))], self.chance.choice(other)))
        return b"\n".join([*rows[:place], row, *rows[place + self.chance.randint(0, 2) :]])

    def value(self, data: bytes, _: Sequence[bytes]) -> bytes:
        """One value of a JSON text replaced, wrapped, removed or given twice."""
        try:
            document = json.loads(data)
            places = list(_places(document))
        except (ValueError, RecursionError):
            return self.word(data, _)
        if not places:
            return json.dumps(self.chance.choice(_VALUES)).encode()
        holder, key = self.chance.choice(places)
        kind = self.chance.randrange(6)
        if kind < 3:
            holder[key] = self.chance.choice(_VALUES)
        elif kind == 3:
            del holder[key]
        elif kind == 4:
            inner = holder[key]
            for _level in range(self.chance.choice((1, 2, _DEEPEST))):
                inner = [inner]
            holder[key] = inner
        elif isinstance(holder, dict):
            other = self.chance.choice((str(key).upper(), f" {key}", "x", "manifests", "layers"))
            holder[other] = holder[key]
        else:
            holder.append(holder[key])
        return json.dumps(document).encode(errors="surrogatepass")


def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
    """Each place in a document that holds a value: the collection, and the key or index in it."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found: list[tuple[Any, Any]] = []
    for key in keys if depth < _DEEPEST else ():
        found.append((value, key))
        found += _places(value[key], depth + 1)
    return found


_MUTATIONS: tuple[Callable[[Mutator, bytes, Sequence[bytes]], bytes], ...] = (
    *(Mutator.flip, Mutator.insert, Mutator.word, Mutator.word, Mutator.remove, Mutator.repeat, Mutator.splice, Mutator.lines),
    *(Mutator.value, Mutator.value, Mutator.value),
)
