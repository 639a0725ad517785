"""Whatever is written, it is read or refused with faults; and what is read can be written, kept and compared."""

from __future__ import annotations

import random
import re

import pytest

from harness.clusterfile.diff import difference
from harness.clusterfile.parse import parse
from harness.clusterfile.write import redacted, write
from harness.errors import InputError

from .reading import CASES, CLUSTERFILES
from .test_write import EVERYTHING, SECRETS

JUNK = (
    *("~", "[]", "{}", "''", "5", "true", "a: b", "[a, {b: c}]", "*x", "&x", "|\n  x", "'", '"', "{{ X }}", "- ", "\t", "---\n", "<<: "),
    *("!!int x", "10.0.0.1-10.0.0.2", "x=y", "k=v:NoSchedule-", "PostInstall|PreInit", "\x00", "é", " #", "on: ", "null", "1e999", "? a"),
)


def damaged(text: str, chance: random.Random) -> str:
    """Some documents of a text, with one or two things in them replaced, doubled, moved or removed."""
    documents = text.split("\n---\n")
    text = "\n---\n".join(chance.sample(documents, min(len(documents), chance.randint(1, 2))))
    for _ in range(chance.randint(1, 2)):
        lines = text.split("\n")
        values = [match.span(1) for match in re.finditer(r"[:,\[{] ([^,\]}\n]*)", text)]
        kind = chance.random()
        if kind < 0.5 and values:
            begin, end = chance.choice(values)
            text = text[:begin] + chance.choice(JUNK) + text[end:]
        elif kind < 0.7:
            line = chance.randrange(len(lines))
            text = "\n".join([*lines[:line], *([lines[line]] * chance.choice((0, 2))), *lines[line + 1 :]])
        else:
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(JUNK) + text[place + chance.randint(0, 4) :]
    return text


@pytest.mark.parametrize("seed", range(4))
def test_parse_damaged_clusterfile_is_refused_with_line_or_round_trips(seed: int) -> None:
    chance = random.Random(seed)
    texts = [EVERYTHING, SECRETS, *((CASES / name).read_text() for name in CLUSTERFILES)]
    outcomes = set()
    places: list[str] = []
    for _ in range(100):
        text = damaged(chance.choice(texts), chance)
        try:
            found = parse(text, "F")
        except InputError as wrong:
            outcomes.add("refused")
            places += [fault.where for fault in wrong.faults]
            continue
        outcomes.add("read")
        again = parse(write(found), "F")
        assert parse(write(again), "F") == again, text
        assert difference(parse(redacted(found), "F"), found) == (), text
    assert outcomes == {"read", "refused"}
    assert [place for place in places if not re.fullmatch(r"F:\d+( [.\[].*)?", place)] == []
