"""Exact solvers: one option per choice, least additive score, costs within budgets or traded along a front."""
