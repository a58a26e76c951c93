"""What runs is made of: signed package archives, the lock, bundles, images, the toolchain, the cache."""
