//! The system calls that are left to the compiler: memory, locks, its three descriptors, its end.
//!
//! The pool's threads exist already when the filter is installed, so that nothing here has to allow a
//! thread or a process to be made. No file is opened, no socket made, nothing becomes executable.
//! What is not listed answers EPERM, as libraries try calls that they can do without.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Calls that take no descriptor and no other process, whatever their arguments.
const HARMLESS: [i64; 21] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
];

/// Takes all other system calls from every thread of this process, for ever.
pub(crate) fn install() -> Result<(), String> {
    let program = program().map_err(|error| format!("cannot make the seccomp filter: {error}"))?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| format!("cannot install the seccomp filter: {error}"))
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        HARMLESS.into_iter().map(|call| (call, vec![])).collect();
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    let pid = u64::try_from(rustix::process::getpid().as_raw_pid()).unwrap_or_default();
    // `abort` raises its signal with tgkill.
    let limited = [
        (libc::SYS_read, 0, SeccompCmpOp::Eq, 0),
        (libc::SYS_write, 0, SeccompCmpOp::Eq, 1),
        (libc::SYS_write, 0, SeccompCmpOp::Eq, 2),
        (libc::SYS_writev, 0, SeccompCmpOp::Eq, 2),
        (libc::SYS_mmap, 2, SeccompCmpOp::MaskedEq(executable), 0),
        (libc::SYS_mprotect, 2, SeccompCmpOp::MaskedEq(executable), 0),
        (libc::SYS_tgkill, 0, SeccompCmpOp::Eq, pid),
    ];
    for (call, argument, operator, value) in limited {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        rules
            .entry(call)
            .or_default()
            .push(SeccompRule::new(vec![condition])?);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}
