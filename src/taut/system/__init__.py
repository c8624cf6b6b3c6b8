"""The lowest room: errors, files, locks, signals, random numbers, processes and memory.

Nothing here knows of models. Read ``errors`` first, then ``storage`` (files that survive a kill)
and ``parallel`` (several processes that give the numbers of one).
"""
