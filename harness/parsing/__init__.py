"""Bytes or text in, dataclass out: what kernels, cores, programs and CRIU say."""
