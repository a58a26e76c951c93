"""What every room stands on: errors, deadlines, steps, processes, run directories, package data."""
