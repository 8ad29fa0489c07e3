"""Numbers of the Linux x86-64 ABI, as plain ints, each block with its header and version.

Nothing here is an enum: the kernel takes any bit pattern from user space, and so do the system
calls of this package. Values are those of Linux v6.18 unless a line says otherwise.
"""

from typing import Final

# include/asm/page.h, arch/x86/include/asm/page_types.h and page_64_types.h, v6.18
PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_MASK: Final = ~(PAGE_SIZE - 1)
PMD_SIZE: Final = 2 << 20
HPAGE_PMD_ORDER: Final = 9
TASK_SIZE: Final = 0x7FFF_FFFF_F000  # 47 bits less one page, four-level page tables
U64_MAX: Final = (1 << 64) - 1

# include/uapi/asm-generic/mman-common.h, v6.18
PROT_NONE: Final = 0x0
PROT_READ: Final = 0x1
PROT_WRITE: Final = 0x2
PROT_EXEC: Final = 0x4
PROT_SEM: Final = 0x8
PROT_GROWSDOWN: Final = 0x0100_0000
PROT_GROWSUP: Final = 0x0200_0000

# include/uapi/linux/mman.h, v6.18
MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_DROPPABLE: Final = 0x08
# include/uapi/asm-generic/mman-common.h, v6.18
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x1_0000
MAP_STACK: Final = 0x2_0000
MAP_HUGETLB: Final = 0x4_0000
MAP_SYNC: Final = 0x8_0000
MAP_FIXED_NOREPLACE: Final = 0x10_0000
MAP_UNINITIALIZED: Final = 0x400_0000
# arch/x86/include/uapi/asm/mman.h, v6.18
MAP_32BIT: Final = 0x40
MAP_ABOVE4G: Final = 0x80
# include/uapi/asm-generic/mman.h, v6.18
MAP_GROWSDOWN: Final = 0x0100
MAP_DENYWRITE: Final = 0x0800
MAP_EXECUTABLE: Final = 0x1000
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
# include/uapi/asm-generic/hugetlb_encode.h, v6.18
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_MASK: Final = 0x3F
MAP_HUGE_2MB: Final = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB: Final = 30 << MAP_HUGE_SHIFT
# Kravetz's RFC PATCH 3/3 (2017-10-12). v4.15 gave the bit to MAP_SYNC, so a real kernel reads
# it so (docs/fidelity.md).
MAP_CONTIG: Final = 0x8_0000
# include/linux/mman.h, v6.18: flags that MAP_SHARED always knew
LEGACY_MAP_MASK: Final = (
    MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE
    | MAP_UNINITIALIZED | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK
    | MAP_STACK | MAP_HUGETLB | MAP_32BIT | MAP_ABOVE4G | MAP_HUGE_2MB | MAP_HUGE_1GB
)  # fmt: skip

# include/uapi/linux/mman.h, v6.18
MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4
OVERCOMMIT_GUESS: Final = 0
OVERCOMMIT_ALWAYS: Final = 1
OVERCOMMIT_NEVER: Final = 2

# include/uapi/asm-generic/mman.h and mman-common.h, v6.18
MLOCK_ONFAULT: Final = 1
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4

# include/uapi/asm-generic/mman-common.h, v6.18
MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25
MADV_HWPOISON: Final = 100
MADV_SOFT_OFFLINE: Final = 101
MADV_GUARD_INSTALL: Final = 102
MADV_GUARD_REMOVE: Final = 103

# include/uapi/asm-generic/resource.h, v6.18
RLIMIT_DATA: Final = 2
RLIMIT_STACK: Final = 3
RLIMIT_NOFILE: Final = 7
RLIMIT_MEMLOCK: Final = 8
RLIMIT_AS: Final = 9
RLIM_NLIMITS: Final = 16
RLIM_INFINITY: Final = U64_MAX
RLIMIT_NUMBERS: Final = {
    "CPU": 0, "FSIZE": 1, "DATA": RLIMIT_DATA, "STACK": RLIMIT_STACK, "CORE": 4, "RSS": 5,
    "NPROC": 6, "NOFILE": RLIMIT_NOFILE, "MEMLOCK": RLIMIT_MEMLOCK, "AS": RLIMIT_AS, "LOCKS": 10,
    "SIGPENDING": 11, "MSGQUEUE": 12, "NICE": 13, "RTPRIO": 14, "RTTIME": 15,
}  # fmt: skip

# include/uapi/linux/personality.h, v6.18
ADDR_NO_RANDOMIZE: Final = 0x4_0000
MMAP_PAGE_ZERO: Final = 0x10_0000
ADDR_COMPAT_LAYOUT: Final = 0x20_0000
READ_IMPLIES_EXEC: Final = 0x40_0000

# include/uapi/linux/mempolicy.h, v6.18
MPOL_DEFAULT: Final = 0
MPOL_PREFERRED: Final = 1
MPOL_BIND: Final = 2
MPOL_INTERLEAVE: Final = 3
MPOL_LOCAL: Final = 4
MPOL_PREFERRED_MANY: Final = 5
MPOL_WEIGHTED_INTERLEAVE: Final = 6
MPOL_MAX: Final = 7
MPOL_F_STATIC_NODES: Final = 1 << 15
MPOL_F_RELATIVE_NODES: Final = 1 << 14
MPOL_F_NUMA_BALANCING: Final = 1 << 13
MPOL_F_NODE: Final = 1
MPOL_F_ADDR: Final = 2
MPOL_F_MEMS_ALLOWED: Final = 4
MPOL_MF_STRICT: Final = 1
MPOL_MF_MOVE: Final = 2
MPOL_MF_MOVE_ALL: Final = 4

# include/uapi/linux/fcntl.h, v6.18
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 0x01
F_SEAL_SHRINK: Final = 0x02
F_SEAL_GROW: Final = 0x04
F_SEAL_WRITE: Final = 0x08
F_SEAL_FUTURE_WRITE: Final = 0x10
F_SEAL_EXEC: Final = 0x20
# include/uapi/asm-generic/fcntl.h, v6.18
O_WRONLY: Final = 0o1
O_RDWR: Final = 0o2
O_ACCMODE: Final = 0o3
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_TRUNC: Final = 0o1000
O_CLOEXEC: Final = 0o200_0000
# include/uapi/linux/limits.h, v6.18
NAME_MAX: Final = 255  # bytes, the terminating zero not counted
PATH_MAX: Final = 4096  # bytes, the terminating zero counted
# include/uapi/linux/memfd.h, v6.18
MFD_CLOEXEC: Final = 0x01
MFD_ALLOW_SEALING: Final = 0x02
MFD_HUGETLB: Final = 0x04
MFD_NOEXEC_SEAL: Final = 0x08
MFD_EXEC: Final = 0x10
# include/uapi/linux/falloc.h, v6.18
FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_COLLAPSE_RANGE: Final = 0x08
FALLOC_FL_ZERO_RANGE: Final = 0x10
FALLOC_FL_INSERT_RANGE: Final = 0x20
FALLOC_FL_UNSHARE_RANGE: Final = 0x40
FALLOC_FL_WRITE_ZEROES: Final = 0x80

# include/uapi/linux/sched.h, v6.18
CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_THREAD: Final = 0x1_0000
CLONE_NEWNS: Final = 0x2_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000

# include/uapi/linux/prctl.h, v6.18
PR_SET_THP_DISABLE: Final = 41
PR_GET_THP_DISABLE: Final = 42
PR_SET_MDWE: Final = 65
PR_GET_MDWE: Final = 66
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
PR_MDWE_NO_INHERIT: Final = 2
PR_SET_MEMORY_MERGE: Final = 67
PR_GET_MEMORY_MERGE: Final = 68
PR_SET_VMA: Final = 0x5356_4D41

# include/uapi/asm-generic/errno-base.h and errno.h, v6.18
EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
EBADF: Final = 9
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
ENODEV: Final = 19
EINVAL: Final = 22
EMFILE: Final = 24
EFBIG: Final = 27
ENOSPC: Final = 28
ESPIPE: Final = 29
ENAMETOOLONG: Final = 36
ENOSYS: Final = 38
EOVERFLOW: Final = 75
EOPNOTSUPP: Final = 95

# include/uapi/asm-generic/signal.h and siginfo.h, v6.18
SIGBUS: Final = 7
SIGKILL: Final = 9
SIGSEGV: Final = 11
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRERR: Final = 2
SI_KERNEL: Final = 0x80
