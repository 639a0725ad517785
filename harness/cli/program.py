"""Verbs and groups of them: what every verb has, and parameters that are groups of options.

Every verb takes ``-q``, ``-v``, ``--timings`` and ``--version`` behind it, and old spellings of its options.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from harness import log
from harness.log import timings

_Verb = TypeVar("_Verb", bound=Callable[..., object])


class Options:
    """Base of a group of options: a frozen dataclass whose fields are annotated as the parameters of a verb are."""


@dataclasses.dataclass(frozen=True)
class Old:
    """Spellings of an option before the present one. They work for one more release, with a hint."""

    spellings: tuple[str, ...]

    def __init__(self, *spellings: str) -> None:
        object.__setattr__(self, "spellings", spellings)


class Alias(Old):
    """Spellings that other tools have for an option. They work without a hint."""


# Options of every verb


class VersionWanted(Exception):  # noqa: N818 -- it ends the command line well
    """``--version`` is given, before a verb or behind it."""


def _show_version(wanted: bool) -> None:
    if wanted:
        raise VersionWanted


@dataclasses.dataclass(frozen=True)
class Common(Options):
    """Options that stand before a verb or behind it."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every command and request.")] = False
    timings_file: Annotated[
        Path | None,
        typer.Option("--timings", metavar="FILE", help="Write a timeline of the command for trace viewers.", show_default=False),
    ] = None
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False

    def use(self, before: Common | None = None) -> None:
        """Set up messages and the timeline, together with the options that stood before the verb."""
        log.setup(quiet=self.quiet or bool(before and before.quiet), verbose=self.verbose or bool(before and before.verbose))
        if self.timings_file is not None:
            timings.record(self.timings_file)


class CommandEnded(Exception):  # noqa: N818 -- it ends the command line as that command ended
    """A command of the user's has ended; its exit code is that of the command line."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


_COMMON = "slipway.common"
_COMMAND = "slipway.command"
_OLD = "slipway.old"
_NAMES = tuple(field.name for field in dataclasses.fields(Common))
_FLAGS = frozenset(("-q", "--quiet", "-v", "--verbose", "-qv", "-vq"))


class Verb(TyperCommand):
    """A verb. It takes old spellings of its options."""

    renamed: Mapping[str, tuple[str, bool]] = {}
    """Other spellings of options: the present one, and True for an old one, of which users are warned."""
    words: frozenset[str] = frozenset()
    """Names of parameters that are text."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        old: list[tuple[str, str]] = []
        ctx.meta[_OLD] = old
        return super().parse_args(ctx, list(self._present(args, old)))

    def _present(self, args: Sequence[str], old: list[tuple[str, str]]) -> Iterator[str]:
        for place, word in enumerate(args):
            if word == "--":
                yield from args[place:]
                return
            name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
            if name not in self.renamed:
                yield word
                continue
            new, is_old = self.renamed[name]
            if is_old:
                old.append((name, new))
            yield new if not equals and not value else f"{new}={value}"

    def invoke(self, ctx: Any) -> Any:
        own = {name: ctx.params.pop(name) for name in _NAMES if name in ctx.params}
        Common(**own).use(ctx.meta.get(_COMMON))
        for old, new in ctx.meta[_OLD]:
            log.warning(f"{old} is an old spelling, which the next release will not know: write {new}")
        return super().invoke(ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        return _quick([*super().get_params(ctx), *_common_parameters(ctx.find_root().command)], self.words)

    def collect_usage_pieces(self, _: Any) -> list[str]:
        return ["[OPTIONS]", *(usage(one) for one in self.params if one.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        records = [(one.param_type_name, help_record(one, ctx)) for one in self.get_params(ctx)]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [record for name, record in records if name == kind and record is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, _: Any, formatter: Any) -> None:
        with formatter.section("Common options"):
            formatter.write_text("-q/--quiet, -v/--verbose, --timings FILE, --version")


def _quick(parameters: list[Any], words: frozenset[str] = frozenset()) -> list[Any]:
    """Let parameters take text, and nothing, as it is.

    typer converts every value by pydantic: to import that takes longer than all that a small command does.
    """
    for parameter in parameters:
        if "process_value" not in vars(parameter):
            parameter.process_value = functools.partial(_value, parameter, parameter.process_value, parameter.name in words)
    return parameters


def _value(parameter: Any, convert: Callable[[Any, Any], Any], is_text: bool, ctx: Any, value: Any) -> Any:
    if (value is None and parameter.required) or (value is not None and not (is_text and isinstance(value, str))):
        return convert(ctx, value)
    if value is None and (parameter.multiple or parameter.nargs == -1):
        value = ()
    return value if parameter.callback is None else parameter.callback(ctx, parameter, value)


class WithCommand(Verb):
    """A verb behind whose ``--`` stands the command line of another program: ``command_words``."""

    placeholder = "-- COMMAND..."

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own, command = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
        ctx.meta[_COMMAND] = command
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), self.placeholder]


class WithOptionalCommand(WithCommand):
    """The same for a verb that does something without one, too."""

    placeholder = "[-- COMMAND...]"


def command_words(context: typer.Context) -> list[str]:
    """The command line behind ``--``; empty when there is none."""
    return list(context.meta[_COMMAND])


def usage(argument: Any) -> str:
    """An argument in the usage of a verb: ``NAME`` or ``[NAME]``."""
    return argument.metavar if argument.required else f"[{argument.metavar}]"


def help_record(parameter: Any, ctx: Any) -> tuple[str, str] | None:
    """A parameter and its help, in words for users: not the types of the program. None for one that is hidden."""
    record: tuple[str, str] | None = parameter.get_help_record(ctx)
    if record is None or parameter.param_type_name != "argument":
        return record
    return usage(parameter), record[1].removesuffix("[required]").rstrip()


@functools.cache
def _common_parameters(program: Any) -> tuple[Any, ...]:
    """The options of the program as those of a verb. The help of a verb names them in one line."""
    common = [copy.copy(one) for one in program.params if one.name in _NAMES]
    for one in common:
        one.hidden = True
    return tuple(common)


class QuickGroup(TyperGroup):
    """A group whose options are not converted where they need not be."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _quick(super().get_params(ctx))


class Group(QuickGroup):
    """A group of verbs. Common options may stand between its name and the verb."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = list(itertools.takewhile(_FLAGS.__contains__, args))
        verb, rest = args[len(flags) : len(flags) + 1], args[len(flags) + 1 :]
        return super().parse_args(ctx, [*verb, *flags, *rest])


class ListGroup(Group):
    """Without a verb of its own the group lists: ``slipway certs mine``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        verb = next((word for word in args if word not in _FLAGS), None)
        return super().parse_args(ctx, args if verb in (*self.commands, "-h", "--help") else ["list", *args])


class Program(typer.Typer):
    """The program or a group of its verbs. A verb's parameter may be a group of options."""

    def callback(self, **settings: Any) -> Callable[[_Verb], _Verb]:
        """The function for the options before a verb."""

        def add(verb: _Verb) -> _Verb:
            super(Program, self).callback(**settings)(_flattened(verb))
            return verb

        return add

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = None, **settings: Any) -> Callable[[_Verb], _Verb]:
        def add(verb: _Verb) -> _Verb:
            call = _flattened(verb)
            renamed = dict(pair for annotation in call.__annotations__.values() for pair in _renamed(annotation))
            own = cls or Verb
            # The name of a verb is its function's, which a group's parameter does not change.
            words = frozenset(name for name, annotation in call.__annotations__.items() if _bare(annotation) in (str, str | None))
            kind = type(own.__name__, (own,), {"renamed": renamed, "words": words})
            super(Program, self).command(name, cls=kind, **settings)(call)
            return verb

        return add


def _flattened(verb: Callable[..., object]) -> Callable[..., object]:
    """The verb with a parameter for each option of its groups, as typer wants it."""
    parameters = list(_parameters(verb))

    @functools.wraps(verb)
    def call(**options: Any) -> object:
        return _filled(verb, options)

    vars(call)["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


@functools.cache
def _kinds(target: Callable[..., object]) -> Mapping[str, Any]:
    """Annotations of the parameters of a verb or of the fields of a group."""
    hints = get_type_hints(target, include_extras=True)
    return {name: hints[name] for name in inspect.signature(target).parameters}


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Options)


def _parameters(target: Callable[..., object]) -> Iterator[inspect.Parameter]:
    """A parameter for each option of a verb or a group, and of the groups in it."""
    for name, parameter in inspect.signature(target).parameters.items():
        kind = _kinds(target)[name]
        if _is_group(kind):
            yield from _parameters(kind)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)


def _filled(target: Callable[..., object], options: Mapping[str, Any]) -> object:
    """Call a verb, or make a group, with its options out of ``given``."""
    return target(**{name: _filled(kind, options) if _is_group(kind) else options[name] for name, kind in _kinds(target).items()})


def _bare(annotation: Any) -> Any:
    """A type without its metadata."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _renamed(annotation: Any) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Other spellings with the present one, short for short where there is one, and True for old ones."""
    metadata = getattr(annotation, "__metadata__", ())
    option = next((one for one in metadata if isinstance(one, typer.models.OptionInfo)), None)
    if option is not None:
        names = [name for name in (option.default, *(option.param_decls or ())) if isinstance(name, str)]
        for one in metadata:
            if isinstance(one, Old):
                yield from ((spelling, (names[0], not isinstance(one, Alias))) for spelling in one.spellings)


def program(context: typer.Context, common: Common) -> None:
    """Use the options that stand before a verb, and keep them for it."""
    common.use()
    context.meta[_COMMON] = common
