"""What the chapters study beyond the library: one module a study, and `records` for what is kept.

A notebook's folder is on its own path, so a chapter says ``from studies import ablations``.
"""
