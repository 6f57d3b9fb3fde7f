"""What each format holds → pixels: one module a family, each library imported when a file needs it."""
