"""What a key file holds, for people and as JSON: fingerprints, never keys."""

from harness.key_module.cpu_names import algorithm_name, cpu_name
from harness.key_module.keyfile import KeyFile


def describe(file: KeyFile, salt: bytes) -> dict[str, object]:
    """Return the facts about a key file by name; fingerprints are salted with ``salt``."""
    tasks = {
        str(pid): [
            {
                "thread": thread.tid,
                "keys": thread.fingerprint(salt),
                "enabled": None if thread.enabled_keys is None else f"{thread.enabled_keys:#x}",
            }
            for thread in threads
        ]
        for pid, threads in file.tasks.items()
    }
    return {
        "pointer authentication": file.address_auth,
        "generic authentication": file.generic_auth,
        "CPU": cpu_name(file.midr),
        "kernel": file.kernel_release,
        "algorithm": algorithm_name(file.address_probe),
        "mask": f"{file.insn_mask:#018x}",
        "threads": len(file.threads),
        "distinct keys": len({thread.fingerprint(salt) for thread in file.threads} - {None}),
        "tasks": tasks,
    }
