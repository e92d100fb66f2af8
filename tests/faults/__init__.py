"""Faults of the machine and of clients, injected for real into an edgesyncd of its own.

Cards are loop devices that fill up or go read-only by the kernel's own doing. What no
kernel does on demand (a failed or slow write, a clock that jumps) comes from
`shim.c`, which the service is started with: it stands between the program, SQLite
included, and the system calls.

Each fault: nothing acknowledged is lost, other clients are served, the operator is told.
"""
