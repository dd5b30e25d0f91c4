"""What the user types and sees: arguments, messages, progress."""
