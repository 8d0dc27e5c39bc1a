"""Work around the method of conjure_lib: tables of pairs, runs that resume, judgements, figures.

Two sibling methods lie here too: NNGS in :mod:`conjure_tools.neighbors` and MCSE in
:mod:`conjure_tools.grounding`. conjure_lib leads on to some of this where it is asked for.
"""

import conjure_lib  # noqa: F401 - first: it settles how threads wait, before torch is loaded
