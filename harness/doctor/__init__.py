"""Whether a host, a process, an image, a program or a checkpoint is affected, and what can be done."""
