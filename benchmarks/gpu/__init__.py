"""What one GPU does with this project, in one run: `python -m benchmarks.gpu`."""
