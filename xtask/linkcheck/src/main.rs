//! Proves that `core` links and runs where there is nothing: no std, no allocator, no libc. Drives
//! every door through a real workload in static memory, and exits with 0.
#![no_std]
#![no_main]

mod bare;

use core::fmt::Write;

use bare::{Out, exit};
use coracle_core::service::Service;
use coracle_core::service::kv::Kv;

extern "C" fn start() -> ! {
    let kv = Kv::new([0_u8; 1000]);
    let done = writeln!(Out, "linkcheck: {}", kv.digest());
    exit(i32::from(done.is_err()))
}
