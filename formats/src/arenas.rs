//! The allocator's arenas under a limit on the address space.

/// Lets all threads allocate from one arena if the address space is limited (`ulimit -v`). glibc's allocator otherwise
/// reserves 64 MiB of it for each thread that allocates, written or not, so that what is left for a run depends on chance.
/// Call it before threads start. Nothing happens on systems other than Linux with glibc.
pub fn share_if_limited() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::share_if_limited();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::mem;

    #[allow(unsafe_code, reason = "the standard library does not set options of the allocator")]
    pub(super) fn share_if_limited() {
        // SAFETY: an `rlimit` of zeros is a valid one.
        let mut limit: libc::rlimit = unsafe { mem::zeroed() };
        // SAFETY: `getrlimit` writes one `rlimit`, which `limit` is.
        let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
        if known && limit.rlim_cur != libc::RLIM_INFINITY {
            // SAFETY: `mallopt` takes two numbers and changes only the allocator's own settings, under its lock.
            unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        }
    }
}
