"""Trains or evaluates clara-nano, or its abstention head, from a checkout of the repository.

    python -m clara_proxy.benchmarks.nano train --help
    python -m clara_proxy.benchmarks.nano evaluate --help
    python -m clara_proxy.benchmarks.nano abstention --help

Without a command it evaluates the checkpoint in the package.
"""

import sys

from . import abstention, accuracy_table, train

COMMANDS = {"train": train.main, "evaluate": accuracy_table.main, "abstention": abstention.main}


def main(arguments: list[str]) -> None:
    """Run the command in the first argument."""
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    elif arguments and arguments[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
    else:
        accuracy_table.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
