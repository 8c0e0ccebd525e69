"""The command line of ``segpipe.train``: options stand before overrides, and what Hydra does not know is refused.

Hydra's own parser prints its usage for an unknown option, and takes no override after an option that stands between.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser

from segpipe.config.hints import WORDS_OF_OTHERS
from segpipe.config.overrides import check
from segpipe.config.schema import keys, options
from segpipe.engine import dry_run
from segpipe.errors import UserError, nearest

HELP = "python -m segpipe.train --help lists the keys, and --hydra-help the options."


class Parser(argparse.ArgumentParser):
    """Hydra's parser with an error that is raised."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}. {HELP}")


def arranged(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with all options before the overrides.

    Raises UserError for an option that does not exist or lacks its value, and for a word that is no override.
    """
    parser = get_args_parser()
    parser.__class__ = Parser
    known: dict[str, Any] = parser._option_string_actions
    first, overrides = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        first.append(word)
        action = known.get(word)
        takes_value = action is not None and (action.nargs is None or (rest[:1] and rest[0] in (action.choices or ())))
        if takes_value and rest:
            first.append(rest.pop(0))
        elif action is not None and action.nargs == "?":
            first[-1] = f"--{action.dest}={action.const}"  # else the next override would be its value
    given, unknown = parser.parse_known_args([*first, *overrides])
    if wrong := [word for word in unknown if word.startswith("-") and word != "--"]:
        raise UserError(refusal(wrong[0], words, [*known, dry_run.OPTION]))
    if given.experimental_rerun:
        raise UserError("--experimental-rerun: not supported. To train a run again, give resume=RUN, or its overrides.")
    if given.resolve and not (given.cfg or given.help):
        raise UserError("--resolve: only together with --cfg job.")
    overrides = [word for word in overrides if word.strip()]
    check(overrides)
    return [*first, *overrides]


def refusal(word: str, words: Sequence[str], known: Sequence[str]) -> str:
    """Return the message for an option that does not exist: the override that it stands for, or the nearest option."""
    name, equals, value = word.lstrip("-").partition("=")
    if len(name) == 1:
        return f"{word}: there is no such option. Settings are given as KEY=VALUE, such as decoder=unpool. {HELP}"
    name = name.replace("-", "_")
    key = WORDS_OF_OTHERS.get(name, name)
    if key == name and not options(key) and key not in keys():
        hint = nearest(f"--{name.replace('_', '-')}", known, similar=0.75)
        return f"{word}: there is no such option.{hint or f' Settings are given as KEY=VALUE. {HELP}'}"
    following = words[words.index(word) + 1 :][:1] if word in words else []
    if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
        value = following[0]
    return f"{word}: there is no such option. Settings have no dashes: write {key}={value or 'VALUE'}"
