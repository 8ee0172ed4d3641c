"""What the pages show of the result files, one file a subject; ``registry`` knows which is which."""
