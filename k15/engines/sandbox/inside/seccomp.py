"""The system calls a case may make: everything else is refused (seccomp(2), classic BPF, x86-64)."""

import ctypes
import os
import struct

from k15.engines.sandbox.inside.kernel import call

# Files, memory, processes, signals, time, pipes. Not here: sockets other than pairs, namespaces, mounts,
# ptrace, keys, bpf, io_uring, perf, System V IPC, memfd, modules, setting clocks, changing users.
ALLOWED = """
    read=0 write=1 open=2 close=3 stat=4 fstat=5 lstat=6 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12
    rt_sigaction=13 rt_sigprocmask=14 rt_sigreturn=15 pread64=17 pwrite64=18 readv=19 writev=20 access=21
    pipe=22 select=23 sched_yield=24 mremap=25 msync=26 mincore=27 madvise=28 dup=32 dup2=33 pause=34
    nanosleep=35 getitimer=36 alarm=37 setitimer=38 getpid=39 sendfile=40 sendto=44 recvfrom=45 sendmsg=46
    recvmsg=47 shutdown=48 getsockname=51 getpeername=52 socketpair=53 setsockopt=54 getsockopt=55 clone=56
    fork=57 vfork=58 execve=59 exit=60 wait4=61 kill=62 uname=63 fcntl=72 flock=73 fsync=74 fdatasync=75
    truncate=76 ftruncate=77 getdents=78 getcwd=79 chdir=80 fchdir=81 rename=82 mkdir=83 rmdir=84 creat=85
    link=86 unlink=87 symlink=88 readlink=89 chmod=90 fchmod=91 umask=95 gettimeofday=96 getrlimit=97
    getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 setpgid=109 getppid=110
    getpgrp=111 setsid=112 getpgid=121 getsid=124 rt_sigpending=127 rt_sigtimedwait=128 rt_sigqueueinfo=129
    rt_sigsuspend=130 sigaltstack=131 utime=132 statfs=137 fstatfs=138 getpriority=140 setpriority=141
    sched_getparam=143 sched_getscheduler=145 sched_get_priority_max=146 sched_get_priority_min=147
    prctl=157 arch_prctl=158 setrlimit=160 sync=162 gettid=186 time=201 futex=202 sched_setaffinity=203
    sched_getaffinity=204 epoll_create=213 getdents64=217 set_tid_address=218 restart_syscall=219
    fadvise64=221 timer_create=222 timer_settime=223 timer_gettime=224 timer_getoverrun=225 timer_delete=226
    clock_gettime=228 clock_getres=229 clock_nanosleep=230 exit_group=231 epoll_wait=232 epoll_ctl=233
    tgkill=234 utimes=235 waitid=247 openat=257 mkdirat=258 newfstatat=262 unlinkat=263 renameat=264
    linkat=265 symlinkat=266 readlinkat=267 fchmodat=268 faccessat=269 pselect6=270 ppoll=271
    set_robust_list=273 get_robust_list=274 splice=275 tee=276 utimensat=280 epoll_pwait=281 signalfd=282
    timerfd_create=283 eventfd=284 fallocate=285 timerfd_settime=286 timerfd_gettime=287 signalfd4=289
    eventfd2=290 epoll_create1=291 dup3=292 pipe2=293 preadv=295 pwritev=296 prlimit64=302 getcpu=309
    getrandom=318 renameat2=316 copy_file_range=326 preadv2=327 pwritev2=328 statx=332 rseq=334
    faccessat2=439 close_range=436 tkill=200 ioctl=16 getgroups=115 getresuid=118 getresgid=120
    membarrier=324 capget=125
"""
CLONE, CLONE3 = 56, 435
CLONE_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW* of clone(2), NEWTIME included
AUDIT_ARCH_X86_64 = 0xC000003E
X32_BIT = 0x40000000
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
EPERM, ENOSYS = 1, 38
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_FIRST_ARGUMENT = 0, 4, 16
PR_SET_SECCOMP, MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def allowed() -> dict[str, int]:
    """Number of each allowed system call, by name."""
    return {name: int(number) for name, number in (row.split("=") for row in ALLOWED.split())}


def program() -> bytes:
    """The filter: foreign architectures kill, clone3 is ENOSYS (C libraries fall back), the rest EPERM."""

    def step(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, otherwise, operand)

    steps = [
        step(LOAD, OFFSET_ARCH),
        step(EQUAL, AUDIT_ARCH_X86_64, then=1),
        step(RETURN, KILL),
        step(LOAD, OFFSET_NUMBER),
        step(AT_LEAST, X32_BIT, otherwise=1),
        step(RETURN, KILL),
        step(EQUAL, CLONE3, otherwise=1),
        step(RETURN, ERRNO | ENOSYS),
        step(EQUAL, CLONE, otherwise=4),
        step(LOAD, OFFSET_FIRST_ARGUMENT),
        step(ANY_BIT, CLONE_NEW_NAMESPACES, otherwise=1),
        step(RETURN, ERRNO | EPERM),
        step(RETURN, ALLOW),
    ]
    for number in sorted(set(allowed().values()) - {CLONE}):
        steps += [step(EQUAL, number, otherwise=1), step(RETURN, ALLOW)]
    return b"".join([*steps, step(RETURN, ERRNO | EPERM)])


if os.uname().machine != "x86_64":
    raise RuntimeError("the sandbox's table of system calls is for x86-64; add this machine's numbers")
_CODE = ctypes.create_string_buffer(program())
_FILTER = _Program(len(program()) // 8, ctypes.addressof(_CODE))


def install() -> None:
    """Put this process and all it starts under the filter, for good."""
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(_FILTER), 0, 0)
