"""Files, batches and pixels: everything that reads images or changes them."""
