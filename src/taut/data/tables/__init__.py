"""Tables of mixed types: what each column is, its cells as numbers, and back.

Read ``column`` first, then ``infer``.
"""
