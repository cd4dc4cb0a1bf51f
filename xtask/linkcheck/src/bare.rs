//! What the compiler takes for granted where there is no operating system's library: entry, exit,
//! the memory functions, and what to do on a panic.

#[path = "../../../platform-embedded/image/src/x86_64/memory.rs"]
mod memory;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

// The kernel enters with the stack aligned to 16 bytes and no return address on it.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "call {main}",
    "ud2",
    main = sym crate::start,
);

/// Ends the process.
pub fn exit(code: i32) -> ! {
    // SAFETY: exit_group(code) does not return and touches no memory.
    unsafe {
        asm!("syscall", in("rax") 231, in("rdi") code, options(noreturn, nostack));
    }
}

/// The process's standard output.
pub struct Out;

/// write(1, ...): how many bytes the kernel took, or a negative number.
fn write_some(bytes: &[u8]) -> isize {
    let written: isize;
    // SAFETY: write(1, pointer, length) reads that many bytes, which `bytes` has; the system call
    // changes rax, rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") 1_isize => written,
            in("rdi") 1,
            in("rsi") bytes.as_ptr(),
            in("rdx") bytes.len(),
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, readonly),
        );
    }
    written
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        embedded_io::Write::write_all(self, text.as_bytes()).map_err(|_| fmt::Error)
    }
}

impl embedded_io::ErrorType for Out {
    type Error = embedded_io::ErrorKind;
}

/// What a board's serial port is.
impl embedded_io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        match usize::try_from(write_some(bytes)) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(embedded_io::ErrorKind::Other),
        }
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match writeln!(Out, "{info}") {
        Ok(()) => exit(101),
        Err(fmt::Error) => exit(102),
    }
}

/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller promises a zero byte at the end.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}
