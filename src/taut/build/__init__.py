"""From what a person asked for and the data to a model: configuration, specification, statistics,
model, checks.

Read ``model`` first.
"""
