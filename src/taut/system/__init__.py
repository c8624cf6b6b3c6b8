"""The lowest room: errors, files, locks, signals, random numbers, processes and memory.

Nothing here knows of models. Randomness is derived from (seed, stream, step) and never stored, so
a resumed training draws the same noise; files are written under another name and renamed, so that
a kill leaves a whole one.

Read ``errors`` first, then ``storage`` (files that survive a kill) and ``parallel`` (several
processes that give the numbers of one).
"""
