//! Links against nothing at all: no libc, no start files, no allocator.

fn main() {
    for flag in ["-nostdlib", "-nostartfiles", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={flag}");
    }
}
