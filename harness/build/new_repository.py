"""A new repository of images: a Kubefile with its tests, the sessions that build, test and publish it, and workflows that run them.

Its files are those of ``harness/assets/repository``, with ``@NAME@`` and other marks replaced. Nothing of slipway is copied but ``nox``,
which installs slipway from its own repository, and the lock of the packages that it needs.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from importlib import metadata
from pathlib import Path

from harness import about, assets, untrusted
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host import durable

NAME = r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?"
"""Name of an image, and of a Service in it: at most 40 characters."""
WORKFLOW = ".github/workflows/images.yml"
REQUIREMENTS = "requirements.txt"

_FOLDER = assets.FOLDER / "repository"
_SHARED = {"nox": "nox", "nox.lock": "sessions.lock"}
"""Files of slipway's own repository that every other one gets, by their name there."""
_FILES = {
    "noxfile.py": "noxfile.py.in",
    REQUIREMENTS: "requirements.txt.in",
    ".gitignore": "gitignore.in",
    "README.md": "README.md.in",
    "kubefiles/@NAME@/Kubefile": "Kubefile.in",
    "kubefiles/@NAME@/README.md": "image_README.md.in",
    "kubefiles/@NAME@/manifests/@NAME@.yaml": "manifest.yaml.in",
    "kubefiles/@NAME@/test_@MODULE@.py": "test_image.py.in",
    "images/@NAME@/Dockerfile": "Dockerfile.in",
    WORKFLOW: "images.yml.in",
}
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._/-]*"
_GIT = re.compile(rf"git\+(?:https|ssh)://(?:git@)?(?P<place>[A-Za-z0-9._~/:-]+)@(?P<revision>{_REVISION})")
_WORKFLOWS = re.compile(rf"(?P<repository>[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)@(?P<revision>{_REVISION})")
_CALL = re.compile(r"(?P<before>\buses: )[\w./-]+/\.github/workflows/(?P<file>image|site)\.yml@\S+(?: #.*)?")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The slipway that a repository uses: ``source`` for pip, ``workflows`` as OWNER/REPOSITORY@REF; empty where none is known."""

    source: str
    workflows: str = ""

    @property
    def is_local(self) -> bool:
        """True for a path: only this machine can install that."""
        return self.source.startswith("file:")


@dataclasses.dataclass(frozen=True)
class NewRepository:
    folder: Path
    files: tuple[str, ...]
    """Paths of the files that were written."""
    origin: Origin


def origin(source: str | None, workflows: str | None) -> Origin:
    """The origin that the user names, by default the one that this slipway was installed from. Raises InputError and UsageError."""
    address = _source(source) if source else _installed()
    if address is None:
        raise UsageError(
            "it is not known where this slipway was installed from",
            hint="--source git+https://HOST/OWNER/REPOSITORY@COMMIT, or the folder of a checkout",
        )
    if workflows and not _WORKFLOWS.fullmatch(workflows):
        raise InputError([Fault(f"--workflows {workflows}", "is not OWNER/REPOSITORY@REF")])
    return Origin(address, workflows or _workflows(address))


def _source(text: str) -> str:
    if _GIT.fullmatch(text):
        return text
    if text.startswith("git+"):
        where = re.sub(r"//[^/@]*@", "//***@", text)
        hint = "git+https://HOST/OWNER/REPOSITORY@COMMIT, without a login; git finds that by itself"
        raise InputError([Fault(f"--source {where}", "is not the address of a repository and a revision of it", hint)])
    folder = Path(text.removeprefix("file://"))
    if not (folder / "pyproject.toml").is_file() or not (folder / "harness/sessions").is_dir():
        raise InputError([Fault(f"--source {text}", "is not a checkout of slipway", "git+https://HOST/OWNER/REPOSITORY@COMMIT")])
    return folder.resolve().as_uri()


def _installed() -> str | None:
    """The address that pip noted when it installed slipway (PEP 610); None for one from an index."""
    try:
        text = metadata.distribution(about.DISTRIBUTION).read_text("direct_url.json") or ""
        note = untrusted.json_object(text.encode(), what="direct_url.json")
        address, version = str(note["url"]), note.get("vcs_info")
        source = f"git+{address}@{version['commit_id']}" if version else address
    except (metadata.PackageNotFoundError, StoreError, KeyError, TypeError):
        return None
    is_folder = address.startswith("file:") and not version
    return source if is_folder or _GIT.fullmatch(source) else None


def _workflows(source: str) -> str:
    """The repository of a source as workflows name it; empty for one that is not OWNER/REPOSITORY of a host."""
    git = _GIT.fullmatch(source)
    path = git["place"].removesuffix(".git").split("/")[1:] if git else []
    name = f"{'/'.join(path)}@{git['revision']}" if git else ""
    return name if len(path) == 2 and _WORKFLOWS.fullmatch(name) else ""


def create(folder: Path, name: str, from_where: Origin) -> NewRepository:
    """Write a repository with one image into a folder that is empty or does not exist; all of it or nothing.

    Without ``workflows`` it has no workflow. Raises InputError, UsageError, and StoreError when the disk refuses.
    """
    if not re.fullmatch(NAME, name):
        raise InputError([Fault(name, "cannot be the name of an image and of its Service", "small letters, digits and -; at most 40")])
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UsageError(f"{folder} exists and is not an empty folder", hint="--to FOLDER names another")
    marks = {**_marks(from_where), "@NAME@": name, "@MODULE@": name.replace("-", "_")}
    texts = {
        _filled(path, marks): _filled(_text(asset), marks) for path, asset in _FILES.items() if from_where.workflows or path != WORKFLOW
    }
    if from_where.workflows:
        texts["README.md"] += f"\n{_text('README_github.md.in')}"
    texts |= {path: _shared(asset) for path, asset in _SHARED.items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".slipway-new-", dir=folder.parent) as part:
            made = Path(part, "repository")
            for path, text in texts.items():
                _write(made / path, text)
            made.rename(folder)
    except OSError as problem:
        raise _refused(folder, problem) from problem
    return NewRepository(folder, tuple(sorted(texts)), from_where)


def update(folder: Path, from_where: Origin) -> NewRepository:
    """Make a repository use this slipway: its requirement, its lock, ``nox``, and the workflows that it calls. Its own files stay.

    Raises UsageError for a folder that is not such a repository, and StoreError when the disk refuses.
    """
    if not (folder / REQUIREMENTS).is_file() or about.DISTRIBUTION not in (folder / REQUIREMENTS).read_text():
        raise UsageError(
            f"{folder} is not a repository of images: {REQUIREMENTS} does not name {about.DISTRIBUTION}", hint="slipway new NAME"
        )
    texts = {path: _shared(asset) for path, asset in _SHARED.items()}
    texts[REQUIREMENTS] = _filled(_text(_FILES[REQUIREMENTS]), _marks(from_where))
    for workflow in sorted((folder / ".github/workflows").glob("*.yml")) if from_where.workflows else ():
        repository, _, revision = from_where.workflows.partition("@")
        text = workflow.read_text()
        called = _CALL.sub(rf"\g<before>{repository}/.github/workflows/\g<file>.yml@{revision}", text)
        if called != text:
            texts[str(workflow.relative_to(folder))] = called
    changed = {path: text for path, text in texts.items() if not (folder / path).is_file() or (folder / path).read_text() != text}
    for path, text in changed.items():
        # In one move: a link in the repository of another author is replaced, not followed.
        durable.write(folder / path, text, mode=_mode(text))
    return NewRepository(folder, tuple(sorted(changed)), from_where)


def _marks(from_where: Origin) -> dict[str, str]:
    repository, _, revision = from_where.workflows.partition("@")
    return {"@SOURCE@": from_where.source, "@WORKFLOWS@": f"{repository}/.github/workflows", "@REF@": revision}


def _filled(text: str, marks: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, marks)), lambda mark: marks[mark[0]], text)


def _text(asset: str) -> str:
    return (_FOLDER / asset).read_text()


def _shared(name: str) -> str:
    """A file of slipway's own repository: of a checkout, or as the wheel carries it."""
    return next(path for path in (assets.FOLDER.parents[1] / name, _FOLDER / name) if path.is_file()).read_text()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(_mode(text))


def _mode(text: str) -> int:
    return 0o755 if text.startswith("#!") else 0o644


def _refused(folder: Path, problem: OSError) -> StoreError:
    return StoreError(f"{folder} cannot be written: {problem.strerror or problem}", hint=f"see ls -ld {folder.parent}")
