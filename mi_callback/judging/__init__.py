"""What was found of samples, against real images of their quality: scores, and what the detector sees of copies."""
