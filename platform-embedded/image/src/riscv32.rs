//! QEMU's `virt` for riscv32, entered without firmware. What a node needs of it: a serial port, a
//! clock, a timer that ends a sleep, and where the virtio devices are.

use core::arch::{asm, global_asm};

use crate::memory::STACK;

/// Where virtio devices may be: the first one's address, how far apart they are, and how many.
pub const VIRTIO: (usize, usize, usize) = (0x1000_1000, 0x1000, 8);
/// What the stack is filled with before it is used: what is still there was never reached.
pub const PAINT: u32 = 0x5ac1_d0d0;

/// Where the image starts.
pub const IMAGE: usize = 0x8000_0000;

const SERIAL: usize = 0x1000_0000;
const FINISHER: usize = 0x10_0000;
const RTC: usize = 0x10_1000;
const TIME_COMPARE: usize = 0x200_4000;
const TIME: usize = 0x200_bff8;
const NANOS_PER_TICK: u64 = 100;
const PLIC: usize = 0xc00_0000;
const PLIC_ENABLE: usize = PLIC + 0x2000;
const PLIC_THRESHOLD: usize = PLIC + 0x20_0000;
const PLIC_CLAIM: usize = PLIC + 0x20_0004;

global_asm!(
    r#"
    .section .text.boot, "ax"
    .globl start
start:
    la sp, stack_top
    la t0, bss_start
    la t1, bss_end
1:  sw zero, 0(t0)
    addi t0, t0, 4
    bltu t0, t1, 1b
    la t0, stack_bottom
    li t1, {paint}
2:  sw t1, 0(t0)
    addi t0, t0, 4
    bltu t0, sp, 2b
    la t0, trap
    csrw mtvec, t0
    call {main}

    .align 4
trap:
    la sp, stack_top
    csrr a0, mcause
    csrr a1, mepc
    call {exception}

    .section .bss.stack, "aw", @nobits
    .align 4
    .globl stack_bottom, stack_top
stack_bottom: .skip {stack}
stack_top:
"#,
    paint = const PAINT,
    stack = const STACK,
    main = sym enter,
    exception = sym exception,
);

unsafe extern "C" {
    static stack_bottom: u32;
    static stack_top: u32;
}

fn write(register: usize, value: u32) {
    // SAFETY: called with the addresses above, which are device registers of this machine.
    unsafe { (register as *mut u32).write_volatile(value) };
}

fn read(register: usize) -> u32 {
    // SAFETY: as in `write`.
    unsafe { (register as *const u32).read_volatile() }
}

/// Called once by the code above.
extern "C" fn enter() -> ! {
    for device in 1..=8 {
        write(PLIC + 4 * device, 1);
    }
    write(PLIC_ENABLE, 0x1fe);
    write(PLIC_THRESHOLD, 0);
    // Timer and external interrupts end a `wfi`; as they stay masked in mstatus, none is taken.
    // SAFETY: no interrupt is taken, so nothing runs at an unexpected moment.
    unsafe { asm!("csrw mie, {}", in(reg) 0x880, options(nomem, nostack)) };
    crate::main()
}

/// Called by the code above for a trap: there are none but exceptions.
extern "C" fn exception(cause: usize, at: usize) -> ! {
    panic!("processor exception {cause} at {at:#x}");
}

fn wide(low: usize) -> u64 {
    loop {
        let (high, value) = (read(low + 4), read(low));
        if read(low + 4) == high {
            return u64::from(high) << 32 | u64::from(value);
        }
    }
}

/// Nanoseconds since the start.
pub fn nanos() -> u64 {
    wide(TIME) * NANOS_PER_TICK
}

/// Milliseconds since 1970, by the machine's clock.
pub fn wall_millis() -> i64 {
    // Reading the low half keeps the high half for the next read.
    let low = read(RTC);
    let nanos = u64::from(read(RTC + 4)) << 32 | u64::from(low);
    (nanos / 1_000_000) as i64
}

/// What no other start has: the time in nanoseconds.
pub fn entropy() -> u64 {
    let low = read(RTC);
    (u64::from(read(RTC + 4)) << 32 | u64::from(low)) ^ wide(TIME).rotate_left(40)
}

/// Writes a byte to the serial port; waits for room.
pub fn put(byte: u8) {
    // SAFETY: these are the port's line status and data registers.
    unsafe {
        while ((SERIAL + 5) as *const u8).read_volatile() & 0x20 == 0 {
            core::hint::spin_loop();
        }
        (SERIAL as *mut u8).write_volatile(byte);
    }
}

/// Sleeps until a device interrupts, or about so many nanoseconds have passed; it may end sooner.
/// What has interrupted since the last call ends it at once.
pub fn sleep(nanos: u64) {
    let at = wide(TIME).saturating_add(nanos / NANOS_PER_TICK);
    // In this order no value in between is in the past.
    write(TIME_COMPARE + 4, u32::MAX);
    write(TIME_COMPARE, at as u32);
    write(TIME_COMPARE + 4, (at >> 32) as u32);
    // SAFETY: it waits, and no interrupt is taken.
    unsafe { asm!("wfi", options(nomem, nostack)) };
}

/// After a device's interrupt was acknowledged: lets the controller pass on the next.
pub fn end_interrupts() {
    loop {
        match read(PLIC_CLAIM) {
            0 => return,
            claimed => write(PLIC_CLAIM, claimed),
        }
    }
}

/// Ends the machine with this exit code of QEMU.
pub fn exit(code: u8) -> ! {
    match code {
        0 => write(FINISHER, 0x5555),
        code => write(FINISHER, 0x3333 | u32::from(code) << 16),
    }
    loop {
        // SAFETY: nothing is left to do.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// The stack, from its end.
pub fn stack() -> (*const u32, *const u32) {
    (&raw const stack_bottom, &raw const stack_top)
}
