"""Chaos tests: create, use, kill, freeze and damage sandboxes at random, with checks after each step.

Run: ``make chaos``, or ``python -m tests.chaos --seed 7 --seconds 120``. ``plan.py`` chooses the steps (pure, from the
seed), ``model.py`` defines the expected results (pure), ``steps.py`` lists the steps, ``host_steps.py`` has those that
affect all sandboxes, ``leftovers.py`` finds what is left behind, ``program.py`` runs everything.
"""
