"""The Trainer's loaders, samplers and loggers."""
