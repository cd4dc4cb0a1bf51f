//! Tells the linker where the device's program is loaded, and that defmt's strings are kept.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed={folder}/device.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{folder}/device.ld");
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    }
}
