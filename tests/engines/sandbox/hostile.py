"""Hostile programs, and how each must end: "contained" where it prints that itself, else a word of the reason."""
# ruff: noqa: E501  programs read best on one line

PRELUDE = """
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def refused(act):
    try:
        act()
    except (OSError, ValueError):
        return True
    return False
def call(number, *arguments):
    if libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
def contained(*truths):
    print("contained" if all(truths) else "ESCAPED")
"""

RESOURCES = {
    "fork_bomb": ("while True: os.fork()", "exit code 1"),
    "fork_bomb_whose_children_stay": (
        "try:\n while True:\n  if os.fork() == 0: time.sleep(60)\nexcept OSError: contained(True)",
        "contained",
    ),
    "thread_bomb": (
        "def stay(): time.sleep(60)\ntry:\n while True: threading.Thread(target=stay, daemon=True).start()\n"
        "except RuntimeError: contained(True)",
        "contained",
    ),
    "memory_in_one_block": ("x = bytearray(2 << 30)", "MemoryError"),
    "memory_by_many_lists": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
    "memory_of_many_processes": (
        "for _ in range(8):\n if os.fork() == 0:\n  x = bytearray(b'x') * (200 << 20); time.sleep(60)\n"
        "time.sleep(60)",
        "",
    ),
    "memory_by_mmap": ("import mmap\nx = [mmap.mmap(-1, 100 << 20) for _ in range(100)]", "exit code 1"),
    "memory_locked": ("contained(refused(lambda: call(149, 0, 4096)))", "contained"),
    "disk_by_one_file": (
        "def fill():\n with open('/tmp/f', 'wb') as f:\n  while True: f.write(b'x' * (1 << 20))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ncontained(refused(fill))",
        "contained",
    ),
    "disk_by_many_files": (
        "def fill():\n for i in range(10**6): open(f'/tmp/{i}', 'wb').close()\ncontained(refused(fill))",
        "contained",
    ),
    "disk_by_a_sparse_file": (
        "contained(refused(lambda: os.truncate(os.open('/tmp/f', 66), 1 << 40)))",
        "contained",
    ),
    "disk_by_deep_folders": (
        "def dig():\n for i in range(10**6): os.mkdir('d'); os.chdir('d')\ncontained(refused(dig))",
        "contained",
    ),
    "descriptors": (
        "def take():\n while True: os.open('/dev/null', 0)\ncontained(refused(take))",
        "contained",
    ),
    "pipes": ("def take():\n while True: os.pipe()\ncontained(refused(take))", "contained"),
    "flood_of_output": ("while True: print('x' * 10000)", "kB of output"),
    "flood_of_errors": ("while True: print('x' * 10000, file=sys.stderr)", "kB of output"),
    "flood_by_children": (
        "for _ in range(6): os.fork()\nwhile True: os.write(1, b'x' * 9999)",
        "kB of output",
    ),
    "endless_loop": ("while True: pass", "time"),
    "endless_loop_deaf_to_signals": (
        "for n in range(1, 65):\n try: signal.signal(n, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
        "while True: pass",
        "time",
    ),
    "endless_loops_of_children": ("for _ in range(4): os.fork()\nwhile True: pass", "time"),
    "endless_import": (
        "open('/tmp/m.py', 'w').write('while True: pass')\nsys.path.insert(0, '/tmp')\nimport m",
        "time",
    ),
    "endless_exit": ("import atexit\natexit.register(lambda: [None for _ in iter(int, 1)])", ""),
    "endless_regex": ("import re\nre.match('(a+)+$', 'a' * 64 + 'b')", "time"),
    "endless_number": ("x = 7 ** (10 ** 9)", "time"),
    "sleep": ("time.sleep(600)", "wall time"),
    "sleep_until_just_before_the_deadline": ("time.sleep(2.7)\nwhile True: print('x' * 999)", ""),
    "stop_of_itself": ("os.kill(os.getpid(), signal.SIGSTOP)", "wall time"),
    "stack": ("sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()", ""),
    "nested_source": ("eval('(' * 10 ** 5 + ')' * 10 ** 5)", ""),
    "limits_raised": (
        "contained(*(refused(lambda k=k: resource.setrlimit(k, (-1, -1))) for k in (0, 1, 3, 6, 7, 9)))",
        "contained",
    ),
    "priority_raised": (
        "contained(refused(lambda: os.nice(-5)), refused(lambda: call(144, 0, 1, b'\\1\\0\\0\\0')))",
        "contained",
    ),
}
NETWORK = {
    f"socket_{name}": (f"contained(refused(lambda: socket.socket({number}, {kind})))", "contained")
    for name, number, kind in (
        ("unix", 1, 1), ("inet", 2, 1), ("inet6", 10, 1), ("inet_raw", 2, 3), ("netlink", 16, 3),
        ("packet", 17, 3), ("bluetooth", 31, 1), ("alg", 38, 5), ("vsock", 40, 1), ("xdp", 44, 3),
    )
} | {
    "socket_of_every_family": (
        "contained(*(refused(lambda: socket.socket(f, k)) for f in range(46) for k in range(1, 7)))", "contained",
    ),
    "network_by_getaddrinfo": ("contained(refused(lambda: socket.getaddrinfo('example.com', 80)))", "contained"),
}  # fmt: skip
KERNEL = {
    name: (f"contained(refused(lambda: call({arguments})))", "contained")
    for name, arguments in {
        "ptrace_traceme": "101, 0, 0, 0, 0",
        "ptrace_attach": "101, 16, os.getppid(), 0, 0",
        "ptrace_seize": "101, 0x4206, 1, 0, 0",
        "memory_of_another_process": "310, 1, 0, 0, 0, 0, 0",
        "write_memory_of_another_process": "311, 1, 0, 0, 0, 0, 0",
        "unshare_user_namespace": "272, 0x10000000",
        "unshare_mounts": "272, 0x20000",
        "clone_user_namespace": "56, 0x10000011, 0, 0, 0, 0",
        "clone_network_namespace": "56, 0x40000011, 0, 0, 0, 0",
        "clone3": "435, 0, 0",
        "setns": "308, 0, 0",
        "mount": "165, b'x', b'/tmp', b'tmpfs', 0, 0",
        "umount": "166, b'/proc', 2",
        "move_mount": "429, 0, b'', 0, b'', 0",
        "pivot_root": "155, b'/tmp', b'/tmp'",
        "chroot": "161, b'/tmp'",
        "keyring_add": "248, b'user', b'k15', b'x', 1, -3",
        "keyring_read": "250, 11, -3, 0, 0, 0",
        "keyring_request": "249, b'user', b'k15', 0, 0",
        "bpf": "321, 0, 0, 0",
        "perf_event_open": "298, 0, 0, -1, -1, 0",
        "io_uring": "425, 8, 0",
        "userfaultfd": "323, 0",
        "memfd": "319, b'x', 0",
        "shared_memory_segment": "29, 1, 4096, 0o1666",
        "message_queue": "240, b'/k15', 66, 0o666, 0",
        "reboot": "169, 0xfee1dead, 672274793, 0x1234567, 0",
        "kernel_module": "175, 0, 0, b''",
        "kexec": "246, 0, 0, 0, 0",
        "hostname": "170, b'x', 1",
        "clock": "227, 0, 0",
        "personality": "135, 0x0040000",
        "swap": "167, b'/tmp/x', 0",
        "syslog": "103, 3, 0, 0",
        "open_by_handle": "304, -100, 0, 0",
        "pidfd_of_the_first_process": "434, 1, 0",
        "device_node": "133, b'/tmp/d', 0o20666, 0x101",
        "become_root": "105, 0",
        "regain_capabilities": "126, 0, 0",
    }.items()
} | {
    "x32_system_call": ("call(0x40000000 + 39)", "signal 31"),
    "32_bit_system_call": (
        "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()", "signal 31",
    ),
    "setuid_program": (
        "p = subprocess.run(['/usr/bin/su', '-c', 'id'], capture_output=True, text=True, input='')\n"
        "contained('uid=0' not in p.stdout)", "contained",
    ),
    "setuid_bit_of_its_own": (
        "import shutil\nshutil.copy('/usr/bin/id', 'i'); os.chmod('i', 0o6755)\n"
        "contained('uid=0' not in subprocess.run(['./i'], capture_output=True, text=True).stdout.split(' ')[0]"
        " or os.getuid() == 0)", "contained",
    ),
}  # fmt: skip
FILES = {
    "host_files": (
        "contained(*(not os.path.exists(p) for p in ('/etc/shadow', '/root', '/home', '/work', '/var', '/sys', '/run',"
        " '/usr/local', '/boot', '/opt', '/etc/ssl', '/dev/mem', '/dev/kmsg', '/dev/sda')))", "contained",
    ),
    "host_files_by_dots": ("contained(refused(lambda: open('/tmp/../../../../../etc/shadow')))", "contained"),
    "host_files_by_a_symlink": (
        "os.symlink('/etc/shadow', 's'); os.symlink('/../..', 'u')\n"
        "contained(refused(lambda: open('s')), sorted(os.listdir('u')) == sorted(os.listdir('/')))", "contained",
    ),
    "hard_link_to_what_is_not_its_own": ("contained(refused(lambda: os.link('/usr/bin/su', 'l')))", "contained"),
    "write_to_the_root": (
        "contained(*(refused(lambda p=p: open(p, 'w')) for p in ('/x', '/usr/x', '/etc/passwd', '/usr/bin/python3')))",
        "contained",
    ),
    "write_to_the_fork_server": (
        "import k15.engines.sandbox.inside.world as w\n"
        "contained(refused(lambda: open(w.__file__, 'a')), refused(lambda: os.unlink(w.__file__)))", "contained",
    ),
    "first_process_in_proc": (
        "contained(*(refused(lambda n=n: os.listdir('/proc/1/' + n)) for n in ('root', 'fd', 'cwd')),"
        " *(refused(lambda n=n: open('/proc/1/' + n).read()) for n in ('environ', 'mem')))", "contained",
    ),
    "other_processes_in_proc": ("contained({int(p) for p in os.listdir('/proc') if p.isdigit()} <= {1, 2})", "contained"),
    "kernel_settings_in_proc": (
        "contained(*(refused(lambda p=p: open('/proc/sys/' + p, 'w').write('x')) for p in ('kernel/core_pattern',"
        " 'kernel/hostname', 'vm/overcommit_memory')), refused(lambda: open('/proc/sysrq-trigger', 'w').write('b')))",
        "contained",
    ),
    "oom_score_lowered": (
        "contained(refused(lambda: open('/proc/self/oom_score_adj', 'w').write('-1000')))", "contained",
    ),
    "descriptors_left_open": (
        "contained(not [n for n in range(4, 1024) if not refused(lambda: os.fstat(n))])", "contained",
    ),
    "environment": ("contained(set(os.environ) <= {'PATH', 'HOME', 'LANG', 'TMPDIR', 'LC_CTYPE'})", "contained"),
    "cgroups": ("contained(not os.path.exists('/sys'), refused(lambda: os.mkdir('/proc/self/cgroup')))", "contained"),
}  # fmt: skip
PROCESSES = {
    "kill_everything": ("try: os.kill(-1, 9)\nexcept OSError: pass\ncontained(True)", "contained"),
    "kill_the_first_process": (
        "try: os.kill(1, 9)\nexcept OSError: pass\ntime.sleep(0.05)\ncontained(os.path.exists('/proc/self'))",
        "contained",
    ),
    "kill_the_parent": ("try: os.kill(os.getppid(), 15)\nexcept OSError: pass\ncontained(True)", "contained"),
    "stop_the_first_process": ("try: os.kill(1, 19)\nexcept OSError: pass\ncontained(True)", "contained"),
    "kill_many_numbers": (
        "for n in range(1, 70000):\n if n != os.getpid():\n  try: os.kill(n, 9)\n  except OSError: pass\ncontained(True)",
        "contained",
    ),
    "daemon": (
        "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0: time.sleep(60)\n os._exit(0)\ncontained(True)",
        "contained",
    ),
    "daemon_deaf_to_signals": (
        "if os.fork() == 0:\n os.setsid()\n for n in range(1, 32):\n  if n not in (9, 19): signal.signal(n, 1)\n"
        " time.sleep(60)\ntime.sleep(0.1)\ncontained(True)",
        "contained",
    ),
    "zombies": (
        "for _ in range(20):\n if os.fork() == 0: os._exit(0)\ntime.sleep(0.1)\ncontained(True)",
        "contained",
    ),
    "execution_of_a_shell": (
        "p = subprocess.run('id -u; cat /etc/shadow', shell=True, capture_output=True, text=True)\n"
        "contained('root' not in p.stdout)",
        "contained",
    ),
    "closing_every_descriptor": ("os.closerange(0, 1024)", ""),
    "exit_code_of_the_sandbox": ("os._exit(125)", "exit code 125"),
    "fake_frames_on_every_descriptor": (
        "for n in range(200):\n try: os.write(n, b'\\xff\\0\\0\\0\\0\\2{}')\n except OSError: pass\nos._exit(1)",
        "exit code 1",
    ),
    "binary_output": ("os.write(1, bytes(range(256)) * 100)\nos._exit(3)", "exit code 3"),
    "lone_surrogates": ("print('\\udcff' * 100)\nsys.exit(3)", "exit code 3"),
    "zero_bytes_in_the_source": ("\0", "exit code 1"),
    "broken_standard_streams": (
        "sys.stdout = sys.stderr = sys.stdin = None\nimport json; json.loads = None",
        "exit code 1",
    ),
}
HOSTILE = {**RESOURCES, **NETWORK, **KERNEL, **FILES, **PROCESSES}
