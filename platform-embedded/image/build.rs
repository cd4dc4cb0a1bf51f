//! Tells the linker where a machine expects the image, and that there is no library at all.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let script = format!("{folder}/{arch}.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // There the compiler is the linker; on riscv32 the linker is called itself.
    if arch == "x86_64" {
        for flag in ["-nostdlib", "-nostartfiles", "-static", "-no-pie"] {
            println!("cargo:rustc-link-arg-bins={flag}");
        }
    }
}
