"""The command line: `supercloud COMMAND`. Each command's code is imported when it is used, and no sooner."""

from __future__ import annotations

import sys

from cyclopts import App

from supercloud import __version__

_COMMANDS = {
    "up": ("system:up", "Start the control plane and the key store on this machine"),
    "down": ("system:down", "End them; instances run on"),
    "status": ("system:status", "What runs, and how long run rights last"),
    "backup": ("system:backup", "Write the control plane's state to a file"),
    "restore": ("system:restore", "Put the state of a backup in place"),
    "doctor": ("system:doctor", "What this machine can do, and what is missing"),
    "provider": ("provider:app", "Domains with their platforms"),
    "cloud": ("cloud:app", "Self-service clouds"),
    "blanket": ("blanket:app", "Hypervisors of your own, on providers' platforms"),
    "image": ("image:app", "Bootable disks"),
    "network": ("network:app", "Encrypted networks over all blankets of a cloud"),
    "volume": ("volume:app", "Encrypted disks"),
    "vm": ("vm:app", "Instances: run, look, stop, migrate"),
    "operation": ("operation:app", "What is being done, and what was"),
    "demo": ("demo:demo", "Two domains, one cloud, live migrations under load: on real VMs"),
    "bench": ("bench:bench", "Measure: migration, api, footprint"),
}


def build() -> App:
    """The whole command line, nothing of it imported yet."""
    app = App(
        name="supercloud",
        version=__version__,
        help="One cloud that belongs to its user, spread over clouds that belong to others.",
        help_epilogue="First steps: supercloud up; supercloud doctor; supercloud demo",
        result_action="return_value",
    )
    for name, (where, help_text) in _COMMANDS.items():
        app.command(f"supercloud.cli.commands.{where}", name=name, help=help_text)
    app.register_install_completion_command(name="--install-completion")
    return app


def main() -> None:
    """The console script. Exit status: 0, or that of the error (see model.errors), or 130 after Ctrl-C."""
    from supercloud.cli.output import print_error
    from supercloud.model.errors import SupercloudError

    try:
        result = build()(exit_on_error=True)
    except SupercloudError as error:
        print_error(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; nobody is there to be told
        sys.exit(141)
    sys.exit(result if isinstance(result, int) else 0)
