"""The overrides of a command line: what Hydra cannot read, or would misunderstand, in a sentence with what to type."""

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from segpipe.config.choice_hints import choice_hint, squash
from segpipe.config.choices import REQUIRED
from segpipe.config.hints import groups, key_meant
from segpipe.config.schema import CONF, EXTRA_KEYS, NODES, key_of, options
from segpipe.errors import UserError, nearest
from segpipe.runs.run import quote_override, shell_word

CLOSING = {"(": ")", "[": "]", "{": "}"}
PLAIN_LETTERS = str.maketrans(
    "\u201c\u201d\u201e\u2018\u2019\u2010\u2011\u2012\u2013\u2014\u2212\uff1d\u00a0", '"""\'\'------= '
)
FUNCTIONS = {  # of Hydra's grammar, each with an override that uses it
    "choice": "decoder=choice(deconv,unpool)", "range": "seed=range(0,5)", "glob": "decoder=glob(*)",
    "interval": "optimizer.lr=interval(1e-4,1e-2)", "sort": "seed=sort(2,0,1)", "shuffle": "seed=shuffle(0,1,2)",
    "tag": "seed=tag(x,choice(0,1))", "int": "seed=int(3.0)", "float": "optimizer.lr=float(1)", "str": "resume=str(1)",
    "bool": "encoder.cache=bool(1)",
}  # fmt: skip
OPTIONAL_GROUPS = ("experiment", "debug")  # null chooses none of them
GROUPS_OF_SEVERAL = ("experiment", "debug", "callbacks")  # their choices can be combined: callbacks=[default,ema]


def composed(words: Sequence[str], *, before: Sequence[str] = ()) -> DictConfig:
    """Return the configuration of a training with the overrides of a command line. before: overrides of the program.

    Raises UserError as ``check``, and Hydra's errors.
    """
    check(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*before, *words])


def check(words: Sequence[str]) -> None:
    """Raise UserError for the first word of a command line that is no override, or that cannot be meant.

    Other errors of the grammar are found by Hydra, see ``grammar_problem``.
    """
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        rest = list(itertools.takewhile(lambda after: "=" not in after.lstrip("="), words[index + 1 :]))
        problem = split_problem(word, before, rest) or removal_problem(word) or choice_problem(word)
        if problem:
            raise UserError(problem)


def split_problem(word: str, before: str = "", rest: Sequence[str] = ()) -> str | None:
    """Return what is wrong with a word that lacks its key, its equals sign or its value.

    before: the word before it. rest: the words after it, up to the next override.
    """
    after = rest[0] if rest else ""
    lone = before and "=" not in before and not before.startswith("~")
    if word.startswith("="):
        value = word.lstrip("=") or after
        if not lone:
            return f"{word}: the key is missing. Write KEY=VALUE, without spaces around the equals sign."
        given = f"{before} {word} {value}" if word == "=" else f"{before} {word}"
        return f"{given}: spaces around the equals sign. Write {shell_word(f'{key_meant(before)}={value}')}"
    if word.endswith("=") and not word.startswith("~"):
        if after and re.fullmatch(r"[\w.,/\[\]-]+", after) and not word.startswith("hydra"):
            return f"{word} {after}: spaces around the equals sign. Write {shell_word(word + after)}"
        return f"{word}: the value is empty, as of a variable of the shell that is not set. Give a value."
    if "=" in word or word.startswith("~") or after.startswith("="):
        return None
    if word.translate(PLAIN_LETTERS).startswith("-"):
        return f"{word}: there is no such option. Settings are given as KEY=VALUE, such as decoder=unpool."
    if colon := re.fullmatch(r"([\w./]+):\s*(\S*)", word):
        value = colon[2] or after or "VALUE"
        return f"{word}: this is not an override. Write {shell_word(f'{key_meant(colon[1])}={value}')}"
    if "=" in before and not before.startswith("~") and key_of(before) not in groups():
        key, _, value = before.partition("=")
        together = " ".join([value, word, *rest])
        one = f"{key}={together}" if parses_as_one(key, together) else f"{key}={quote_override(together)}"
        joined = f"{key}={together.replace(' ', '')}"
        compact = joined if value.endswith((",", "[")) and parses(joined) else one
        return (
            f"{word}: this is not an override. If it belongs to the value before it, the shell has split them at the "
            f"space: write {shell_word(compact)}"
        )
    return no_equals(word, after)


def no_equals(word: str, after: str) -> str:
    """Return the message for a word without an equals sign, which is not a part of the value before it."""
    if after and re.fullmatch(r"[\w./]+", word) and re.fullmatch(r"[\w./,+-]+", after):
        return f"{word} {after}: this is not an override. Write {key_meant(word)}={after}"
    such = [f"{group}={name}" for group in groups() for name in options(group) if squash(name) == squash(word)]
    form = " or ".join(such) or "KEY=VALUE, without spaces around the equals sign."
    return f"{word}: this is not an override. Write {form}"


def removal_problem(word: str) -> str | None:
    """Return why an override such as ``~seed`` is refused: the program reads the key. None if it may be removed."""
    key = key_of(word)
    node, _, last = key.rpartition(".")
    is_read = key in NODES or (key in EXTRA_KEYS and node in ("", "sweep")) or last in REQUIRED.get(node, ())
    if not word.startswith("~") or not is_read:
        return None
    if key == "logger":
        return f"{word}: cannot be removed, because the program reads it. Write logger=none"
    another = f"Choose another one: {key}=NAME" if options(key) else f"Give another value: {key}=VALUE"
    return f"{word}: cannot be removed, because the program reads it. {another}"


def choice_problem(word: str) -> str | None:
    """Return why the value of a config group is refused, such as ``decoder=null``. None if it may name a choice."""
    override = parsed(word)
    group = override.key_or_group if override else ""
    if override is None or override.is_delete() or group not in groups():
        return None
    value: Any = override.value()
    for one in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(one, list) and (group not in GROUPS_OF_SEVERAL or not one):
            names = [str(name) for name in one]
            several = f", or for a sweep over them: -m {group}={','.join(names)}" if len(names) > 1 else ""
            first = names[0] if names else "NAME"
            return f"{word}: {group} takes one choice, not a list. Write {group}={first}{several}"
        if (one is None and group not in OPTIONAL_GROUPS) or isinstance(one, bool | int | float):
            text = word.partition("=")[2]
            allowed = options(group)
            return f"{word}: allowed is one of {', '.join(allowed)}.{choice_hint(group, text, allowed)}"
    return None


def repetitions(words: Sequence[str]) -> list[str]:
    """Return a note for each key that a command line sets to several values, of which Hydra takes the last one.

    A shell makes two words of ``decoder={deconv,unpool}``.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and not key.startswith(("+", "~")) and value not in values.setdefault(key, []):
            values[key].append(value)
    return [
        f"Note: {key} is given {len(given)} times; the last value counts, {key}={given[-1]}. For a sweep over all: "
        f"-m {shell_word(f'{key}=' + ','.join(given))}"
        for key, given in values.items()
        if len(given) > 1
    ]


def grammar_problem(given: str, reason: str) -> str:
    """Return what is wrong with an override that Hydra cannot read, with what has to be typed.

    reason: Hydra's message.
    """
    key, equals, value = given.partition("=")
    if not equals:
        return split_problem(given) or no_equals(given, "")
    name = re.sub(r"[^\w)\]]+$", "", re.sub(r"^[^\w+~]+", "", key.strip()))
    if value.startswith("="):
        return f"{given}: two equals signs. Write {shell_word(f'{name}=' + value.lstrip('=').strip())}"
    if (several := re.split(r",?\s+(?=[+~]{0,2}[\w./]+=)", given.strip()))[1:]:
        return f"{given}: several overrides in one word. Write a word for each: {' '.join(several)}"
    if (trimmed := f"{name}={value.strip()}") != given and trimmed == re.sub(r"\s*=\s*", "=", given.strip(), count=1):
        return f"{given}: a space too many. Write {shell_word(trimmed)}"
    if (plain := given.translate(PLAIN_LETTERS)) != given:
        plain = plain if parses(plain) else plain.strip("\"'")
        if parses(plain):
            return f"{given}: quotation marks, dashes or spaces of a word processor. Write {shell_word(plain)}"
    if name != key and name:
        return f"{given}: the key is not a name. Write {shell_word(f'{name}={value}')}"
    if value.startswith("~"):
        return f"{given}: the shell does not expand ~ here, and Hydra cannot read it. Write $HOME instead of ~."
    if value.startswith("(") and value.endswith(")"):
        return f"{given}: a list has square brackets. Write {shell_word(f'{key}=[{value[1:-1]}]')}"
    if re.fullmatch(r"\{[^:{}]*\}", value):
        inner = value[1:-1]
        as_list = f"a list has square brackets: {shell_word(f'{key}=[{inner}]')}. A" if name not in groups() else "a"
        return f"{given}: {as_list} sweep has no brackets: -m {key}={inner}"
    return bracket_problem(given) or comma_problem(given) or call_problem(given, reason) or text_problem(given)


def bracket_problem(given: str) -> str | None:
    """Return which bracket or quotation mark of an override has no partner; None if each has one."""
    key, _, value = given.partition("=")
    open_ones: list[str] = []
    quote = ""
    for index, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and (not index or value[index - 1] in "([{,: "):
            quote = letter
        elif letter in CLOSING:
            open_ones.append(letter)
        elif letter in CLOSING.values() and (not open_ones or CLOSING[open_ones.pop()] != letter):
            opener = next(one for one, closer in CLOSING.items() if closer == letter)
            fixed = value[:-1] if value[0] in CLOSING else opener + value
            hint = f" Write {shell_word(f'{key}={fixed}')}" if parses(f"{key}={fixed}") else text_hint(given)
            return f"{given}: {letter} without {opener}.{hint}"
    if not quote and not open_ones:
        return None
    closed = value + quote + "".join(CLOSING[one] for one in reversed(open_ones))
    hint = f"Write {shell_word(f'{key}={closed}')}" if parses(f"{key}={closed}") else "Close it."
    by_shell = " A shell ends a word at a space: write a list without spaces." if value.endswith(",") else ""
    return f"{given}: {quote or open_ones[-1]} is not closed. {hint}{by_shell}"


def comma_problem(given: str) -> str | None:
    """Return that a value beside a comma is missing; None if that is not what is wrong."""
    key, _, value = given.partition("=")
    tidy = re.sub(r",(\s*,)+", ",", value)
    tidy = re.sub(r"(^|[\[({])\s*,", r"\1", re.sub(r",\s*($|[\])}])", r"\1", tidy))
    if tidy == value or not parses(f"{key}={tidy}"):
        return None
    return f"{given}: a value beside a comma is missing. Write {shell_word(f'{key}={tidy}')}"


def call_problem(given: str, reason: str) -> str | None:
    """Return what is wrong with a call of one of Hydra's functions; None for a value that is no such call."""
    called = re.fullmatch(r"(\w+)\(.*\)", given.partition("=")[2])
    if not called:
        return None
    if (name := called[1]) in FUNCTIONS:
        found = re.search(r"while evaluating '.*?': (.*)", reason)
        return f"{given}: {found[1] if found else 'not a call of ' + name}. An example: {shell_word(FUNCTIONS[name])}"
    meant = nearest(name, FUNCTIONS, similar=0.75)
    return f"{given}: Hydra has no function {name}.{meant}{text_hint(given)}" if meant else None


def text_problem(given: str) -> str:
    """Return the message for a value that is probably a text."""
    key, _, value = given.partition("=")
    if "=" in value and key in groups():
        return f"{given}: two equals signs. Write {key}={value.partition('=')[0]}"
    if "=" in value and (key == "stages" or re.fullmatch(r"\[[^'\"]*\]", value)):
        items = ",".join(quote_override(item.strip()) for item in value.strip("[]").split(","))
        return f"{given}: texts with an equals sign need quotation marks. Write {shell_word(f'{key}=[{items}]')}"
    what = "two equals signs" if given.count("=") > 1 else "Hydra cannot read this value"
    hint = text_hint(given)
    return f"{given}: {what}.{hint}" if hint else f"{given}: {what}. Quote the whole for the shell."


def text_hint(given: str) -> str:
    """Return how to type a value that is a text; empty if Hydra cannot read it so."""
    key, _, value = given.partition("=")
    if not parses(f"{key}={quote_override(value)}"):
        return ""
    return f" If it is a text, quote it twice: {quoted_override(key, value)}"


def quoted_override(key: str, value: str) -> str:
    """Return an override as it has to be typed: its value quoted for Hydra's grammar, the whole for the shell."""
    return shell_word(f"{key}={quote_override(value)}")


def parsed(word: str) -> Override | None:
    """Return a word as an override; None if Hydra cannot read it."""
    with suppress(HydraException, ValueError):
        return OverridesParser.create().parse_override(word)
    return None


def parses(word: str) -> bool:
    """Return whether Hydra can read an override."""
    return parsed(word) is not None


def parses_as_one(key: str, value: str) -> bool:
    """Return whether Hydra reads a value as a list or a dict, not as a text or as several values."""
    override = parsed(f"{key}={value}")
    return override is not None and isinstance(override.value(), list | dict)
