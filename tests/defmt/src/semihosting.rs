//! What a program on ARM may ask of the debugger, or emulator, that it runs under; and its `defmt`
//! logger on top of that.

use core::arch::asm;
use core::cell::UnsafeCell;

const SYS_OPEN: usize = 0x01;
const SYS_WRITE: usize = 0x05;
const SYS_EXIT: usize = 0x18;
/// Where standard output is, as a file.
const TERMINAL: &[u8; 4] = b":tt\0";
const MODE_WRITE: usize = 4;
const APPLICATION_EXIT: usize = 0x20026;
const RUN_TIME_ERROR: usize = 0x20023;

fn ask(operation: usize, argument: usize) -> usize {
    let answer;
    // Where the debugger of a Cortex-M listens for `bkpt 0xab`: QEMU's user mode runs these Thumb
    // instructions on a processor of the other profile, and there it is this.
    // SAFETY: this is a call of the debugger, which changes the first register, and what the
    // argument points to if the operation says so: none of ours does.
    unsafe {
        asm!(
            "svc 0xab",
            inlateout("r0") operation => answer,
            in("r1") argument,
            options(nostack),
        );
    }
    answer
}

/// Ends the program.
pub fn exit(is_good: bool) -> ! {
    let reason = match is_good {
        true => APPLICATION_EXIT,
        false => RUN_TIME_ERROR,
    };
    ask(SYS_EXIT, reason);
    loop {
        core::hint::spin_loop();
    }
}

/// A value that one thread uses, and no interrupt: there is nothing else here.
struct Alone<T>(UnsafeCell<T>);

// SAFETY: there is one thread.
unsafe impl<T> Sync for Alone<T> {}

struct Logger {
    file: Option<usize>,
    encoder: defmt::Encoder,
}

static LOGGER: Alone<Logger> = Alone(UnsafeCell::new(Logger {
    file: None,
    encoder: defmt::Encoder::new(),
}));

fn write(bytes: &[u8]) {
    // SAFETY: one thread, and nobody keeps this reference: see `Alone`.
    let file = unsafe { &mut (*LOGGER.0.get()).file };
    let file = *file.get_or_insert_with(|| {
        let name = [TERMINAL.as_ptr() as usize, MODE_WRITE, 3];
        ask(SYS_OPEN, name.as_ptr() as usize)
    });
    let block = [file, bytes.as_ptr() as usize, bytes.len()];
    let left = ask(SYS_WRITE, block.as_ptr() as usize);
    if left != 0 {
        exit(false);
    }
}

#[defmt::global_logger]
struct Global;

// SAFETY: one thread, no interrupts: from `acquire` to `release` nobody else logs.
unsafe impl defmt::Logger for Global {
    fn acquire() {
        // SAFETY: one thread, and nobody keeps this reference: see `Alone`.
        unsafe { (*LOGGER.0.get()).encoder.start_frame(write) }
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: as above.
        unsafe { (*LOGGER.0.get()).encoder.end_frame(write) }
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as above.
        unsafe { (*LOGGER.0.get()).encoder.write(bytes, write) }
    }
}

/// A static value, lent for good. Each place that says this may be come to once.
macro_rules! take {
    ($type:ty = $value:expr) => {{
        static mut VALUE: $type = $value;
        // SAFETY: whoever comes here comes once, and no other place has this static.
        unsafe { &mut *(&raw mut VALUE) }
    }};
}
pub(crate) use take;
