"""Training: gradient ascent on a bound, by AdamW, with a running average of the weights.

Read ``loop`` first: it is one page. ``step`` is one step, ``graph`` its compiled form, ``pace``
chooses between them and the number of threads, ``checkpoint`` keeps the state on the disk.
"""
