"""Words after ``--`` of the sessions that build and test images."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence

from harness.catalog import CatalogEntry


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """A request for `build-image`, `test-image` and `publish`: names of kubefiles, and values (NAME=VALUE) for these images."""

    names: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def read(cls, session: str, words: Iterable[str]) -> ImageRequest:
        """From the words after ``--``; ends the process when they are wrong."""
        parser = argparse.ArgumentParser(prog=f"nox -s {session} --", usage="%(prog)s [NAME...] [-e NAME=VALUE]...", allow_abbrev=False)
        cls.add_to(parser)
        wanted = parser.parse_intermixed_args(list(words))
        return cls.of(parser, wanted)

    @staticmethod
    def add_to(parser: argparse.ArgumentParser) -> None:
        """Add the options and arguments of this request to those of a session."""
        parser.add_argument("-e", "--env", dest="values", metavar="NAME=VALUE", action="append", default=[], help="a value for the images")
        parser.add_argument("names", nargs="*", metavar="NAME", help="kubefiles; all without names")

    @classmethod
    def of(cls, parser: argparse.ArgumentParser, wanted: argparse.Namespace) -> ImageRequest:
        """From what the parser read; ends the process for values that are wrong, and for secrets: nox prints the commands that it runs."""
        check_values(parser, wanted.values)
        return cls(tuple(wanted.names), tuple(wanted.values))

    def build_options(self, entry: CatalogEntry) -> list[str]:
        """Options of `slipway build`. A base that is built along gets no values: its throw-away cluster would boot again."""
        named = entry.name in self.names if self.names else not entry.bundled
        return [word for pair in self.values if named for word in ("--env", pair)]

    @property
    def test_options(self) -> list[str]:
        """Options of pytest."""
        return [word for pair in self.values for word in ("--value", pair)]


def check_values(parser: argparse.ArgumentParser, values: Sequence[str]) -> None:
    """End the process for values without a name, and for secrets."""
    from harness.clusterfile.secrets import is_secret

    wrong = [pair for pair in values if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        # The text may be a secret that was meant to have a name.
        parser.error(f"{len(wrong)} of {len(values)} values are not NAME=VALUE")
    secret = [name for name, _, value in (pair.partition("=") for pair in values) if is_secret(name, value)]
    if secret:
        parser.error(
            f"-e {', '.join(secret)}: looks like a secret, and nox prints the commands that it runs. A build puts a stand-in in its place; "
            f"tests read it from the environment: pytest.mark.values({secret[0]}=os.environ[...])"
        )
