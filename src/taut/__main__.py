"""Lets ``python -m taut`` and ``torchrun -m taut`` be the command ``taut``."""

from taut.cli.app import main

main()
