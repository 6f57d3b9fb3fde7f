"""How sharp, noisy and framed images are, whoever they show; and images made as sharp and noisy as others."""
