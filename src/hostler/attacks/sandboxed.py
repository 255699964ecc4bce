"""Which attacks are made from inside a sandbox, by the probes of `hostler.attacks.inside`?

Those of `INSIDE` share one sandbox. What stands around that sandbox is planted by `rooms.planted` and `batch`.
"""

from __future__ import annotations

from hostler.attacks.cases import Case, Inside, Promise, Severity


def _case(id_: str, title: str, probe: str, severity: Severity = "critical", needs: Promise = "world") -> Case:
    return Case(id_, title, severity, needs, inside=Inside(probe))


def _by_entrance(id_: str, title: str, probe: str, severity: Severity = "critical", needs: Promise = "world") -> Case:
    return Case(id_, f"{title}, by a command that came in later", severity, needs, inside=Inside(probe, "entrance"))


_A7 = (
    _case("A7.1", "TCP over IPv4 without the proxy", "tcp4", needs="roads"),
    _case("A7.2", "TCP over IPv6 without the proxy", "tcp6", needs="roads"),
    _case("A7.3", "UDP over IPv4", "udp", needs="roads"),
    _case("A7.4", "UDP over IPv6", "udp6", needs="roads"),
    _case("A7.5", "the metadata services of clouds", "metadata", needs="roads"),
    _case("A7.6", "the local networks, and the engine's bridge", "local_networks", needs="roads"),
    _case("A7.7", "broadcast and multicast", "broadcast", needs="roads"),
    _case("A7.8", "the host's own loopback", "host_loopback", needs="roads"),
    _case("A7.9", "ICMP", "ping", needs="roads"),
    _case("A7.10", "SCTP, DCCP, UDP-Lite, MPTCP", "other_transports", needs="roads"),
    _case("A7.11", "DNS with data in the name, to any resolver", "resolvers", needs="roads"),
    _case("A7.12", "names by the system's resolver", "names", needs="roads"),
    _case("A7.13", "an interface besides the loopback", "interfaces", "high", needs="roads"),
    _case("A7.14", "a route", "routes", "high", needs="roads"),
    _case("A7.15", "a new network interface", "new_interface", needs="roads"),
    _case("A7.16", "raw sockets", "raw_sockets", "high", needs="roads"),
    _case("A7.17", "packet, vsock, crypto and other families of sockets", "open_families", "high", needs="roads"),
    _case("A7.18", "a third socket besides the two roads", "two_sockets", needs="roads"),
    _case("A7.19", "denied requests by the forwarder", "road_denials", needs="roads"),
    _case("A7.20", "denied requests by the socket itself", "road_by_socket", needs="roads"),
    _case("A7.21", "the host's loopback by way of the proxy", "road_to_host", needs="roads"),
    _by_entrance("A7.22", "TCP over IPv4 without the proxy", "tcp4", needs="roads"),
    _by_entrance("A7.23", "the host's own loopback", "host_loopback", needs="roads"),
)

_B3 = (
    _case("B3.1", "environments of the worker and a neighbour", "environments"),
    _case("B3.2", "command lines of the worker and a neighbour", "command_lines"),
    _case("B3.3", "maps, mounts and tables of processes", "tables"),
    _case("B3.4", "open files of other processes", "open_files"),
    _case("B3.5", "the worker's memory", "memory"),
    _case("B3.6", "the worker and a neighbour in /proc", "seen_processes"),
    _case("B3.7", "signals to the worker and a neighbour", "signals"),
    _case("B3.8", "handles of the worker's and a neighbour's process", "process_handles"),
    _case("B3.9", "what process 1 was given before it became the sandbox", "first_process"),
    _case("B3.10", "core files", "core_dumps", "high"),
    _case("B3.11", "memory of other processes by system call", "foreign_memory", needs="calls"),
    _by_entrance("B3.12", "environments of the worker and a neighbour", "environments"),
    _by_entrance("B3.13", "command lines of the worker and a neighbour", "command_lines"),
    _case("B3.14", "the host's name", "host_name", "medium"),
)

_B4 = (
    _case("B4.1", "descriptors that the worker forgot to close", "descriptors"),
    _case("B4.2", "sockets of container engines, buses and clusters", "engine_sockets"),
    _case("B4.3", "variables that lead to agents and buses", "agent_variables", "high"),
    _case("B4.4", "an abstract socket of the host", "abstract_socket"),
    _case("B4.5", "shared memory of the host", "shared_memory"),
    _by_entrance("B4.6", "descriptors that the worker forgot to close", "descriptors"),
)

_C1 = (
    _case("C1.1", "a link to a file of the host", "absolute_link"),
    _case("C1.2", "a link with many `..`", "relative_link"),
    _case("C1.3", "a link to a folder of the host", "folder_link"),
    _case("C1.4", "root and working folders of processes", "proc_root_link"),
    _case("C1.5", "a file of the host by its name", "named_file"),
    _case("C1.6", "a hard link to what is not the session's", "hard_links"),
    _case("C1.7", "another folder in place of the workspace", "moved_workspace", "high"),
    _case("C1.8", "places of the host that hold secrets", "host_places"),
    _case("C1.9", "every file, searched for planted words", "searched_mark"),
)

_C6 = (
    _case("C6.1", "mounting", "mounts", needs="calls"),
    _case("C6.2", "mounting by the newer calls", "new_mounts", needs="calls"),
    _case("C6.3", "changing namespaces", "namespaces", needs="calls"),
    _case("C6.4", "tracing", "tracing", "high", needs="calls"),
    _case("C6.5", "programs in the kernel", "kernel_programs", needs="calls"),
    _case("C6.6", "handlers of page faults", "fault_handlers", "high", needs="calls"),
    _case("C6.7", "io_uring", "rings", "high", needs="calls"),
    _case("C6.8", "key rings", "keys", needs="calls"),
    _case("C6.9", "kernel modules and kernel images", "modules", needs="calls"),
    _case("C6.10", "files by handle, past the mount namespace", "handles", needs="calls"),
    _case("C6.11", "the machine's clock, swap, accounting and log", "machine", "high", needs="calls"),
    _case("C6.12", "ports, segments and the host's name", "old_doors", "high", needs="calls"),
    _case("C6.13", "new namespaces by clone", "clone_flags", needs="calls"),
    _case("C6.14", "new namespaces by clone3, whose flags a filter can't see", "clone3", "high", needs="calls"),
    _case("C6.15", "a user namespace, in which one is root", "user_namespace", needs="calls"),
    _case("C6.16", "socket families beyond unix, internet and netlink", "socket_families", "high", needs="calls"),
    _case("C6.17", "typing into a terminal", "typing", "high", needs="calls"),
    _case("C6.18", "the same calls by x32 numbers", "other_abi", "high", needs="calls"),
    _case("C6.19", "the same calls by int 0x80", "old_gate", needs="calls"),
    _case("C6.20", "settings of the kernel", "settings"),
    _case("C6.21", "/sys", "system_tree"),
    _case("C6.22", "memory and symbols of the kernel", "kernel_memory"),
    _case("C6.23", "devices", "devices"),
    _case("C6.24", "new device nodes", "new_devices"),
    _case("C6.25", "capabilities", "capabilities"),
    _case("C6.26", "capabilities that a set-uid program could gain", "bounding_set", "high", needs="calls"),
    _case("C6.27", "new privileges by set-uid programs", "new_privileges"),
    _case("C6.28", "a filter that is not in force", "no_filter", needs="calls"),
    _case("C6.29", "becoming root", "becomes_root"),
    _case("C6.30", "priority and real-time scheduling", "priorities", "high", needs="calls"),
    _case("C6.31", "a hole in the host's kernel", "same_kernel", needs="kernel"),
    _by_entrance("C6.32", "mounting", "mounts", needs="calls"),
    _by_entrance("C6.33", "new namespaces by clone", "clone_flags", needs="calls"),
    _by_entrance("C6.34", "key rings", "keys", needs="calls"),
    _by_entrance("C6.35", "capabilities", "capabilities"),
    _by_entrance("C6.36", "new privileges by set-uid programs", "new_privileges"),
    _by_entrance("C6.37", "a filter that is not in force", "no_filter", needs="calls"),
    _by_entrance("C6.38", "becoming root", "becomes_root"),
    _by_entrance("C6.39", "settings of the kernel", "settings"),
)

_C7 = (
    _case("C7.1", "a changed agent's program", "changes_program"),
    _case("C7.2", "the loader's settings and libraries", "changes_loader"),
    _case("C7.3", "Python's libraries", "changes_python"),
    _case("C7.4", "programs on the path", "changes_programs"),
    _case("C7.5", "profiles of shells", "changes_shells", "high"),
    _case("C7.6", "the system's git configuration", "changes_git", "high"),
    _case("C7.7", "managed settings of the harness", "changes_managed"),
    _case("C7.8", "names, users and certificates", "changes_names"),
    _case("C7.9", "the folder of the roads", "changes_roads"),
    _case("C7.10", "variables of the worker: LD_PRELOAD, NODE_OPTIONS, GIT_*, PYTHONSTARTUP", "environment"),
    _by_entrance("C7.11", "variables of the worker", "environment"),
)

_C3 = (_case("C3.21", "raised limits of descriptors", "raised_limits", "medium", needs="limits"),)

INSIDE = (*_A7, *_B3, *_B4, *_C1, *_C3, *_C6, *_C7)
