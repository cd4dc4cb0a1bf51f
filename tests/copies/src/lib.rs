//! Preloaded into a process (`LD_PRELOAD`), it stands before the C library's `memcpy`, `memmove`
//! and the calls that move bytes into and out of the kernel, and counts in a file that the process
//! shares with whoever started it: calls, bytes, and how many of these bytes are *marked*: lie in
//! a run of at least [`RUN`] bytes [`MARK`], of which the load's messages consist. So a copy of
//! payload is told from everything else that is copied, however the process batches its work.
//!
//! Copies are counted for each place that calls, so that one too many has a name. What is not seen:
//! copies of a length known to the compiler, which it writes as loads and stores. Payload has no
//! such length anywhere.

// Loops of this file are to stay loops: as calls to `memcpy` they would call themselves.
#![no_builtins]

mod calls;
mod table;

use std::arch::{asm, naked_asm};

use table::Table;

/// The byte of which marked messages consist.
pub const MARK: u8 = 0xA5;
/// Fewer of them in a row may be anything.
pub const RUN: usize = 8;

/// `memcpy(3)`, with the address that it returns to as a fourth argument of [`copy_from`].
///
/// # Safety
/// As of `memcpy(3)`.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!("mov rcx, qword ptr [rsp]", "jmp {}", sym copy_from)
}

/// `memmove(3)`, in the same way.
///
/// # Safety
/// As of `memmove(3)`.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!("mov rcx, qword ptr [rsp]", "jmp {}", sym copy_from)
}

/// # Safety
/// As of `memmove(3)`.
unsafe extern "C" fn copy_from(to: *mut u8, from: *const u8, len: usize, caller: usize) -> *mut u8 {
    if let Some(table) = Table::get() {
        // SAFETY: the caller lends `len` bytes at `from`.
        table.copied(caller, len, unsafe { marked(from, len) });
    }
    // SAFETY: the caller's promise. Where the target begins inside of the source, from the end on.
    unsafe {
        if (to as usize).wrapping_sub(from as usize) >= len {
            asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        } else {
            for at in (0..len).rev() {
                to.add(at).write(from.add(at).read());
            }
        }
    }
    to
}

/// How many of `len` bytes are marked.
///
/// # Safety
/// `len` bytes at `from` can be read.
unsafe fn marked(from: *const u8, len: usize) -> usize {
    let (mut marked, mut run) = (0, 0);
    for at in 0..len {
        // SAFETY: below `len`.
        if unsafe { from.add(at).read() } == MARK {
            run += 1;
            continue;
        }
        marked += if run >= RUN { run } else { 0 };
        run = 0;
    }
    marked + if run >= RUN { run } else { 0 }
}
