"""Lets ``python -m taut`` and ``torchrun -m taut`` be the command ``taut``."""

import sys


def main() -> None:
    """Runs the command line; a Ctrl-C that comes before it has been read is one line, too."""
    try:
        from taut.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("taut: stopped\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
