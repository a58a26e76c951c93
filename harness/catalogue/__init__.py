"""What exists and what is predicted: frozen values and pure functions, no input or output."""
