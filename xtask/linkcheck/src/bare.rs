//! What the compiler takes for granted where there is no operating system's library: entry, exit,
//! the four memory functions, and what to do on a panic.

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

// What the linker asks for in unwinding tables that `panic = "abort"` never uses.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(103)
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller promises `len` readable and writable bytes that do not overlap.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: copying upwards does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the ranges overlap with `to` above: copied downwards from the last byte, with the
    // direction flag set back afterwards as the ABI demands.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack),
        );
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller promises `len` writable bytes.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            in("al") value as u8,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: `at` is below `len`, which the caller promises to be readable in both. Volatile,
        // or the compiler would make this loop a call to itself.
        let (x, y) = unsafe { (a.add(at).read_volatile(), b.add(at).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
        at += 1;
    }
    0
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the same promise.
    unsafe { memcmp(a, b, len) }
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
