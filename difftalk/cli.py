"""The command line: one verb a stage, whose flags are the arguments of the stage's `run`."""

import argparse
import ast
import importlib
import inspect
import re
import signal
import sys
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import difftalk.stages
from difftalk import __version__
from difftalk.runtime import ancestors, arguments, device, faults, lease, progress
from difftalk.runtime.errors import UserError
from difftalk.stages import STAGES
from difftalk.training import launcher, slurm
from difftalk.training.signals import STOP_SIGNALS

# Types that argparse reads by itself; a value of any other type is given as JSON.
PLAIN_TYPES = (str, int, float, Path)


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        verb: the stage whose flags are wanted; the modules of the others are not imported.
    """
    top = argparse.ArgumentParser(
        prog="difftalk",
        description="The stages of the workflow, one by one. `snakemake --cores all` calls them in order.",
    )
    top.add_argument("--version", action="version", version=f"difftalk {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="STAGE", required=True)
    for name in STAGES:
        summary = _summary(name)
        called = verbs.add_parser(name, help=summary, description=summary)
        if name == verb:
            _add_actions(called, name)
    return top


def functions(verb: str) -> dict[str, Callable[..., None]]:
    """Return what a verb calls: `run` under an empty name, or each action of a verb that has several.

    A module with several actions lists them in `ACTIONS`, by the name that follows the verb.
    """
    module = importlib.import_module(f"difftalk.stages.{verb}")
    actions: dict[str, Callable[..., None]] = getattr(module, "ACTIONS", None) or {"": module.run}
    return actions


def argument_help(function: Callable[..., None]) -> dict[str, str]:
    """Return what the docstring of a function says of each argument, from its `Args` section."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    items = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(words.split()) for name, words in items}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage. Exit status 0: done, 1: a fault of ours or the machine's, 2: the user can put it right.

    128 + the number of a signal: it ended the stage. The same command takes the work up again.
    """
    argv = sys.argv[1:] if argv is None else argv
    values = vars(parser(next((word for word in argv if word in STAGES), None)).parse_args(argv))
    verb, action, log = values.pop("verb"), values.pop("action", ""), values.pop("log")
    name = f"{verb} {action}".strip()
    device.begin(verb)
    is_worker = launcher.rank() is not None
    try:
        launches = "processes" in values and launcher.join(verb, values["processes"], values.get("nodes", 1))
        if not launches:
            # Ends like any other exit: unfinished outputs are cleared away and worker processes ended.
            for number in STOP_SIGNALS:
                signal.signal(number, exit_on_signal)
            if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a closed terminal, without nohup
                signal.signal(signal.SIGHUP, exit_on_signal)
            if not is_worker:  # its launcher watches for those that train together
                ancestors.watch()
            if log is not None:
                label = "" if log.stem == verb else log.stem.replace(".", " ")
                _log_to(log, label, is_second=bool(launcher.rank()))
        function = functions(verb)[action]
        checked = _read(function, values)
        if not is_worker:
            lease.lease(verb, values.get("processes") or 1)
        with slurm.requeued_on_warning(verb, None if is_worker else checked.get("state")):
            if launches:
                sys.exit(launcher.launch(checked["processes"], argv, nodes=checked.get("nodes", 1)))
            function(**checked)
    except UserError as e:
        progress.say(f"difftalk {name}: {e}")
        return 2
    except KeyboardInterrupt:
        progress.say(f"difftalk {name}: interrupted")
        return 130
    except Exception as e:  # noqa: BLE001 - outermost: whatever it was, it is reported
        refused = faults.sentence(e)
        if log is not None or refused is None:
            with suppress(OSError):  # a log on a full disk
                traceback.print_exc()
        if refused is not None:
            progress.say(f"difftalk {name}: {refused}")
            return 2
        if log is not None:
            line = f"difftalk {name}: {type(e).__name__}: {e} (where, is in {log})"
            progress.say(line, in_log=False)
        return 1
    return 0


@cache
def _summary(verb: str) -> str:
    """The first line of a stage's docstring, read without importing the stage."""
    source = Path(difftalk.stages.__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _add_actions(parent: argparse.ArgumentParser, verb: str) -> None:
    found = functions(verb)
    if "" in found:
        _add_arguments(parent, found[""])
        return
    actions = parent.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, function in found.items():
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        _add_arguments(actions.add_parser(action, help=summary, description=summary), function)


def _add_arguments(verb: argparse.ArgumentParser, function: Callable[..., None]) -> None:
    """Give a verb the arguments of its function: those before `*` by position, the others as flags."""
    described, hints = argument_help(function), typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, many = _kind(hints[name])
        options: dict[str, Any] = {"help": described.get(name, "").replace("%", "%%")}
        options["type"] = plain if (plain := _plain(hint)) in PLAIN_TYPES else str
        if parameter.kind is not parameter.KEYWORD_ONLY:
            verb.add_argument(name, metavar=name.upper(), nargs="+" if many else None, **options)
            continue
        if many:
            options |= {"nargs": "*", "default": []}
        elif parameter.default is None:
            options["nargs"] = "?"  # may be given empty, as a rule does for an input that it does not have
        elif parameter.default is not parameter.empty:
            options["default"] = parameter.default
        else:
            options["required"] = True
        verb.add_argument(f"--{name.replace('_', '-')}", **options)
    verb.add_argument(
        "--log", type=Path, help="file for all output; the terminal keeps progress bar and errors"
    )


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value of an argument, with its bounds, and whether it takes several values."""
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    return hint, False


def _plain(hint: Any) -> Any:
    """A type without its bounds, or what kind of path it is."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _read(function: Callable[..., None], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a command line, all checked, and those that are given as JSON read."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    read = dict(values)
    kinds = {name: _kind(hints[name]) for name in values}
    # JSON last: the others are checked at once.
    for name in sorted(values, key=lambda name: _plain(kinds[name][0]) not in PLAIN_TYPES):
        (hint, many), value = kinds[name], values[name]
        flag = f"--{name.replace('_', '-')}"
        if parameters[name].kind is not parameters[name].KEYWORD_ONLY:
            flag = name.upper()
        for one in value if many else [] if value is None else [value]:
            if (kind := arguments.path_kind(hint)) is not None:
                arguments.check_path(kind, one, flag)
            elif hint not in PLAIN_TYPES:
                from difftalk.config.section import from_dict, from_json

                is_number = _plain(hint) in PLAIN_TYPES
                read[name] = from_dict(hint, one, flag) if is_number else from_json(hint, one, flag)
    return read


def _log_to(log: Path, label: str, *, is_second: bool) -> None:
    """As `progress.log_to`; where the log cannot be written, nothing is redirected."""
    arguments.check_path(arguments.OUTPUT_FILE, log, "--log")
    with faults.writing(log):
        progress.log_to(log, label, is_second=is_second)


def exit_on_signal(signum: int, frame: FrameType | None) -> None:
    """Exit with status 128 + the number of the signal, and clean up on the way."""
    sys.exit(128 + signum)
