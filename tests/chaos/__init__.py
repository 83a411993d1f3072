"""Chaos: sandboxes made, used, killed, frozen and damaged at random, checked after each step; nothing may be left.

Run: ``make chaos``, or ``python -m tests.chaos --seed 7 --seconds 120``. ``plan.py`` decides what is done (pure, from
the seed alone), ``model.py`` says what must then hold (pure), ``actions.py`` and ``faults.py`` do it, ``sky.py`` does
what concerns all sandboxes at once, ``leftovers.py`` looks for what was left, ``program.py`` runs it all.
"""
