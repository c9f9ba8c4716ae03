"""Networks that turn normalised images into feature vectors, one file per family; `raydet/vision/classifier.py` is the
way in.

Every network has `width` (features per image), and is called with pixels `[B, 3, S, S]` and the generator of its random
draws.
"""
