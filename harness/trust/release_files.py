"""Files of a release beside the wheel and the sdist of slipway itself: a bill of materials (CycloneDX), and a signature of each file.

``python -m harness.trust.release_files FOLDER LOCK [KEY]``, called by the session ``package``. A signature is that of ``cosign sign-blob``:
``FILE.sig`` holds base64 of an ECDSA signature with SHA-256. ``cosign verify-blob`` and ``openssl dgst -verify`` check it.
"""

from __future__ import annotations

import base64
import email
import json
import os
import re
import sys
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.trust.keys import PrivateKey, read_private
from harness.trust.sbom.package_url import purl

PASSWORD = "SLIPWAY_KEY_PASSWORD"  # noqa: S105 -- the variable that holds it

_PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))? \\")
_VIA = re.compile(r"    #(?: via)?\s+([A-Za-z0-9._-]+)")


def main(words: Sequence[str]) -> None:
    """Write ``NAME-VERSION.cdx.json`` into the folder of a wheel, and with a key a signature of every file in it."""
    folder, lock, *key = (Path(word) for word in words)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise UsageError(f"{folder} holds {len(wheels)} wheels, and not one", hint="./nox -s package builds it")
    about = metadata(wheels[0])
    document = bill(about["name"], about["version"], about["requires"], lock.read_text())
    (folder / f"{about['name']}-{about['version']}.cdx.json").write_text(json.dumps(document, indent=2) + "\n")
    for path in key:
        pair = read_private(path, lambda _: os.environ.get(PASSWORD, ""))
        for file in sorted(file for file in folder.iterdir() if file.suffix != ".sig"):
            sign(file, pair)


def metadata(wheel: Path) -> dict[str, Any]:
    """``{"name", "version", "requires": [names]}`` of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        read = email.message_from_bytes(archive.read(name))
    requires = [normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in read.get_all("Requires-Dist", [])]
    return {"name": normal(read["Name"]), "version": read["Version"], "requires": requires}


def normal(name: str) -> str:
    """The spelling of a name that all its spellings share."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> tuple[dict[str, str], dict[str, set[str]], set[str]]:
    """Of a lock file: versions by name, what each needs by name, and those that only some systems need."""
    versions: dict[str, str] = {}
    needs: dict[str, set[str]] = {}
    some: set[str] = set()
    name = ""
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            name = normal(pin[1])
            versions[name] = pin[2]
            some |= {name} if pin[3] else set()
        elif via := _VIA.match(line):
            needs.setdefault(normal(via[1]), set()).add(name)
    return versions, needs, some


def bill(name: str, version: str, requires: Iterable[str], lock: str) -> dict[str, Any]:
    """The document: what the distribution needs where it runs, in the versions with which it was tested. The same lock, the same bytes.

    Raises UsageError for a requirement that the lock does not have.
    """
    versions, needs, some = pins(lock)
    first = sorted(set(requires))
    if absent := [one for one in first if one not in versions]:
        raise UsageError(f"the lock lacks {', '.join(absent)}")
    reached: dict[str, list[str]] = {}
    waiting = list(first)
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached[one] = sorted(needs.get(one, ()))
            waiting += reached[one]
    main_ref = purl("pypi", "", name, version)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, main_ref + lock)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": main_ref, "name": name, "version": version, "purl": main_ref}},
        "components": [_component(one, versions[one], optional=one in some) for one in sorted(reached)],
        "dependencies": [
            {"ref": main_ref, "dependsOn": [_ref(one, versions) for one in first]},
            *({"ref": _ref(one, versions), "dependsOn": [_ref(other, versions) for other in reached[one]]} for one in sorted(reached)),
        ],
    }


def _ref(name: str, versions: Mapping[str, str]) -> str:
    return purl("pypi", "", name, versions[name])


def _component(name: str, version: str, *, optional: bool) -> dict[str, Any]:
    ref = purl("pypi", "", name, version)
    scope = "optional" if optional else "required"
    return {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref, "scope": scope}


def sign(file: Path, key: PrivateKey) -> Path:
    """Write ``FILE.sig``; its path."""
    signature = file.with_name(f"{file.name}.sig")
    signature.write_bytes(base64.b64encode(key.sign(file.read_bytes())) + b"\n")
    return signature


if __name__ == "__main__":
    main(sys.argv[1:])
