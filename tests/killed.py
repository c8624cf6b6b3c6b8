"""The command ``taut`` for a test.

The first time, its second process is killed when three checks of the weights are done.
"""

from __future__ import annotations

import os
import signal

from taut.cli.app import main
from taut.system import parallel

checks = 0
check_same = parallel.check_same


def check_and_die(*arguments: object) -> None:
    global checks
    checks += 1
    if checks == 4 and parallel.restarts() == 0 and parallel.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    check_same(*arguments)


if __name__ == "__main__":
    parallel.check_same = check_and_die
    main()
