"""A thousand layers, YAML texts and templates of each kind that are made to do harm: small ones that want much memory, time or disk.

They are drawn from a seed and read in a process with limits of its own: it must answer each with an error or with a result that is in
proportion, and end by itself.
"""

from __future__ import annotations

import collections
import functools
import gzip
import json
import os
import random
import resource
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from harness import process, templates, untrusted
from harness.build import discover, layers
from harness.build.declared_images import RootfsFile
from harness.clusterfile.parse import image_hooks
from harness.errors import SlipwayError
from harness.oci.layer import compression, unpack
from harness.oci.model import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor
from harness.oci.store import Store
from harness.templates import jinja as templates_jinja
from harness.templates.job import Job
from harness.trust.sbom.files import Inventory

COUNT, FEW = 1000, 200
"""Inputs of each sort that are tried every night, and in each run of the ring."""
SEED = 20
RESIDENT = 300 << 20
"""Bytes of memory that reading all of them may take."""
ADDRESSES = 1 << 30
"""Bytes of address space; threads and libraries take some of it without using it."""
SECONDS = 1800
"""Of processor time, for all of them; the first that does not end uses them up."""
ALL_OUTPUT = 200 << 20


# Layers


def header(name: str, kind: bytes, size: int = 0, *, mode: int = 0o644, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, size, mode, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def content(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    body = b""
    for key, value in records.items():
        record = b" %b=%b\n" % (key.replace("_", ".").encode(), value.encode())
        length = len(record) + 1
        while len(b"%d" % length) + len(record) != length:
            length += 1
        body += b"%d%b" % (length, record)
    return header("pax", tarfile.XHDTYPE, len(body)) + content(body)


def long_header(chance: random.Random) -> bytes:
    kind = chance.choice([tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.SOLARIS_XHDTYPE])
    size = chance.choice([(1 << 20) + 1, 8 << 20, 1 << 33])
    return header("long", kind, size) + bytes(min(size, 8 << 20))


def sparse(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize=str(1 << 40)) + header("s", tarfile.REGTYPE)
    block = bytearray(header("s", tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"%011o\0" % (1 << 32)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(block)


def many(chance: random.Random) -> bytes:
    count = chance.choice([100, 300])
    kind = chance.choice([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
    return b"".join(header(f"{number}", kind, link="x") for number in range(count))


def zeros(chance: random.Random) -> bytes:
    size = chance.choice([1 << 20, 16 << 20])
    return header("zeros", tarfile.REGTYPE, chance.choice([size, 1 << 40])) + bytes(size)


def repeated_headers(chance: random.Random) -> bytes:
    return pax(**{f"k{number}": "x" * 1000 for number in range(100)}) * chance.randint(2, 100) + header("x", tarfile.REGTYPE)


def deep(chance: random.Random) -> bytes:
    path = "a/" * chance.choice([200, 1000, 100_000]) + "b"
    return pax(path=path) + header("x", tarfile.REGTYPE)


def removals(chance: random.Random) -> bytes:
    files = b"".join(header(f"d/{number}", tarfile.REGTYPE) for number in range(100))
    return (files + header("d/.wh..wh..opq", tarfile.REGTYPE) * 100 + header(".wh.d", tarfile.REGTYPE)) * chance.randint(1, 3)


def links(chance: random.Random) -> bytes:
    names = [f"l{number}" for number in range(60)]
    target = chance.choice(["{}/{}", "{}/../{}", "../{}", "/{}", "{}"])
    made = [header(name, tarfile.SYMTYPE, link=target.format(*chance.choices(names, k=2))[:100]) for name in names]
    return b"".join(made) + header(f"{chance.choice(names)}/etc", tarfile.DIRTYPE, mode=0o777) + header("x", tarfile.LNKTYPE, link="l1")


def modes(chance: random.Random) -> bytes:
    swap = [header("d/e", tarfile.DIRTYPE, mode=0o6777), header("d", tarfile.SYMTYPE, link=chance.choice(["/tmp", "..", "e"]))]
    return b"".join(swap * chance.randint(1, 3))


def damaged(chance: random.Random) -> bytes:
    data = bytearray(b"".join(header(f"{number}", tarfile.REGTYPE) for number in range(39)) + bytes(1024))
    for _ in range(chance.randint(1, 40)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))])


LAYERS: list[Callable[[random.Random], bytes]] = [
    *(long_header, sparse, many, zeros, repeated_headers, deep, removals, links, modes, damaged),
]


def read_layers(count: int) -> Iterator[str]:
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(count):
            tar = chance.choice(LAYERS)(chance) + bytes(1024)
            media_type = chance.choice([OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
            packed = {OCI_LAYER: bytes, OCI_LAYER_GZIP: lambda data: gzip.compress(data, 1), OCI_LAYER_ZSTD: zstandard.compress}
            folder = Path(tempfile.mkdtemp(dir=scratch))
            store = Store(folder / "store")
            layer = Descriptor(media_type, *store.put(packed[media_type](tar)))
            yield outcome(functools.partial(unpack, store, [layer], folder / "tree"))
            yield outcome(functools.partial(Inventory(store).files, [layer]))
            written = sum(path.lstat().st_size for path in (folder / "tree").rglob("*") if path.is_file() and not path.is_symlink())
            assert written <= len(tar), f"layer {number} makes more of itself on the disk"
            shutil.rmtree(folder, ignore_errors=True)


# YAML


def doubled(chance: random.Random) -> str:
    levels, times = chance.randint(3, 30), chance.randint(2, 12)
    if chance.random() < 0.5:
        inner = [", ".join([f"*a{n}"] * times) for n in range(levels)]
        return "\n".join(["a0: &a0 [x]", *(f"a{n + 1}: &a{n + 1} [{text}]" for n, text in enumerate(inner))])
    inner = [", ".join(f"k{index}: *a{n}" for index in range(times)) for n in range(levels)]
    return "\n".join(["a0: &a0 {}", *(f"a{n + 1}: &a{n + 1} {{{text}}}" for n, text in enumerate(inner))])


def merged(chance: random.Random) -> str:
    levels = chance.randint(3, 40)
    return "\n".join(["m0: &m0 {image: x}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, levels))])


def nested(chance: random.Random) -> str:
    depth = chance.choice([90, 101, 500, 5_000, 100_000])
    return chance.choice(["[" * depth, "[" * depth + "]" * depth, "{a: " * depth + "}" * depth, "- " * depth, "? " * depth])


def nested_by_aliases(chance: random.Random) -> str:
    depth = chance.randint(20, 99)
    lines = [f"a0: &a0 {'[' * depth}{']' * depth}"]
    return "\n".join([*lines, *(f"a{n}: &a{n} {'[' * depth}*a{n - 1}{']' * depth}" for n in range(1, chance.randint(2, 60)))])


def circle(chance: random.Random) -> str:
    return chance.choice(["a: &a [*a]", "a: &a {<<: *a}", "a: &a {b: &b {<<: [*a, *a]}, c: *b}", "&a : *a", "a: &a {? *a : *a}"])


def wide(chance: random.Random) -> str:
    # One in five is beyond what is read; the others are quick.
    part = chance.choice([1, 20, 20, 20, 20])
    texts = [
        ("[", ",", 300_000, "]"),
        ("[", "1,", 150_000, "]"),
        ("", "- a\n", 250_000, ""),
        ("", "a", 3_000_000, ""),
        ('"', "\\x41", 500_000, '"'),
    ]
    before, piece, count, after = chance.choice(texts)
    return f"{before}{piece * (count // part)}{after}"


def odd(chance: random.Random) -> str:
    values = [
        "!!python/object:os.system x",
        "!!binary =",
        "2001-99-99",
        "0x" + "f" * 5000,
        "1e999999",
        "!!int x",
        "\x00",
        "%YAML 9.9\n---\na",
        "\t",
    ]
    return "a: " + chance.choice(values)


def mangled(chance: random.Random) -> str:
    text = list(chance.choice([doubled, merged, circle])(chance)[:3000])
    for _ in range(20):
        text[chance.randrange(len(text))] = chance.choice("&*[]{}:,-?!|>'\"%@`\n \t#a\u2028\ufeff")
    return "".join(text)


TEXTS: list[Callable[[random.Random], str]] = [doubled, merged, nested, nested_by_aliases, circle, wide, odd, mangled]


def read_texts(count: int) -> Iterator[str]:
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "a.yaml")
        for _ in range(count):
            text = chance.choice(TEXTS)(chance)
            place.write_text(text)
            yield outcome(functools.partial(untrusted.yaml_documents, text, what="hostile"))
            yield outcome(functools.partial(layers.semantic_digest, text.encode()))
            yield outcome(functools.partial(discover.discover, [RootfsFile("manifests/a.yaml", place, "a.yaml")]))
            yield outcome(functools.partial(image_hooks, {"plugins/a.yaml": text.encode()}))


# Templates


def jinja(chance: random.Random) -> str:
    big = chance.choice([100, 10**5, 10**10])
    value = chance.choice(["'x'", "[1]", "(1, 2)", "7", "1e999", "Port", "None1", "range(9)", "{}"])
    return chance.choice([
        f"{{{{ {value} * {big} }}}}", f"{{{{ {value} ** {big} }}}}", f"{{{{ {value} % {big} }}}}", f"{{{{ {value} / 0 }}}}",
        f"{{{{ {value} | center({big}) }}}}", f"{{{{ {value} | indent({big}) }}}}", f"{{{{ {value} | quote | length * {big} }}}}",
        f"{{{{ '%{big}d' % {value} }}}}", f"{{{{ '{{:>{big}}}'.format({value}) }}}}", f"{{{{ {value}.zfill({big}) }}}}",
        f"{{% for a in range({big}) %}}{{% for b in range({big}) %}}{{% endfor %}}{{% endfor %}}",
        f"{{% for a in range({big}) %}}{{{{ 'x' * 1000 }}}}{{% endfor %}}",
        f"{{% set n = namespace(x='ab') %}}{{% for i in range({min(big, 60)}) %}}{{% set n.x = n.x ~ n.x %}}{{% endfor %}}",
        f"{{{{ {value} | batch({big}, 'x') | list | length }}}}", f"{{{{ {value} | slice({min(big, 10**5)}) | list | length }}}}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ " + "(" * chance.choice([50, 5_000]), "{{ " + "-" * 20_000 + "1 }}",
        "{% if x %}" * chance.choice([10, 3_000]), "{{ " + "a." * 5_000 + "b }}", "{{/*" * 10_000, "{{ ''.__class__ }}", "{{ '\\ud800' }}",
    ])  # fmt: skip


def go(chance: random.Random) -> str:
    times = chance.choice([10, 1_000, 20_000])
    function = chance.choice(["quote", "b64enc", "squote", "upper", "indent 999", "nindent 1000", "indent 99999999999", "b64dec", "trim"])
    return chance.choice([
        "{{ .Port" + f" | {function}" * times + " }}", "{{/*" * times, "{{/* */" * times, '{{"\\"' * times, "{{ `" * times,
        "{{" + "(" * times + ".Port" + ")" * times + "}}", "{{ if .Port }}" * times, "{{ end }}" * times, "{{ else if .Port }}" * times,
        f"{{{{ {function} }}}}" * times, "{{ .None1 }}" * times, "{{ .Long }}" * times, "{{ eq" + " .Long" * times + " }}",
        "{{ `" + "\n" * times + "` | indent 1000 }}", "{{-" + " " * times + "-}}" * 3, "{{ " * times, "}}" * times, "{{ .a & }}" * times,
    ])  # fmt: skip


def plain(chance: random.Random) -> str:
    times = chance.choice([1_000, 30_000])
    return chance.choice(["{{ a }}", "{{ A }}", "{{ Port }}", "{{ Long }}", "{{ ", "{{a", "{{{", "{{\t\t\t"]) * times


def read_templates(count: int) -> Iterator[str]:
    chance = random.Random(SEED)
    env = {"Port": '8443\\"', "Long": "x" * 100_000}
    for language, draw in (("etc/a", plain), ("a.tmpl", go), ("a.j2", jinja)):
        jobs = [Job(draw(chance), env, language) for _ in range(count)]
        for start in range(0, count, 50):
            for job, rendered in zip(jobs[start : start + 50], templates.render_all(jobs[start : start + 50]), strict=True):
                assert len(rendered) <= templates_jinja.limit(job.text), "it renders to more than it may"
                assert isinstance(rendered, str) or all(fault.where.startswith(f"{language}:") for fault in rendered)
                yield "result" if isinstance(rendered, str) else "error"


# The process that reads them


def outcome(read: Callable[[], object]) -> str:
    """``result`` or ``error``: whatever else a reader raises ends the process."""
    try:
        read()
    except SlipwayError:
        return "error"
    return "result"


KINDS: dict[str, Callable[[int], Iterator[str]]] = {"layers": read_layers, "texts": read_texts, "templates": read_templates}


def main(kind: str, count: int) -> None:
    """Read all of a kind within limits; print how many ended how, and the most memory that this and the processes below it took."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (ALL_OUTPUT, ALL_OUTPUT))
    # A second is enough for a template to show that it does not end.
    templates_jinja.SECONDS = 1
    os.fsync = lambda _: None  # type: ignore[assignment]
    compression.SLACK = 8 << 20
    counted = collections.Counter(KINDS[kind](count))
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) << 10
    json.dump({"counted": counted, "resident": most}, sys.stdout)


@pytest.mark.parametrize("count", [FEW, pytest.param(COUNT, marks=pytest.mark.long)])
@pytest.mark.parametrize(("kind", "readings"), [("layers", 2), ("texts", 4), ("templates", 3)])
def test_readers_generated_bombs_end_in_error_or_bounded_result(kind: str, readings: int, count: int) -> None:
    program = f"from tests.hostile.test_bombs import main; main({kind!r}, {count})"
    answer = process.run([sys.executable, "-c", program], timeout=2 * SECONDS)
    found = json.loads(answer.stdout.splitlines()[-1])
    assert sum(found["counted"].values()) == readings * count
    assert set(found["counted"]) == {"error", "result"}, "some are harmless, some are refused"
    assert found["resident"] <= RESIDENT
