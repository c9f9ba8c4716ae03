"""Pseudo-labels: which teacher version labels which step, who asks, who answers, and where the answers are kept."""
