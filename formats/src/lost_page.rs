//! SIGBUS as the event that it is: a page of a mapped file cannot be read, because another process has cut the file short or
//! its disk has failed.

#[cfg(target_os = "linux")]
pub use linux::watch;

/// Calls `handle` on a thread of its own when a page of a mapped file cannot be read; the thread that wanted to read it
/// waits. Systems other than Linux end the process instead, as they do without this call.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn watch(_handle: fn() -> !) -> std::io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::{self, PipeWriter, Read as _},
        mem,
        os::fd::AsRawFd as _,
        ptr,
        sync::{
            OnceLock,
            atomic::{AtomicI32, Ordering},
        },
        thread,
    };

    /// The end of a pipe that wakes the watching thread, and its number for the signal handler.
    static WAKE: OnceLock<PipeWriter> = OnceLock::new();
    static WAKE_FD: AtomicI32 = AtomicI32::new(-1);

    /// Calls `handle` on a thread of its own when a page of a mapped file cannot be read; the thread that wanted to read it
    /// waits. A second call changes nothing.
    ///
    /// # Errors
    /// When the system refuses a pipe, a thread or the signal's handler.
    pub fn watch(handle: fn() -> !) -> io::Result<()> {
        let (mut woken, wake) = io::pipe()?;
        let fd = wake.as_raw_fd();
        if WAKE.set(wake).is_err() {
            return Ok(());
        }
        WAKE_FD.store(fd, Ordering::SeqCst);
        let listen = move || {
            if woken.read_exact(&mut [0]).is_ok() {
                handle();
            }
        };
        thread::Builder::new().name("sdq pages".to_owned()).spawn(listen)?;
        install()
    }

    #[allow(unsafe_code, reason = "the standard library installs no signal handlers")]
    fn install() -> io::Result<()> {
        // SAFETY: a `sigaction` of zeros is a valid one without flags and with an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_lost_page as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_ONSTACK;
        // SAFETY: `action` is a complete `sigaction` whose handler has the signature that goes without SA_SIGINFO and calls
        // only functions that may be called in a handler.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Wakes the watching thread and waits for the end of the process: to return would be to read the page again.
    #[allow(unsafe_code, reason = "what a signal handler may call are the system's functions")]
    extern "C" fn on_lost_page(_signal: libc::c_int) {
        let fd = WAKE_FD.load(Ordering::SeqCst);
        // SAFETY: `write` may be called in a signal handler (POSIX.1-2017, 2.4.3), and reads one byte of a static.
        unsafe { libc::write(fd, b"!".as_ptr().cast(), 1) };
        loop {
            // SAFETY: `pause` may be called in a signal handler and takes nothing.
            unsafe { libc::pause() };
        }
    }
}
