"""`raydet doctor`: what would go wrong, before it does. Each file looks at one thing and returns findings."""
