"""`ddpmlib` beside what one would pick instead: `python -m benchmarks`, see README.md here."""
