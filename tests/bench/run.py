"""Runs benchmarks by name and writes what they measured: ``python -m tests.bench.run [--smoke] [NAME ...]``.

The benchmark ``one-node`` is the module ``one_node.py`` here with ``measure()``. It returns a mapping, or a list of them with the
one that counts first: ``ours`` and ``peer`` in ``unit``, and ``peer_name``; ``peer`` is None where the peer cannot run. Less is better.
With ``--smoke`` each is run at its smallest size, ``SMOKE``: it must work, on both sides, and its figures mean nothing.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "bench-results"
NEEDED = ("ours", "peer", "peer_name", "unit")

Measured = Mapping[str, Any]


def names(folder: Path = HERE) -> tuple[str, ...]:
    """The benchmarks that there are."""
    helpers = ("__init__", "run")
    return tuple(sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem not in helpers))


def select(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """``wanted``, or all of them. Raises ValueError with the nearest known names."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(f"no benchmark is called {', '.join(unknown)}; {hint}there are {', '.join(known)}")
    return tuple(wanted) or tuple(known)


def result(name: str, measured: Measured | Sequence[Measured]) -> dict[str, Any]:
    """What is written for one benchmark: the first measurement under the benchmark's name, the others in ``more``.

    Raises ValueError when a measurement lacks something.
    """
    rows = [measured] if isinstance(measured, Mapping) else list(measured)
    if not rows:
        raise ValueError(f"{name}: measured nothing")
    first, *more = [_row(name, row) for row in rows]
    return {**first, "name": name, **({"more": more} if more else {})}


def _row(name: str, measured: Measured) -> dict[str, Any]:
    missing = [key for key in NEEDED if key not in measured]
    if missing:
        raise ValueError(f"{name}: the measurement lacks {', '.join(missing)}")
    ours, peer = measured["ours"], measured["peer"]
    ratio = round(ours / peer, 3) if ours is not None and peer else None
    return {"name": name, **measured, "ratio": ratio}


def table(results: Iterable[Measured]) -> str:
    """All measurements as a Markdown table, the one that docs/benchmarks.md shows."""
    lines = ["| what | slipway | peer | ratio |", "|---|---|---|---|"]
    for one in results:
        for row in (one, *one.get("more", ())):
            peer = "not measured" if row["peer"] is None else f"{row['peer']} {row['unit']}"
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            lines.append(f"| {row['name']} | {row['ours']} {row['unit']} | {peer} ({row['peer_name']}) | {ratio} |")
    return "\n".join(lines)


def smoke(name: str) -> dict[str, Any]:
    """Run one benchmark at its smallest size; raises whatever it raises when one of the two sides does not do what it should."""
    module = importlib.import_module(f"tests.bench.{name.replace('-', '_')}")
    return result(name, module.measure(**module.SMOKE))


def main(arguments: Sequence[str]) -> int:
    smoking = "--smoke" in arguments
    try:
        wanted = select([word for word in arguments if word != "--smoke"], names())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if smoking:
        for name in wanted:
            print(f"- smoke of {name} ...", file=sys.stderr, flush=True)
            smoke(name)
        print(f"{len(wanted)} benchmarks work: {', '.join(wanted)}")
        return 0
    RESULTS.mkdir(exist_ok=True)
    results = []
    for name in wanted:
        print(f"- {name} ...", file=sys.stderr, flush=True)
        measure: Callable[[], Any] = importlib.import_module(f"tests.bench.{name.replace('-', '_')}").measure
        found = result(name, measure())
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        results.append(found)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
