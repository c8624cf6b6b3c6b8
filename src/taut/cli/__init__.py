"""The command line: one function a command, and the only room that prints.

Results go to stdout, progress and messages to stderr, and every error that the user can fix is
one line (what, where, what to do) and an exit code.

Read ``app`` first; ``terminal`` says what the user sees.
"""
