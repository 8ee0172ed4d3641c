"""What other trainers import by name."""
