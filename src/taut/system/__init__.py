"""Below everything: errors, files, locks, signals, random numbers, processes and memory.

Nothing here knows of models.
"""
