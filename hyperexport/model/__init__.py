"""The values that all rooms share: VM, manifest, owner tag, progress, rates, TLS trust."""
