"""Many runs of one command: what to try, the processes that try it, and what came of it."""
