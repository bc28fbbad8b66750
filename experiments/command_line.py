"""The command line of every experiment: flags in, one sentence out where they are wrong."""

import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from nem_jax import errors
from nem_jax.config.fields import default_config

_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", None, "directory that keeps compiled programs: a second start of the same run compiles nothing"
)


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Bad input ends the process with status 1 and the error's own sentence; the traceback is shown with --v=1.

    Ctrl-C ends it without one.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception as error:
        sentence = errors.sentence(error)
        if sentence is None:
            raise
        logging.vlog(1, "%s", error, exc_info=True)
        sys.exit(f"error: {sentence}")


def _end_interrupted() -> None:
    """By the signal itself: a shell ends the loop that the command stands in."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe
        sys.stdout.flush()
    print("interrupted", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def launch(main: Callable[[], object]) -> None:
    """Parse the flags and call `main`: whatever is wrong with either is said in one sentence."""

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["v"].present:
            logging.set_verbosity(logging.ERROR)  # Orbax reports every file, and warns of every directory it reads
        with one_sentence():
            if len(argv) > 1:
                raise ValueError(f"{argv[1]!r} is no flag: flags begin with --")
            if _COMPILATION_CACHE.value is not None:
                jax.config.update("jax_compilation_cache_dir", _COMPILATION_CACHE.value)
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            main()

    _list_in_help()
    app.run(guarded, flags_parser=_parse)


def allow_only(names: Collection[str], why: str) -> None:
    """No other flag of a command is given.

    Raises:
        ValueError: one is, and nothing would read it.
    """
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if not module.startswith("absl") else []:
            if flag.present and flag.name not in names:
                raise ValueError(f"--{flag.name} is given, but {why}")


def _list_in_help() -> None:
    """absl's --help lists the flags of the main module alone: add those of the modules that it is made of."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.partition(".")[0] in ("experiments", "nem_jax"):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _parse(argv: list[str]) -> list[str]:
    argv = [_with_home(arg) for arg in argv]
    wrong = _wrong_config(argv)
    if wrong is not None:
        sys.exit(f"error: {wrong}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        message = str(error).splitlines()[-1].strip()  # a config file's own error ends its traceback
        sys.exit(f"error: {_wrong_type(str(error), argv) or message.removeprefix('ValueError: ')}")
    except OSError as error:
        sys.exit(f"error: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unknown = _unknown_field(argv)
        if unknown is None and "no attribute 'get_config'" in str(error):
            unknown = f"--config: {error}"
        if unknown is None:  # the config file's own fault
            raise
        sys.exit(f"error: {unknown}")


def _with_home(arg: str) -> str:
    """A shell leaves the tilde of --workdir=~/runs alone."""
    return re.sub(r"(?<=[=,])~(?=/)", os.path.expanduser("~"), arg) if arg.startswith("-") else arg


def _wrong_config(argv: list[str]) -> str | None:
    """What is wrong with --config, if it is no file, or with how one of its stages is set."""
    for arg in argv[1:] if "config" in flags.FLAGS else []:
        found = re.fullmatch(r"--?config=([^:]*)(:.*)?", arg)
        if found and found[1].endswith(".py") and not Path(found[1]).is_file():
            return f"{arg}: there is no such file in {Path.cwd()} (the repository's lie in its root)"
        if found and not found[1].endswith(".py"):
            return f"--config must be a file and a name in it, as experiments/static_shapes/config.py:smoke, got {arg}"
        if re.match(r"--?config\.stages\[", arg):
            return f"{arg}: stages are set as a whole, --config.stages=(...)"
        if re.match(r"--?config\.(\w+\.)*(\w+\[|=)", arg):
            return f"{arg}: a field is named, and set as a whole, as in --config.model.num_components=4"
        if re.match(r"--?noconfig\.[\w.]+=", arg):
            return f"{arg}: --noconfig.FIELD takes no value"
    return None


_TYPES: dict[type, str] = {
    int: "an integer", float: "a number", bool: "true or false", ConfigDict: "set field by field, --config.%s.FIELD=..."
}  # fmt: skip


def _wrong_type(message: str, argv: list[str]) -> str | None:
    """What absl's `message` says in Python's words, of a field whose value is of another type."""
    found = re.match(r"flag --config\.([\w.]+)=", message)
    if found is None:
        return None
    field, (*sections, name) = found[1], found[1].split(".")
    expected = _TYPES.get(functools.reduce(getattr, sections, default_config()).get_type(name))
    given = [arg for arg in argv if arg.lstrip("-").startswith(f"config.{field}=")]
    return expected and f"{' '.join(given)}: {field} must be {expected.replace('%s', field)}"


def _unknown_field(argv: list[str]) -> str | None:
    """What is wrong with the first --config.FIELD that is no field: ml_collections has a wording for each way to miss
    one, and some of them leave with a traceback.
    """
    for arg in argv[1:]:
        found = re.match(r"--?(?:no)?config\.([\w.]+)", arg)
        section, place = default_config(), "the configuration"
        for name in found[1].split(".") if found else []:
            if not isinstance(section, ConfigDict):
                return f"{arg}: {place} has no fields"
            if name not in section:
                return f"{arg}: {place} has no field {name!r}, only {', '.join(section)}"
            section, place = section[name], name
    return None
