"""Searches with Ray Tune: points, shared burn-ins, trials, results."""
