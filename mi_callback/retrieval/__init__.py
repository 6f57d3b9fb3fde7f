"""Which training images come near? Features, views, whitening, search: all that happens before pixels are compared."""
