"""The first lines of a task, run as a file: SLURM's signals wait until `slurm_task.Task` listens.

What else a task imports before takes half a second, in which SIGUSR2 would end it.
"""

import signal
import sys

SIGNALS = {signal.SIGUSR2, signal.SIGTERM}

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    from submitit.core.submission import submitit_main

    del sys.argv[1:-1]  # python's own words, of the command that submitit makes: -u -m submitit.core._submit FOLDER
    submitit_main()
