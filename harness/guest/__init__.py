"""What runs inside a machine: the container engine, CRIU, the workload, the probe."""
