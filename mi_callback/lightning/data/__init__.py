"""What is trained on and what is held out: loaders, the rows that their samplers draw, and what is read of them."""
