"""A run: the folder that holds a training, and what is done to it (fit, tighten, audit, measure).

Read ``folder`` first.
"""
