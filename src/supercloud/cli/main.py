"""The command line: `supercloud COMMAND`. Each command's code is imported when it is used, and no sooner."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from supercloud import __version__

_COMMANDS = {
    "up": ("system:up", "Start the control plane and the key store on this machine"),
    "down": ("system:down", "End them; instances run on"),
    "status": ("system:status", "What runs, and how long run rights last"),
    "backup": ("system:backup", "Write the control plane's state to a file"),
    "restore": ("system:restore", "Put the state of a backup in place"),
    "doctor": ("system:doctor", "What this machine can do, and what is missing"),
    "provider": ("provider:app", "Domains with their platforms"),
    "domain": ("domain:app", "For providers: your own domains, their machines, maintenance and health"),
    "key": ("key:app", "Keys of yours: who you are"),
    "principal": ("principal:app", "Who may use this control plane"),
    "token": ("token:app", "What may be asked for, by whom, until when"),
    "cloud": ("cloud:app", "Self-service clouds"),
    "trust": ("trust:app", "What clouds let each other do"),
    "blanket": ("blanket:app", "Hypervisors of your own, on providers' platforms"),
    "image": ("image:app", "Bootable disks"),
    "network": ("network:app", "Encrypted networks over all blankets of a cloud"),
    "volume": ("volume:app", "Encrypted disks"),
    "vm": ("vm:app", "Instances: run, look, stop, migrate"),
    "level": ("level:app", "Security levels: what each means, and who can give it"),
    "apply": ("declared:apply", "Make a cloud what its file declares"),
    "diff": ("declared:diff", "What apply would do"),
    "export": ("declared:export", "Write the file that declares a cloud"),
    "schema": ("declared:schema", "The JSON Schema of that file, or of a policy, for editors"),
    "indicator": ("indicator:app", "Addresses that others share, as STIX 2.1"),
    "incident": ("incident:app", "What was found together, what was done about it, and whether it worked"),
    "policy": ("policy:app", "What the loop does by itself: policies and rules, as files"),
    "finding": ("finding:app", "What detectors saw, from the platform upwards"),
    "order": ("order:app", "What only a provider can do to a machine of yours"),
    "act": ("act:app", "Privileged acts that providers ask for"),
    "tpm": ("tpm:app", "TPMs that you trust to say what a provider's machine has booted"),
    "operation": ("operation:app", "What is being done, and what was"),
    "events": ("events:events", "What changes, as it does; what agents reported"),
    "web": ("web:web", "Sign a browser in to the web view"),
    "demo": ("demo:app", "Two domains, one cloud, live migrations under load, and attacks: on real VMs"),
    "bench": ("bench:bench", "Measure: migration, api, footprint, authz, loop, containment, microhypervisor"),
}
_INTERRUPTED, _PIPE_CLOSED, _TERMINATED = 130, 141, 143  # as shells count ends by SIGINT, SIGPIPE, SIGTERM
_TRACE = "SUPERCLOUD_TRACE"


def build(arguments: Sequence[str]) -> App:
    """The whole command line, nothing of it imported yet. The command that is asked for explains itself."""
    app = App(
        name="supercloud",
        version=__version__,
        help="One cloud that belongs to its user, spread over clouds that belong to others.",
        help_epilogue="First steps: supercloud up; supercloud doctor; supercloud demo",
        default_parameter=Parameter(negative_bool=(), negative_iterable=()),
        result_action="return_value",
    )
    for name, (where, help_text) in _COMMANDS.items():
        own = None if name in arguments[:1] else help_text
        app.command(f"supercloud.cli.commands.{where}", name=name, help=own)
    if not _COMMANDS.keys() & set(arguments[:1]):  # it loads what knows shells
        app.register_install_completion_command(name="--install-completion")
    return app


def main() -> None:
    """The console script. Exit status: 0, or that of the error (see model.errors), or 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that scratch files are removed
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One command; its exit status. What is wrong is one line on standard error."""
    from supercloud.cli.output import print_error
    from supercloud.model.errors import SupercloudError

    try:
        result = _called(arguments)
        sys.stdout.flush()
    except SupercloudError as error:
        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left. Nobody is there to be told, nor anything to be flushed to at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return result if isinstance(result, int) else 0


def _called(arguments: Sequence[str]) -> Any:
    """
    Raises:
        SupercloudError: whatever went wrong.
    """
    from supercloud.model.errors import Failed, InvalidInput, SupercloudError

    try:
        return build(arguments)(arguments, exit_on_error=False, print_error=False)
    except (SupercloudError, BrokenPipeError):
        raise
    except CycloptsError as error:
        raise InvalidInput(_usage(error), hint=_help_of(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failed(f"{where}{error.strerror or error}") from error
    except Exception as error:
        if os.environ.get(_TRACE):
            raise
        raise Failed(f"a bug: {type(error).__name__}: {error}", hint=f"{_TRACE}=1 shows where") from error


def _usage(error: CycloptsError) -> str:
    try:
        return " ".join(str(error).split())
    except ImportError as missing:  # it looks at every command for one of a similar name
        return str(missing)


def _help_of(error: CycloptsError) -> str:
    return " ".join(("supercloud", *(error.command_chain or ()), "--help"))
