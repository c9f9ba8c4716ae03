"""Changes to the code that the tests should notice: `make.py` writes them, `run.py` tries them."""
