"""The PAC key module: a CRIU plugin in C, how it is built, and the key file it writes."""
